"""Trust ranking: the maps of several methods for one detection, in random order, are ranked by trust."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from whybox.errors import WhyboxError
from whybox.study.design import Asked, Candidate, Design, Question, Row, Seen, letter
from whybox.study.designs._found import found_objects


class TrustRanking(Design):
    """An answer is a rank for each map, 1 for the most trusted one, without ties.

    Source: Zhao et al. (ODAM), the user study of Table 4: ranks of four methods' maps.
    """

    name: ClassVar[str] = "trust_ranking"
    title: ClassVar[str] = "Trust ranking"
    ask: ClassVar[str] = "Which map explains the detection best? Rank the maps by how much you trust them."
    help: ClassVar[str] = "1 is the map that you trust most. Give every rank once; on a keyboard, the number keys give ranks."
    side_by_side: ClassVar[bool] = True
    with_image: ClassVar[bool] = True

    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The objects that the model found."""
        return found_objects(seen)

    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """A picture per method, without its name."""
        options = [{"label": letter(i), "picture": question.pictures[name]} for i, name in enumerate(asked.order)]
        caption = f"The image without a map. Detected: {question.label}."
        return {"form": "rank", "picture": question.picture, "caption": caption, "options": options}

    def check(self, question: Question, asked: Asked, answer: Any) -> dict[str, Any]:
        """A permutation of the ranks from 1 on."""
        ranks = answer.get("ranks") if isinstance(answer, Mapping) else None
        count = len(asked.order)
        whole = isinstance(ranks, list) and all(type(rank) is int for rank in ranks)
        if not whole or sorted(ranks or []) != list(range(1, count + 1)):
            raise WhyboxError(f"ranks must be the numbers 1 to {count}, each once")
        return {"ranks": ranks}

    def score(self, question: Question, asked: Asked, answer: Mapping[str, Any]) -> list[Row]:
        """A row per method, with its rank."""
        return [{"condition": name, "rank": rank} for name, rank in zip(asked.order, answer["ranks"], strict=True)]

    def instruct(self, question: Question, options: int, rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
        """Ranks that are told."""
        ranks = [int(rank) + 1 for rank in rng.permutation(options)]
        told = ", ".join(f"{letter(i)} the rank {rank}" for i, rank in enumerate(ranks))
        return f"Do not judge the maps here: give {told}.", {"ranks": ranks}

    def answer_at_random(
        self, question: Question, asked: Asked, strength: Mapping[str, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Ranks of noisy strengths: the Plackett-Luce model, as sorted Gumbel variables."""
        noisy = np.array([strength[name] for name in asked.order]) + rng.gumbel(size=len(asked.order))
        return {"ranks": [int(rank) + 1 for rank in (-noisy).argsort().argsort()]}
