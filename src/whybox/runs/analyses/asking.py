"""What an analysis asks of a model: an image with texts, and what is made of their maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from whybox import api
from whybox.explanation import Explanation
from whybox.model import Model
from whybox.report.analysis import Measure

CUT = "cut"
"""Observed of a text that is asked whole: 1 where it is longer than the model's context, and nothing else is made of it."""


class Observation(NamedTuple):
    """One value of a measure, and what chance gives there; NaN where either is not defined. item: what it is about, a word."""

    measure: str
    value: float
    chance: float = float("nan")
    item: str = ""


@dataclass(frozen=True)
class Answers:
    """What one method says of one image, text by text."""

    explanation: Explanation

    def _row(self, text: str) -> int:
        return self.explanation.names.index(text)

    @cached_property
    def _at_image(self) -> Tensor:
        return self.explanation.maps.at_image().detach().cpu()

    @cached_property
    def seen(self) -> Tensor:
        """(H,W) bool: the pixels that the model saw; the others were cut off."""
        frame = self.explanation.maps.frame
        return frame.maps_to_image(torch.ones((1, *frame.network)))[0] > 0.5

    def pixels(self, text: str) -> Tensor:
        """The map (H,W) on the image's pixels."""
        return self._at_image[self._row(text)]

    def cells(self, text: str) -> Tensor:
        """The map (h,w) on its own grid."""
        return self.explanation.maps.native[self._row(text)].detach().cpu()

    def score(self, text: str) -> float:
        """The cosine of text and image."""
        return float(self.explanation.detections.scores[self._row(text)])

    def peak(self, text: str) -> float:
        """The largest raw value of the map."""
        return self.explanation.peak[self._row(text)]

    def is_cut(self, text: str) -> bool:
        """Whether the text was longer than the model's context."""
        return bool(self.explanation.texts[self._row(text)].cut)

    def words(self, text: str) -> tuple[tuple[str, float], ...]:
        """The text's words, each with its weight; nothing where the method has no maps of words."""
        return self.explanation.words[self._row(text)] if self.explanation.token_maps is not None else ()


@dataclass(frozen=True)
class Question:
    """An image, the texts that it is asked for, and what is observed in their maps. shown: the texts of an example on the page,
    under the title. words: whether the weights of the words are observed."""

    image: Image.Image
    texts: Sequence[str]
    observe: Callable[[Answers], Iterable[Observation]]
    title: str
    shown: Sequence[str]
    words: bool = False


@dataclass(frozen=True)
class Study:
    """One analysis. lead: what is asked. remark: what a reader of the numbers must know. questions: how many images, and a
    seed -> questions, the same for the same seed. needs_words: of the method, maps of words."""

    title: str
    lead: str
    remark: str
    measures: Sequence[Measure]
    questions: Callable[[int, int], Iterator[Question]]
    needs_words: bool = False


def ask(model: Model, question: Question, methods: Sequence[Any]) -> list[Answers]:
    """The answers of every method to a question; the image passes through the model once."""
    texts = list(dict.fromkeys(question.texts))
    prompted: Model = model.prompt(texts)  # type: ignore[attr-defined]
    passed = api.trace(prompted, question.image)
    drawn = [question.words and api.draws_words(method, prompted) for method in methods]
    return [
        Answers(api.explain(prompted, passed, method=method, top=len(texts), words=words))
        for method, words in zip(methods, drawn, strict=True)
    ]
