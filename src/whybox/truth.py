"""Data types of evaluation: annotations, data sets, a metric's inputs and results, and the interface of a metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from whybox.attention import TokenMaps
from whybox.class_checks import check_class, check_known, check_takes
from whybox.frame import Frame
from whybox.types import Candidates, Detections, rows_of


@dataclass(frozen=True)
class Truth:
    """G annotated objects of one image.

    Attributes:
        boxes: (G,4) float32 xyxy in image pixels around the whole object; they may reach beyond the image (CrowdHuman's do).
        labels: (G,) int64. In a data set the index among its classes, from 0; in a MetricInput the column among the model's
            scores.
        ids: G annotation ids.
        ignore: (G,) bool, ignore regions (crowds, masked people).
        masks: (G,H,W) bool of the visible pixels, or None.
        parts: Further boxes (G,4) by name ("visible", "head"), NaN where there is none.
        fixations: G entries, each (F,3) x, y in image pixels and duration, or None where there are none; or ().
        phrases: G referring expressions, one per object ("red ball"); or ().
        viewers: G entries, each F names: who made each fixation, or None where there are none; or ().
    """

    boxes: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    ignore: Tensor
    masks: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    fixations: tuple[Tensor | None, ...] = ()
    phrases: tuple[str, ...] = ()
    viewers: tuple[tuple[str, ...] | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("boxes", "labels", "ignore", "masks"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not (name == "masks" and value is None):
                raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}; write torch.tensor(...)")
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must have the shape (G, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "ignore"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} must have the shape ({count},), got {tuple(getattr(self, name).shape)}")
        if len(self.ids) != count or len(self.fixations) not in (0, count) or len(self.phrases) not in (0, count):
            entries = f"{len(self.fixations)} entries of fixations and {len(self.phrases)} phrases"
            raise ValueError(f"{count} objects with {len(self.ids)} ids, {entries}")
        if self.viewers and list(map(_count, self.viewers)) != list(map(_count, self.fixations)):
            raise ValueError("viewers must name who made each fixation: as many names as fixations of each object, or ()")
        if self.masks is not None and (self.masks.ndim != 3 or len(self.masks) != count or self.masks.dtype != torch.bool):
            raise ValueError(f"masks must be bool ({count}, H, W), got {self.masks.dtype} {tuple(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> "Truth":
        """The objects chosen by a tensor of indices or booleans."""
        chosen = rows_of(rows, len(self))
        rows = torch.tensor(chosen, dtype=torch.long, device=self.boxes.device)
        return Truth(
            self.boxes[rows],
            self.labels[rows],
            tuple(self.ids[i] for i in chosen),
            self.ignore[rows],
            None if self.masks is None else self.masks[rows],
            {name: boxes[rows] for name, boxes in self.parts.items()},
            tuple(self.fixations[i] for i in chosen) if self.fixations else (),
            tuple(self.phrases[i] for i in chosen) if self.phrases else (),
            tuple(self.viewers[i] for i in chosen) if self.viewers else (),
        )


def _count(entries: Sized | None) -> int | None:
    return None if entries is None else len(entries)


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        name: Unique in the data set.
        image: The picture.
        truth: Its annotations.
    """

    name: str
    image: Image.Image
    truth: Truth


@runtime_checkable
class DataSet(Protocol):
    """Annotated images.

    An optional attribute `digest`, a string that changes whenever the annotations do, prevents an evaluation from being
    resumed with other annotations.

    Attributes:
        name: For reports.
        classes: Class names; a label is an index into them, from 0.
        problems: What was left out, one line per problem.
    """

    name: str
    classes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def names(self) -> Sequence[str]:
        """The images' names, without reading an image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Read one image; a WhyboxError says what is wrong with it."""
        ...


METRIC_INPUTS = frozenset({"box", "mask", "fixations", "predict", "redraw", "randomized", "whole", "words"})
"""What can be available to a metric; a metric's `needs` are among these."""


@dataclass(frozen=True)
class MetricInput:
    """The inputs of a metric, beside the maps of N detections of one image.

    Attributes:
        image: (3,H,W) in 0..1.
        frame: Where the image lies on the network's canvas.
        detections: N detections.
        truth: All annotated objects.
        matched: (N,) the row of the object that each detection is matched with, -1 for none.
        seeds: (N,) one per detection: the seed of its random numbers.
        predict: Raw candidates, boxes in image pixels, of images (B,3,H,W) of one size.
        batch: How many images `predict` takes at once.
        redraw: The same method's maps (N,H,W) of the same objects on a changed image (3,H,W).
        randomized: The same maps under cascading randomization of the model's weights, layer by layer from the output:
            (the layer's name, maps (N,H,W)) after each. The weights are restored at the end.
        whole: Whether the model predicts for the whole image, so that a detection's box is the image.
        words: The same method's maps of the N texts.
        score_texts: Texts -> the score of each with the image.
    """

    image: Tensor
    frame: Frame
    detections: Detections
    truth: Truth
    matched: Tensor
    seeds: Tensor
    predict: Callable[[Tensor], list[Candidates]] | None = None
    batch: int = 8
    redraw: Callable[[Tensor], Tensor] | None = None
    randomized: Callable[[], Iterator[tuple[str, Tensor]]] | None = None
    whole: bool = False
    words: TokenMaps | None = None
    score_texts: Callable[[Sequence[str]], Tensor] | None = None

    def __post_init__(self) -> None:
        count = len(self.detections)
        for name in ("matched", "seeds"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} must have the shape ({count},), got {tuple(getattr(self, name).shape)}")
        if self.words is not None and len(self.words) != count:
            raise ValueError(f"{count} detections and words of {len(self.words)} texts")

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, rows: Any) -> "MetricInput":
        """The inputs of some of the detections, without `redraw` and `randomized`, which draw the maps of all of them."""
        # Seeds stay on the CPU, where the generators are; detections may be elsewhere.
        chosen = rows.to(self.seeds.device) if isinstance(rows, Tensor) else rows
        places = torch.arange(len(self))[chosen].reshape(-1).tolist()
        return replace(
            self,
            detections=self.detections[rows],
            matched=self.matched[rows],
            seeds=self.seeds[chosen],
            redraw=None,
            randomized=None,
            words=None if self.words is None else _some_words(self.words, places),
        )

    @property
    def gives(self) -> frozenset[str]:
        """What is available to a metric, of `METRIC_INPUTS`."""
        given = {
            "box": True,
            "mask": self.truth.masks is not None,
            "fixations": bool(self.truth.fixations),
            "predict": self.predict is not None,
            "redraw": self.redraw is not None,
            "randomized": self.randomized is not None,
            "whole": self.whole,
            "words": self.words is not None and self.score_texts is not None,
        }
        return frozenset(name for name, there in given.items() if there)

    def generator(self, index: int) -> torch.Generator:
        """The random number generator of detection `index`; on the CPU, so that the draws are the same for every device."""
        return torch.Generator().manual_seed(int(self.seeds[index]))


def _some_words(words: TokenMaps, chosen: Sequence[int]) -> TokenMaps:
    return replace(words, values=tuple(words.values[i] for i in chosen), texts=tuple(words.texts[i] for i in chosen))


@dataclass(frozen=True)
class MetricResult:
    """A metric of N maps.

    Attributes:
        values: (N,), NaN where the metric is not defined.
        curves: (N,P) the curves behind the values, or None.
        at: (P,) the curves' x coordinates, or None.
    """

    values: Tensor
    curves: Tensor | None = None
    at: Tensor | None = None

    def __post_init__(self) -> None:
        given: Any = self.values
        if isinstance(given, (list, tuple)) or type(given).__module__ == "numpy":
            object.__setattr__(self, "values", torch.as_tensor(self.values, dtype=torch.float32))


class Metric(ABC):
    """A metric of heat maps: a frozen dataclass whose fields are its options, with the paper's constants as defaults.

    Attributes:
        name: Its name in the registry, which is its file's name.
        higher_is_better: Whether higher values are better.
        source: Authors, venue, year, equation.
        group: What it measures; metrics can be selected by group.
        sets: The metric sets that contain it, with its settings there as they follow a name ("fill=blurred"; "" for the
            defaults): "standard" is the set for detectors, "matching" for models that predict for the whole image. Its group
            and "all" contain it with the settings of "standard", or else with the defaults.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    source: ClassVar[str] = ""
    group: ClassVar[str] = "other"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse an incomplete or misspelled class before anything runs with it."""
        # Not in __init_subclass__, which runs before the decorator that makes the class a dataclass and its fields options.
        cls.check_class()
        return super().__new__(cls)

    @classmethod
    def check_class(cls) -> None:
        """Refuse a class that lacks an attribute, misspells one, or needs what no `MetricInput` gives.

        Raises:
            WhyboxError: What is wrong with the class, in one line.
        """
        examples = {"name": '"my_metric"', "higher_is_better": "True"}
        kinds = {"name": str, "title": str, "source": str, "group": str, "across": str, "higher_is_better": bool, "sets": Mapping}
        owner = check_class(cls, Metric, examples, kinds)
        check_takes(owner, cls, "__call__", "maps, inputs")
        # A property depends on the options: `make_metric` checks its value.
        if not isinstance(cls.needs, property):
            check_known(owner, "needs", cls.needs, METRIC_INPUTS)

    @property
    def title(self) -> str:
        """A few words for a table's header."""
        return self.name.replace("_", " ").capitalize()

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (-torch.inf, torch.inf)

    @property
    def needs(self) -> frozenset[str]:
        """What it needs of `MetricInput.gives`; it may depend on the options. Empty: the maps alone."""
        return frozenset()

    @property
    def across(self) -> str:
        """The label of a curve's x axis."""
        return ""

    @abstractmethod
    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """Evaluate maps.

        Args:
            maps: (N,H,W) on the image's pixels, raw, as the method defines them.
            inputs: Image, detections, annotations, and what else the metric needs.

        Returns:
            One value per map, NaN where the metric is not defined.
        """
