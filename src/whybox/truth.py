"""The nouns of measurement: what is annotated in an image, what heat maps are judged against, and what a judgement is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from whybox.attention import TokenMaps
from whybox.frame import Frame
from whybox.types import Candidates, Detections


@dataclass(frozen=True)
class Truth:
    """G annotated objects of one image.

    boxes (G,4) float32 xyxy in image pixels around the whole object; they may reach beyond the image (CrowdHuman's do).
    labels (G,) int64: in a data set the place among its classes, from 0; in a MetricInput the column among the model's scores.
    ids: G names, those of the annotations. ignore (G,) bool: regions where nothing is counted (crowds, masked people).
    masks (G,H,W) bool of the visible pixels, or None. parts: more boxes (G,4) by name ("visible", "head"), NaN where
    there is none. fixations: G entries, each (F,3) x, y in image pixels and duration, or None where nobody looked; or ().
    phrases: G texts, each object in words of its own ("red ball"); or ().
    """

    boxes: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    ignore: Tensor
    masks: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    fixations: tuple[Tensor | None, ...] = ()
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must have the shape (G, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "ignore"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} must have the shape ({count},), got {tuple(getattr(self, name).shape)}")
        if len(self.ids) != count or len(self.fixations) not in (0, count) or len(self.phrases) not in (0, count):
            entries = f"{len(self.fixations)} entries of fixations and {len(self.phrases)} phrases"
            raise ValueError(f"{count} objects with {len(self.ids)} ids, {entries}")
        if self.masks is not None and (self.masks.ndim != 3 or len(self.masks) != count or self.masks.dtype != torch.bool):
            raise ValueError(f"masks must be bool ({count}, H, W), got {self.masks.dtype} {tuple(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> "Truth":
        """The objects chosen by a tensor of indices or booleans."""
        chosen = torch.arange(len(self))[rows].reshape(-1).tolist()
        return Truth(
            self.boxes[rows],
            self.labels[rows],
            tuple(self.ids[i] for i in chosen),
            self.ignore[rows],
            None if self.masks is None else self.masks[rows],
            {name: boxes[rows] for name, boxes in self.parts.items()},
            tuple(self.fixations[i] for i in chosen) if self.fixations else (),
            tuple(self.phrases[i] for i in chosen) if self.phrases else (),
        )


@dataclass(frozen=True)
class Sample:
    """One image of a data set: its name, unique there, the picture, and what is annotated in it."""

    name: str
    image: Image.Image
    truth: Truth


@runtime_checkable
class DataSet(Protocol):
    """Annotated images. A label is a place in `classes`, from 0. problems: what was left out of it, a line each.

    An attribute `digest`, a text that changes whenever the annotations do, keeps an evaluation from going on with others.
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


@dataclass(frozen=True)
class MetricInput:
    """What the maps of N detections of one image are judged against.

    image (3,H,W) in 0..1. truth: all annotated objects. matched (N,): the row of the object that each detection stands
    for, -1 for none. seeds (N,): one a detection; whatever is random for it is drawn from a generator with this seed.
    predict: raw candidates, boxes in image pixels, of images (B,3,H,W) of one size, of which `batch` fit at once.
    redraw: the same method's maps (N,H,W) of the same objects on a changed image (3,H,W).
    randomized: the same maps while the model's weights are replaced by random ones, layer by layer from the output
    on: (the layer's name, maps (N,H,W)) after each; the weights come back at the end.
    whole: the model answers for the whole image, so a detection's box is the image's, whatever box its object has.
    words: the same method's maps of the N texts. score_texts: texts -> the score of each with the image.
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
        """The same for some of the detections. What draws maps again would draw them for all: it is left out."""
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
        """What a metric may need: "box", "mask", "fixations", "predict", "redraw", "randomized", "whole", "words"."""
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
        """Detection `index`'s own source of randomness, on the CPU, so that every device draws the same."""
        return torch.Generator().manual_seed(int(self.seeds[index]))


def _some_words(words: TokenMaps, chosen: Sequence[int]) -> TokenMaps:
    return replace(words, values=tuple(words.values[i] for i in chosen), texts=tuple(words.texts[i] for i in chosen))


@dataclass(frozen=True)
class MetricResult:
    """values (N,): a metric of N maps; NaN where it is not defined. curves (N,P) behind the values, at the points at (P,)."""

    values: Tensor
    curves: Tensor | None = None
    at: Tensor | None = None


class Metric(ABC):
    """A measure of heat maps: a frozen dataclass whose fields are its options, the paper's constants as defaults.

    name: in the registry, the file's name. higher_is_better: which way is better. source: authors, venue, year, equation.
    group: what it measures, the name under which metrics are chosen together. sets: the sets of metrics in which it stands,
    with its settings there as they follow a name, "fill=blurred", "" for the defaults: "standard" is the set of a detector,
    "matching" of a model that answers for the whole image. In its group and in "all" it stands with the settings of
    "standard", or else with the defaults.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    source: ClassVar[str] = ""
    group: ClassVar[str] = "other"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @property
    def title(self) -> str:
        """A few words for a table's head."""
        return self.name.replace("_", " ").capitalize()

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (-torch.inf, torch.inf)

    @property
    def needs(self) -> frozenset[str]:
        """Of what `MetricInput.gives`; with the options it may change. None: it looks at the maps alone."""
        return frozenset()

    @property
    def across(self) -> str:
        """What runs along a curve's x axis."""
        return ""

    @abstractmethod
    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """Judge maps.

        Args:
            maps: (N,H,W) on the image's pixels, raw, as the method defines them.
            inputs: What they are judged against.

        Returns:
            One value per map, NaN where the metric is not defined.
        """
