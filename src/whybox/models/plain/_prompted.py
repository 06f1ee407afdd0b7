"""Detectors of any origin that read text: two or three small functions of the user's say how."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import GroundingModel, Text
from whybox.errors import WhyboxError
from whybox.models._layers import same_rows
from whybox.models._token_values import token_leaf, token_values
from whybox.models.plain._detector import Plain
from whybox.models.plain._fields import read_candidates
from whybox.network_state import exclusive
from whybox.ops.gradients import gradients_on
from whybox.ops.hooks import frozen, map_tensors, submodule
from whybox.types import Candidates, Detections, Target, Trace

Ask = Callable[[list[str]], Mapping[str, Any]]
"""K texts -> the keyword arguments that the network's forward gets beside one image."""
ReadForTexts = Callable[[Any, list[str]], Any]
"""The network's output for a batch of one image, and the K texts -> as ReadOutput; the scores are (M,K)."""
Tokens = Callable[[list[str]], Sequence[Sequence[tuple[int, int, int]]]]
"""K texts -> for each its tokens: (position in the embeddings, start and end of its characters in the text)."""


@dataclass(frozen=True)
class _ReadTexts:
    """Reads the network's output for these texts."""

    candidates: ReadForTexts
    texts: list[str]

    def __call__(self, output: Any) -> Any:
        return self.candidates(output, self.texts)


@dataclass(frozen=True)
class _Answer:
    """The texts that a pass was made with, and what it kept."""

    texts: tuple[str, ...]
    kept: Any


class PromptedPlain(Plain):
    """A detector of any origin that reads text: its classes are the texts.

    module: its forward takes a tensor (1,3,h,w), and what `texts` gives. candidates, texts: see ReadForTexts and Ask. The other
    options are those of Plain, without `classes`.
    """

    kind = "prompted detector"

    def __init__(
        self, module: nn.Module, candidates: ReadForTexts, features: Sequence[str], *, texts: Ask, **options: Any
    ) -> None:
        if options.get("classes") is not None:
            raise WhyboxError("the texts are the classes: leave classes out, and give text when the image is explained")
        _check_takes_texts(candidates)
        super().__init__(module, _ReadTexts(candidates, []), features, **options)
        self._candidates_for, self._ask_with = candidates, texts
        self._given: Mapping[str, Any] = {}

    def prompt(self, texts: Sequence[str]) -> "PromptedPlain":
        """The same network with these texts as its classes.

        Raises:
            WhyboxError: A text is empty, or `texts` of whybox.load returned no arguments by name.
        """
        listed = list(texts)
        if empty := [text for text in listed if not text.strip()]:
            raise WhyboxError(f"a text is empty ({empty[0]!r}): write what to look for")
        given = self._ask_with(listed)
        if not isinstance(given, Mapping):
            raise WhyboxError(f"texts() must return the network's arguments by name, a dictionary, got {type(given).__name__}")
        prompted = copy(self)
        prompted.classes, prompted._given = listed, given
        prompted.read = _ReadTexts(self._candidates_for, listed)
        return prompted

    def answer(self, trace: Trace) -> Trace:
        """A trace with this model's texts: itself where it was made with these, else a new pass, because the network reads image
        and texts together."""
        if isinstance(trace.state, _Answer) and trace.state.texts == tuple(self.classes or ()):
            return trace
        return self.trace(trace.image, differentiable=trace.differentiable)

    def _traced(self, image: Tensor, differentiable: bool) -> Trace:
        if not self.classes:
            raise WhyboxError(f"{self.name} finds boxes for texts: say which, text='a red ball' or a list of texts")
        result = super()._traced(image, differentiable)
        return replace(result, state=_Answer(tuple(self.classes), result.state))

    def _kept(self, trace: Trace) -> Any:
        self._check_texts(trace)
        return trace.state.kept if isinstance(trace.state, _Answer) else trace.state

    def _check_texts(self, trace: Trace) -> None:
        """Refuse a trace of other texts, whose candidates have other columns."""
        if isinstance(trace.state, _Answer) and trace.state.texts != tuple(self.classes or ()):
            raise WhyboxError(f"this trace of {self.name} was made with other texts: explain the image, or model.answer(trace)")

    def _call(self, canvas: Tensor) -> Any:
        return self.network(canvas, **map_tensors(dict(self._given), lambda tensor: tensor.to(canvas.device)))

    def _outputs(self, canvases: Tensor) -> list[Any]:
        """One by one: what the texts became is for one image."""
        return [self._call(canvas[None]) for canvas in canvases]


class GroundedPlain(PromptedPlain, GroundingModel):
    """One that can say which tokens of its texts made a box.

    tokens: see Tokens. embeddings: the path of the module whose first output in a pass, (1,L,C), enters the text encoder's first
    layer.
    """

    def __init__(self, *args: Any, tokens: Tokens, embeddings: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokens_of, self._embeddings = tokens, embeddings
        submodule(self.network, embeddings)
        self.texts: tuple[Text, ...] = ()
        self._places: tuple[tuple[int, Tensor], ...] = ()

    def prompt(self, texts: Sequence[str]) -> "GroundedPlain":
        """As PromptedPlain's, with the tokens of the texts."""
        prompted = super().prompt(texts)
        assert isinstance(prompted, GroundedPlain)  # a copy of this model
        found = self._tokens_of(list(texts))
        if len(found) != len(texts):
            raise WhyboxError(f"tokens() must return the tokens of every text, got {len(found)} for {len(texts)} texts")
        prompted.texts = tuple(_text(text, tokens) for text, tokens in zip(texts, found, strict=True))
        prompted._places = tuple((0, torch.tensor([place for place, _, _ in tokens], dtype=torch.long)) for tokens in found)
        return prompted

    def token_values(self, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[tuple[Tensor, ...]]:
        """Gradient x input at the token embeddings, summed over the channels."""
        self._check_texts(trace)
        with exclusive(self.network), frozen(self.network), gradients_on():
            with token_leaf(submodule(self.network, self._embeddings)) as leaves:
                live = self._live(trace)
            if not leaves:
                raise WhyboxError(f"embeddings={self._embeddings!r}: this module did not run")
            rows = same_rows(live, trace.candidates, detections.source)
            narrowed = trace.rows(live[rows.clone()], detections)
            places = [self._places[label] for label in detections.labels.tolist()]
            return [token_values(target(narrowed), leaves[0], places) for target in targets]

    def _live(self, trace: Trace) -> Candidates:
        """The candidates of the trace's image, with a graph down to the token embeddings."""
        output = self._call(self._input(trace.image, trace.frame)[None])
        return read_candidates(self.read(output), trace.frame, len(trace.features))


def make_prompted(module: nn.Module, candidates: Any, features: Sequence[str], **options: Any) -> PromptedPlain:
    """A PromptedPlain, or a GroundedPlain where its options are there."""
    words = {"tokens", "embeddings"} & options.keys()
    if len(words) == 1:
        raise WhyboxError("the words of texts need both: tokens=, where their tokens are, and embeddings=, a module's path")
    return (GroundedPlain if words else PromptedPlain)(module, candidates, features, **options)


def _text(text: str, tokens: Sequence[tuple[int, int, int]]) -> Text:
    spans = tuple((start, end) for _, start, end in tokens)
    return Text(text, tuple(text[start:end] for start, end in spans), spans)


def _check_takes_texts(candidates: Any) -> None:
    try:
        inspect.signature(candidates).bind(None, [])
    except TypeError:
        raise WhyboxError("with texts=, candidates takes two arguments: the network's output, and the list of texts") from None
