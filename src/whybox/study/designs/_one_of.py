"""What discrimination and forward simulation share: one of several choices, and how sure the person is."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from whybox.study.design import CONFIDENCES, Asked, Candidate, Design, Question, Row, Seen, whole_number


class OneOf(Design):
    """An answer is a choice, right or wrong, with a confidence from 1 to 5."""

    confident: ClassVar[bool] = True

    @abstractmethod
    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """As of `Design`."""

    @abstractmethod
    def label(self, question: Question, place: int) -> str:
        """The words of a choice.

        Args:
            question: The question.
            place: The choice's index.

        Returns:
            A few words.
        """

    def check(self, question: Question, asked: Asked, answer: Any) -> dict[str, Any]:
        """The number of a choice, and a confidence."""
        choice = whole_number(answer, "choice", 0, len(question.choices) - 1)
        return {"choice": choice, "confidence": whole_number(answer, "confidence", 1, CONFIDENCES)}

    def score(self, question: Question, asked: Asked, answer: Mapping[str, Any]) -> list[Row]:
        """Whether the choice is right, the confidence, and the chance of a guess."""
        chosen, right = answer["choice"], question.right
        words = {"chosen": self.label(question, chosen), "right": self.label(question, right)}
        numbers = {"correct": int(chosen == right), "confidence": answer["confidence"], "chance": 1 / len(question.choices)}
        return [{"condition": asked.condition, **words, **numbers}]

    def instruct(self, question: Question, options: int, rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
        """A choice and a confidence that are told."""
        choice, confidence = int(rng.integers(options)), int(rng.integers(1, CONFIDENCES + 1))
        words = f"choose {self.label(question, choice)}, and {confidence} for how sure you are"
        return f"Do not look at the picture here: {words}.", {"choice": choice, "confidence": confidence}

    def answer_at_random(
        self, question: Question, asked: Asked, strength: Mapping[str, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Right with a chance that grows with the condition's strength, and surer where it is strong."""
        noisy = rng.gumbel(size=len(question.choices))
        noisy[question.right] += strength[asked.condition]
        sure = 1 + round(strength[asked.condition] + float(rng.normal(0.5, 0.8)))
        return {"choice": int(noisy.argmax()), "confidence": min(max(sure, 1), CONFIDENCES)}
