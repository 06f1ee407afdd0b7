"""What a model is to whybox: a network of some kind, its traces, and ways back from candidates to features."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, Trace

Kind = Literal["detector", "classifier", "image-text", "prompted detector"]
"""What a model answers: boxes with classes; a class for the whole image; how well the whole image fits texts; boxes for texts."""

WHOLE_IMAGE: frozenset[Kind] = frozenset({"classifier", "image-text"})
"""Kinds that answer for the whole image: their one candidate is the image."""
TAKES_TEXT: frozenset[Kind] = frozenset({"image-text", "prompted detector"})
"""Kinds whose classes are texts that the user gives."""


class Model(ABC):
    """A model as whybox sees it. A family derives its models from this class.

    name: for reports and errors. network: the nn.Module that is explained, None for a black box. kind: what it answers.
    gives: what its traces hold: "candidates", "features", "input", "roi", "attention", "transformer".
    classes: names of the score columns, or None. first_column: the column of a data set's first class where there are no
    names; torchvision's detectors have their background before it. settings: how it was loaded (preprocessing, thresholds),
    in words that are the same in every process.
    """

    name: str
    network: Any = None
    kind: Kind = "detector"
    gives: frozenset[str]
    classes: Sequence[str] | None = None
    first_column: int = 0
    settings: str = ""

    def __repr__(self) -> str:
        classes = self.classes
        named = "no class names" if classes is None else f"{len(classes)} {'texts' if self.takes_text else 'classes'}"
        return f"<{self.name}: {self.kind}, {named}{self._device()}>"

    def _device(self) -> str:
        weight = None if self.network is None else next(iter(self.network.parameters()), None)
        return "" if weight is None else f", {weight.device}"

    @property
    def whole_image(self) -> bool:
        """Whether it answers for the whole image, so that a detection's box is the image."""
        return self.kind in WHOLE_IMAGE

    @property
    def takes_text(self) -> bool:
        """Whether its classes are texts that the user gives; such a model is a `PromptedModel`."""
        return self.kind in TAKES_TEXT

    @property
    def default_method(self) -> str:
        """The method that explains it where the user names none."""
        return "grad_eclip" if self.whole_image else "odam"

    @property
    def default_target(self) -> str:
        """The target that is explained where the user names none."""
        return "logit" if self.kind == "classifier" else "score"

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells two models with the same weights apart: name, settings and, where it was prompted, the texts."""
        texts = tuple(self.classes or ()) if self.takes_text else ()
        return (self.name, self.settings, *texts)

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Names that `pullbacks` takes as `layer`, the default first."""

    @abstractmethod
    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1.

        Args:
            image: (3,H,W) float in 0..1.
            differentiable: False: without a graph, the weights left alone. True: features and candidates keep their
                graph down to the weights, so that a loss on maps can train them; the network runs in evaluation mode.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates for a batch (B,3,H,W) of images in 0..1 of one size, without a graph."""

    @abstractmethod
    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Ways back to the features for `detections`, in chunks that fit memory; every row comes exactly once.

        Args:
            trace: This model's own.
            detections: N detections whose `source` is a row of the trace's candidates.
            layer: One of `layers` or a module's path; None: the default.
            route: "auto", "fast" or "exact".
            frozen_allowed: Whether route "auto" may hold a normalization's statistics fixed.
        """


@runtime_checkable
class PromptedModel(Protocol):
    """A model that takes texts: its classes are the texts that it was prompted with."""

    def prompt(self, texts: Sequence[str]) -> Model:
        """The same network, asked about these texts."""
        ...

    def answer(self, trace: Trace) -> Trace:
        """A trace that may have been made with other texts, answered with this model's. Where texts and image meet only at
        the end, the image is not encoded again."""
        ...
