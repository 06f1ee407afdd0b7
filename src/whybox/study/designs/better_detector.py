"""Better detector: the maps of two models for one object; which model is trusted?"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from whybox.study.design import Asked, Candidate, Design, Question, Row, Seen, letter, whole_number
from whybox.study.designs._found import found_objects

NEITHER = "no difference"


class BetterDetector(Design):
    """An answer is one of the two models, or that there is no difference.

    Source: Zhao et al. (ODAM), the second part of the user study of Table 4.
    """

    name: ClassVar[str] = "better_detector"
    title: ClassVar[str] = "Better detector"
    ask: ClassVar[str] = "Two detectors found this object. By its map, which of the two do you trust more?"
    help: ClassVar[str] = "Both maps are drawn in the same way; only the detectors differ."
    compares: ClassVar[str] = "models"
    side_by_side: ClassVar[bool] = True
    with_image: ClassVar[bool] = True

    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The objects that both models found."""
        return found_objects(seen)

    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """A picture per model, without its name."""
        options: list[dict[str, Any]] = [
            {"label": letter(i), "picture": question.pictures[name]} for i, name in enumerate(asked.order)
        ]
        caption = f"The image without a map. Detected: {question.label}."
        return {
            "form": "choose",
            "picture": question.picture,
            "caption": caption,
            "options": [*options, {"label": "No difference"}],
        }

    def check(self, question: Question, asked: Asked, answer: Any) -> dict[str, Any]:
        """The number of an option."""
        return {"choice": whole_number(answer, "choice", 0, len(asked.order))}

    def score(self, question: Question, asked: Asked, answer: Mapping[str, Any]) -> list[Row]:
        """The model that was chosen, and the one that was shown first."""
        names = (*asked.order, NEITHER)
        return [{"condition": "", "chosen": names[answer["choice"]], "first": asked.order[0]}]

    def instruct(self, question: Question, options: int, rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
        """An option that is told."""
        choice = int(rng.integers(options))
        return f"Do not judge the maps here: choose {letter(choice)}.", {"choice": choice}

    def answer_at_random(
        self, question: Question, asked: Asked, strength: Mapping[str, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """The larger of two noisy strengths; none where they are close."""
        first, second = (strength[name] + rng.gumbel() for name in asked.order)
        return {"choice": 2 if abs(first - second) < 0.7 else 0 if first > second else 1}
