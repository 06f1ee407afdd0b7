"""The interface of a model: its kind, its traces, and pullbacks from candidates to features."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable
from weakref import ref

from torch import Tensor

from whybox.class_checks import check_attributes, check_known
from whybox.errors import WhyboxError
from whybox.network_state import exclusive, fingerprint
from whybox.pullback import Pullback
from whybox.trace_checks import check_answers, check_class_names, check_pullbacks, check_trace
from whybox.types import Candidates, Detections, Trace

Kind = Literal["detector", "classifier", "image-text", "prompted detector"]
"""What a model predicts: boxes with classes; a class for the whole image; image-text similarity; boxes for texts."""

WHOLE_IMAGE: frozenset[Kind] = frozenset({"classifier", "image-text"})
"""Kinds that predict for the whole image: their one candidate is the image."""
TAKES_TEXT: frozenset[Kind] = frozenset({"image-text", "prompted detector"})
"""Kinds whose classes are texts that the user gives."""
GIVES = frozenset({"candidates", "features", "input", "roi", "attention", "transformer", "text", "masks", "keypoints", "corners"})
"""What a model's traces can provide; a method's `needs` are among these. Masks, keypoints and corners of turned boxes: of its
detections, through `complete`."""


LEAST_SCORE = 0.05
"""The score over which candidates take part in duplicate removal, where a family does not say: torchvision's own threshold."""


class Model(ABC):
    """A model that whybox can explain. Every model family derives its models from this class.

    Attributes:
        name: For reports and errors.
        network: The nn.Module that is explained; None for a black box.
        kind: What it predicts.
        gives: What its traces provide: "candidates", "features", "input", "roi", "attention", "transformer", "text", "masks",
            "keypoints", "corners".
        classes: Names of the score columns, or None.
        first_column: The score column of a data set's first class, for models without class names; torchvision's detectors
            have a background column before it.
        fixed_rows: Whether a row of the candidates is the same position or query in every image of one size; not where the
            network chooses its queries by the image.
        channels: How many channels its images have; 3 are red, green and blue.
        keypoints: The names of its keypoints; () for models without.
        score_threshold: The score under which it gives no detection of its own; 0 where a family does not say.
        settings: How it was loaded (preprocessing, thresholds), as a string that is the same in every process.
    """

    name: str
    network: Any = None
    kind: Kind = "detector"
    gives: frozenset[str]
    classes: Sequence[str] | None = None
    first_column: int = 0
    fixed_rows: bool = True
    channels: int = 3
    keypoints: Sequence[str] = ()
    score_threshold: float = 0.0
    settings: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Here and not in every family: no family, also no outside one, can forget to lock the network or to note its state, and
        # what every family gives is checked.
        # In the class itself: what it inherits has been wrapped already.
        if "trace" in vars(cls):
            cls.trace = _of_one_state(cls.trace)  # type: ignore[method-assign]
        if "predict" in vars(cls):
            cls.predict = _exclusively(cls.predict)  # type: ignore[method-assign]
        if "pullbacks" in vars(cls):
            cls.pullbacks = _checked(cls.pullbacks)  # type: ignore[method-assign]
        if "branch_pullbacks" in vars(cls):
            cls.branch_pullbacks = _checked_branch(cls.branch_pullbacks)  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse a class that misspells an attribute, or gives what no method can need, before anything runs with it."""
        check_attributes(cls, Model)
        owner = f"model class {cls.__name__}"
        # A property, or an attribute set by __init__, depends on the network and has no value yet.
        if isinstance(given := getattr(cls, "gives", None), frozenset | set | str | tuple | list):
            check_known(owner, "gives", given, GIVES)
        if isinstance(cls.kind, str):
            check_known(owner, "kind", {cls.kind}, get_args(Kind))
        return super().__new__(cls)

    def __repr__(self) -> str:
        classes = self.classes
        named = "no class names" if classes is None else f"{len(classes)} {'texts' if self.takes_text else 'classes'}"
        return f"<{self.name}: {self.kind}, {named}{self._device()}>"

    def _device(self) -> str:
        weight = None if self.network is None else next(iter(self.network.parameters()), None)
        return "" if weight is None else f", {weight.device}"

    @property
    def whole_image(self) -> bool:
        """Whether it predicts for the whole image, so that a detection's box is the image."""
        return self.kind in WHOLE_IMAGE

    @property
    def takes_text(self) -> bool:
        """Whether its classes are texts that the user gives; such a model is a `PromptedModel`."""
        return self.kind in TAKES_TEXT

    @property
    def default_method(self) -> str:
        """The method to use where the user names none."""
        return "grad_eclip" if self.whole_image else "odam"

    @property
    def default_target(self) -> str:
        """The target to explain where the user names none."""
        return "logit" if self.kind == "classifier" else "score"

    @property
    def identity(self) -> tuple[str, ...]:
        """What distinguishes two models with the same weights: name, settings and, for prompted models, the texts."""
        texts = tuple(self.classes or ()) if self.takes_text else ()
        return (self.name, self.settings, *texts)

    @property
    def origin(self) -> Any:
        """The object that a trace belongs to: the network, or the model itself where it is a black box."""
        return self if self.network is None else self.network

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Layer names for `pullbacks`, the default first."""

    @abstractmethod
    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1.

        Args:
            image: (3,H,W) float in 0..1.
            differentiable: False: without an autograd graph. True: features and candidates keep their graph down to the
                weights, so that a loss on maps can train them. The network runs in evaluation mode either way.

        Returns:
            The pass, on the network's device.
        """

    @property
    def most_detections(self) -> int | None:
        """The largest number of detections that its post-processing keeps; None: it has no limit."""
        return None

    @property
    def unsuppressed_threshold(self) -> float:
        """The score under which `unsuppressed` gives nothing: a family's own threshold where it has an `unsuppressed` of its own,
        else .05."""
        return LEAST_SCORE if type(self).unsuppressed is Model.unsuppressed else self.score_threshold

    def unsuppressed(self, trace: Trace) -> Detections:
        """The detections of a trace before duplicates are removed, boxes clipped to the image: what a rule of duplicate removal
        gets. By default every candidate with its best class, where the score is over `unsuppressed_threshold`.

        Args:
            trace: A trace of this model.

        Returns:
            Detections in any order.
        """
        candidates = trace.candidates
        scores, labels = candidates.scores.detach().max(1)
        source = (scores > self.unsuppressed_threshold).nonzero()[:, 0]
        height, width = trace.frame.image
        boxes = candidates.boxes_of(source, labels[source]).detach()
        limit = boxes.new_tensor([width, height, width, height])
        return Detections(boxes.clamp(min=0).minimum(limit), scores[source], labels[source], source)

    @property
    def embeds(self) -> bool:
        """Whether `embed_detections` gives embeddings: by default, whether the family has such a method."""
        return type(self).embed_detections is not Model.embed_detections

    def embed_detections(self, trace: Trace, detections: Detections) -> Tensor:
        """Learned embeddings, close to one another for boxes of one object: what FeatureNMS compares.

        Args:
            trace: A trace of this model.
            detections: N of its candidates.

        Returns:
            (N,D), without a graph.
        """
        raise WhyboxError(f"{self.name} has no embedding head")

    @abstractmethod
    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates of a batch of images, without an autograd graph.

        Args:
            images: (B,3,H,W) in 0..1.

        Returns:
            B entries, one per image.
        """

    @abstractmethod
    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks to the features for `detections`, in chunks that fit memory; every row comes exactly once.

        Args:
            trace: A trace of this model.
            detections: N detections whose `source` is a row of the trace's candidates.
            layer: One of `layers` or a module's path; None: the default.
            route: "auto", "fast" or "exact".
            frozen_allowed: Whether route "auto" may hold a normalization's statistics fixed.

        Yields:
            Pullbacks, each for some of the rows.
        """

    def branch_pullbacks(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks for targets on masks or keypoints, whose traces hold these. By default those of boxes and classes, for
        models whose candidates come with them.

        Args:
            branch: "mask" or "keypoint".
            trace: As for `pullbacks`, and so are the others.
            detections: N detections.
            layer: One of `layers` or a module's path; None: the default.
            route: "auto", "fast" or "exact".
            frozen_allowed: Whether route "auto" may hold a normalization's statistics fixed.

        Yields:
            Pullbacks, each for some of the rows.
        """
        yield from self.pullbacks(trace, detections, layer, route, frozen_allowed=frozen_allowed)

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """The detections with their masks, keypoints or corners, where the model gives such; by default as they are.

        Args:
            trace: A trace of this model.
            detections: N of its candidates.
        """
        return detections


def _of_one_state(trace: Callable[..., Trace]) -> Callable[..., Trace]:
    """A family's `trace`, checked, and alone with its network, whose state and reference the trace then carries."""

    @wraps(trace)
    def traced(self: Model, image: Tensor, *, differentiable: bool = False) -> Trace:
        check_class_names(self.name, self.classes)
        with exclusive(self.network):
            # Passed on only if asked for: a family of another package may have no such keyword.
            result = trace(self, image, differentiable=differentiable) if differentiable else trace(self, image)
            check_trace(self.name, self.classes, self.network, result)
            # Weak: a stored trace must not keep a network in memory.
            return replace(result, made_by=ref(self.origin), fingerprint=fingerprint(self.network))

    return traced


def _exclusively(predict: Callable[..., list[Candidates]]) -> Callable[..., list[Candidates]]:
    @wraps(predict)
    def predicted(self: Model, images: Tensor) -> list[Candidates]:
        with exclusive(self.network):
            return check_answers(self.name, predict(self, images), len(images))

    return predicted


def _checked(pullbacks: Callable[..., Iterator[Pullback]]) -> Callable[..., Iterator[Pullback]]:
    @wraps(pullbacks)
    def given(self: Model, trace: Trace, detections: Detections, *places: Any, **options: Any) -> Iterator[Pullback]:
        return check_pullbacks(self.name, pullbacks(self, trace, detections, *places, **options), len(detections))

    return given


def _checked_branch(pullbacks: Callable[..., Iterator[Pullback]]) -> Callable[..., Iterator[Pullback]]:
    @wraps(pullbacks)
    def given(self: Model, branch: str, trace: Trace, detections: Detections, *places: Any, **options: Any) -> Iterator[Pullback]:
        return check_pullbacks(self.name, pullbacks(self, branch, trace, detections, *places, **options), len(detections))

    return given


@runtime_checkable
class PromptedModel(Protocol):
    """A model that takes text prompts: its classes are the texts that it was prompted with."""

    def prompt(self, texts: Sequence[str]) -> Model:
        """The same network, prompted with these texts."""
        ...

    def answer(self, trace: Trace) -> Trace:
        """A trace, possibly made with other prompts, with its candidates for this model's texts. Where texts and image meet
        only at the end (dual encoders), the image is not encoded again."""
        ...


@runtime_checkable
class ImagePromptedModel(Protocol):
    """A model that also takes images of what it is to look for."""

    def prompt_with_images(self, images: Sequence[Tensor], names: Sequence[str]) -> Model:
        """The same network, prompted with K images (3,h,w) in 0..1; their names are the classes."""
        ...
