"""Deletion and insertion curves of words: the cosine of text and image while words are removed from or added to the text."""

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
    """The texts of the first 1, 2 ... W words by rank, each in the text's own order.

    Args:
        words: The W words of a text.
        ranks: (W,), 0 for the first word.

    Returns:
        W texts, the last one whole.
    """
    order = ranks.tolist()
    return [" ".join(word for word, rank in zip(words, order, strict=True) if rank < count) for count in range(1, len(words) + 1)]


@dataclass(frozen=True)
class WordCurves(Metric):
    """The common part of text deletion and text insertion.

    Attributes:
        points: Number of points of the stored curves, which are resampled so that texts of different length can be averaged;
            the area is that of the text's own W points, one per word.
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
        """The label of a curve's x axis."""
        return "words removed, of all but one" if self.removes else "words added to the first"

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under each text's curve.

        Args:
            maps: (N,H,W) of the image, ignored.
            inputs: The words' values, and the cosines of other texts with the image.

        Returns:
            The areas (N,) and the curves (N,points); NaN for a text of one word and for words without finite values.

        Raises:
            WhyboxError: `inputs` lack words or cosines.
        """
        at = torch.linspace(0, 1, self.points, device=maps.device)
        areas, curves = at.new_full((len(inputs),), torch.nan), at.new_full((len(inputs), self.points), torch.nan)
        for i in range(len(inputs)):
            scores = self._follow(inputs, i)
            if scores is not None:
                areas[i], curves[i] = _area(scores.to(at)), _resample(scores.to(at), at)
        return MetricResult(areas, curves, at)

    @torch.no_grad()
    def _follow(self, inputs: MetricInput, index: int) -> Tensor | None:
        """The cosines (W,) from the whole text to one word, or from one word to the whole text."""
        if inputs.words is None or inputs.score_texts is None:
            raise WhyboxError(f"{self.name} scores changed texts: the MetricInput needs `words` and `score_texts`")
        values, words = inputs.words.word_values(index).cpu(), inputs.words.texts[index].words
        if len(words) < 2 or not values.isfinite().all():
            return None
        ranks = rank_pixels(values, inputs.generator(index))
        if not self.removes:
            return inputs.score_texts(shorter_texts(words, ranks))
        # Removing the highest first leaves the lowest: the texts of the reversed ranks, from the whole one on.
        return inputs.score_texts(shorter_texts(words, len(words) - 1 - ranks)).flip(0)


def _area(scores: Tensor) -> Tensor:
    """The area under W scores at equal steps from 0 to 1, by trapezoids."""
    # The steps are equal and together 1 wide: the mean of the trapezoids is their area.
    return (scores[1:] + scores[:-1]).mean() / 2


def _resample(scores: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of W scores at equal steps from 0 to 1 at the points `at`."""
    place = at * (len(scores) - 1)
    # The last point is the end of the last step, not the start of another.
    left = place.floor().long().clamp(max=len(scores) - 2)
    return torch.lerp(scores[left], scores[left + 1], place - left)
