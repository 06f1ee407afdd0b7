"""The parts of an analysis: questions (an image with texts), the answers of a method, and the values observed in them."""

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
"""The measure of truncation: 1 for a text that is longer than the model's context, of which nothing else is observed."""


class Observation(NamedTuple):
    """One value of a measure.

    Attributes:
        measure: The measure's key.
        value: The value; NaN where it is not defined.
        chance: The value expected by chance; NaN where it is not defined.
        item: The word or text that the value is about.
    """

    measure: str
    value: float
    chance: float = float("nan")
    item: str = ""


@dataclass(frozen=True)
class Answers:
    """One method's maps of one image for several texts.

    Attributes:
        explanation: The explanation, with one detection per text.
    """

    explanation: Explanation

    def _row(self, text: str) -> int:
        return self.explanation.names.index(text)

    @cached_property
    def _at_image(self) -> Tensor:
        return self.explanation.maps.at_image().detach().cpu()

    @cached_property
    def seen(self) -> Tensor:
        """The pixels (H,W) bool that the model saw; its preprocessing cropped the others."""
        frame = self.explanation.maps.frame
        # Resizing blurs the border of a crop: a pixel that is half inside counts as seen.
        return frame.maps_to_image(torch.ones((1, *frame.network)))[0] > 0.5

    def pixels(self, text: str) -> Tensor:
        """The map of a text.

        Args:
            text: One of the texts.

        Returns:
            (H,W), on the image's pixels.
        """
        return self._at_image[self._row(text)]

    def cells(self, text: str) -> Tensor:
        """The map of a text.

        Args:
            text: One of the texts.

        Returns:
            (h,w), on the layer's grid.
        """
        return self.explanation.maps.native[self._row(text)].detach().cpu()

    def score(self, text: str) -> float:
        """The cosine of a text and the image.

        Args:
            text: One of the texts.

        Returns:
            -1 to 1.
        """
        return float(self.explanation.detections.scores[self._row(text)])

    def peak(self, text: str) -> float:
        """The largest value of a text's map, before scaling.

        Args:
            text: One of the texts.

        Returns:
            The value, in the method's unit.
        """
        return self.explanation.peak[self._row(text)]

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than the model's context, and was truncated.

        Args:
            text: One of the texts.

        Returns:
            True for a truncated text.
        """
        return bool(self.explanation.texts[self._row(text)].cut)

    def words(self, text: str) -> tuple[tuple[str, float], ...]:
        """The words of a text with their weights.

        Args:
            text: One of the texts.

        Returns:
            (word, weight) pairs; () if the method has no maps of words.
        """
        return self.explanation.words[self._row(text)] if self.explanation.token_maps is not None else ()


@dataclass(frozen=True)
class Question:
    """An image, the texts that it is explained for, and the values observed in their maps.

    Attributes:
        image: The image.
        texts: The texts; repeated ones count once.
        observe: Makes observations of a method's answers.
        title: The title of the example on the page.
        shown: The texts whose maps the example shows.
        words: Whether the weights of words are observed.
    """

    image: Image.Image
    texts: Sequence[str]
    observe: Callable[[Answers], Iterable[Observation]]
    title: str
    shown: Sequence[str]
    words: bool = False


@dataclass(frozen=True)
class Study:
    """One analysis.

    Attributes:
        title: The title of its page.
        lead: What is asked.
        remark: What a reader of the numbers must know.
        measures: Its measures, in the table's order.
        questions: (number of images, seed) -> questions, the same for the same seed.
        needs_words: Whether it needs methods with maps of words.
    """

    title: str
    lead: str
    remark: str
    measures: Sequence[Measure]
    questions: Callable[[int, int], Iterator[Question]]
    needs_words: bool = False


def ask(model: Model, question: Question, methods: Sequence[Any]) -> list[Answers]:
    """Explain an image for the texts of a question, with one forward pass of the image.

    Args:
        model: An image-text model.
        question: The image and its texts.
        methods: The methods.

    Returns:
        The answers of each method.
    """
    # Without repetition, so that a text has one row in the maps.
    texts = list(dict.fromkeys(question.texts))
    prompted: Model = model.prompt(texts)  # type: ignore[attr-defined]
    trace = api.trace(prompted, question.image)
    draws_words = [question.words and api.draws_words(method, prompted) for method in methods]
    return [
        # `top`, because by default only 100 detections are explained.
        Answers(api.explain(prompted, trace, method=method, top=len(texts), words=words))
        for method, words in zip(methods, draws_words, strict=True)
    ]
