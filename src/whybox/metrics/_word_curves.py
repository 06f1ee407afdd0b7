"""Deletion and insertion of words: the match of a text with the image while words are taken from it, or come to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.perturb import rank_pixels
from whybox.truth import Metric, MetricInput, MetricResult

Scores = Callable[[Sequence[str]], Tensor]


def shorter_texts(words: Sequence[str], ranks: Tensor) -> list[str]:
    """The text of the words of rank 0, of the ranks 0 and 1, and so on to the whole text, each in the text's own order.

    words: W. ranks (W,), 0 for the first that comes.
    """
    order = ranks.tolist()
    return [" ".join(word for word, rank in zip(words, order, strict=True) if rank < count) for count in range(1, len(words) + 1)]


@dataclass(frozen=True)
class WordCurves(Metric):
    """What text deletion and text insertion share.

    points: of the curve as it is kept; the area is that of the text's own W points, one for every word.
    """

    points: int = 11

    name: ClassVar[str]
    removes: ClassVar[bool]
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"words"})

    def __post_init__(self) -> None:
        if self.points < 2:
            raise WhyboxError(f"points must be at least 2, got {self.points}")

    @property
    def across(self) -> str:
        """What runs along a curve's x axis."""
        return "words removed, of all but one" if self.removes else "words added to the first"

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under the curve of every text, and the curves (N,points). The maps (N,H,W) of the image are not looked at.
        NaN for a text of one word, from which nothing can be taken, and where words have no finite values."""
        at = torch.linspace(0, 1, self.points, device=maps.device)
        areas, curves = at.new_full((len(inputs),), torch.nan), at.new_full((len(inputs), self.points), torch.nan)
        for i in range(len(inputs)):
            scores = self._follow(inputs, i)
            if scores is not None:
                areas[i], curves[i] = _area(scores.to(at)), _resample(scores.to(at), at)
        return MetricResult(areas, curves, at)

    @torch.no_grad()
    def _follow(self, inputs: MetricInput, index: int) -> Tensor | None:
        """The scores (W,) of a text's ways from whole to one word, or from one word to whole."""
        if inputs.words is None or inputs.score_texts is None:
            raise WhyboxError(f"{self.name} looks at changed texts: the MetricInput needs `words` and `score_texts`")
        values, words = inputs.words.word_values(index).cpu(), inputs.words.texts[index].words
        if len(words) < 2 or not values.isfinite().all():
            return None
        ranks = rank_pixels(values, inputs.generator(index))
        if not self.removes:
            return inputs.score_texts(shorter_texts(words, ranks))
        # Taking the first away leaves the last: the shorter texts of the reversed ranks, from the whole one down.
        return inputs.score_texts(shorter_texts(words, len(words) - 1 - ranks)).flip(0)


def _area(scores: Tensor) -> Tensor:
    """The area under W scores at equal steps from 0 to 1, by trapezoids."""
    return (scores[1:] + scores[:-1]).mean() / 2


def _resample(scores: Tensor, at: Tensor) -> Tensor:
    """The line through W scores at equal steps from 0 to 1, read at the points `at`."""
    place = at * (len(scores) - 1)
    left = place.floor().long().clamp(max=len(scores) - 2)
    return torch.lerp(scores[left], scores[left + 1], place - left)
