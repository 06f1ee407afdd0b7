"""The data types between an image and a heat map. Shapes are checked in __post_init__; behavior is indexing and views."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from whybox.frame import Frame, Size, resample_maps, resize_maps

__all__ = [
    "Candidates",
    "Detections",
    "FeatureMap",
    "Frame",
    "HeatMaps",
    "MaskLogits",
    "Size",
    "Target",
    "Trace",
    "branch_of",
    "min_max",
    "rows_of",
    "target_name",
]


# eq=False here and below: tensors compare elementwise, so that == would have no truth value.
@dataclass(frozen=True, eq=False)
class Detections:
    """N detections of one image.

    Attributes:
        boxes: (N,4) xyxy in image pixels.
        scores: (N,).
        labels: (N,) the class, as its column among the candidates' scores.
        source: (N,) the row among the raw candidates; -1: not known.
        masks: (N,H,W) bool, on the image's pixels; None where there are none, or where they were not asked for.
        keypoints: (N,P,3) x and y in image pixels, and the score, as the network gives it; None as for masks.
        corners: (N,4,2) xy in image pixels, of turned boxes; None as for masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    source: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    corners: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must have the shape (N, 4), got {tuple(self.boxes.shape)}")
        for name in ("scores", "labels", "source"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} must have the shape ({count},), got {tuple(getattr(self, name).shape)}")
        _check_shapes(self, count)
        if self.masks is not None and (self.masks.ndim != 3 or len(self.masks) != count or self.masks.dtype != torch.bool):
            raise ValueError(f"masks must be ({count}, H, W) bool, got {tuple(self.masks.shape)} {self.masks.dtype}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Detections":
        """The rows chosen by a slice, a list, a mask or an index tensor; a single number gives one row."""
        if isinstance(index, int):
            index = [index]
        return self.map(lambda values: values[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Detections":
        """The detections with every tensor changed."""
        changed: dict[str, Any] = {name: None if values is None else change(values) for name, values in vars(self).items()}
        return Detections(**changed)

    @property
    def bare(self) -> bool:
        """Whether there is nothing beside boxes: no masks, keypoints or corners."""
        return self.masks is None and self.keypoints is None and self.corners is None

    def to_dict(self) -> dict[str, Tensor]:
        """torchvision's form: boxes, scores, labels."""
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}

    @classmethod
    def empty(cls, like: Tensor | None = None) -> "Detections":
        """No detection."""
        device = None if like is None else like.device
        none = torch.zeros(0, dtype=torch.long, device=device)
        plain: dict[str, Any] = {"dtype": torch.float32, "device": device}
        return cls(torch.zeros((0, 4), **plain), torch.zeros(0, **plain), none, none)


def _check_shapes(owner: "Detections | Candidates", count: int) -> None:
    """Refuse keypoints and corners of another shape."""
    if (points := owner.keypoints) is not None and (points.ndim != 3 or len(points) != count or points.shape[2] != 3):
        raise ValueError(f"keypoints must have the shape ({count}, P, 3), got {tuple(points.shape)}")
    if owner.corners is not None and tuple(owner.corners.shape) != (count, 4, 2):
        raise ValueError(f"corners must have the shape ({count}, 4, 2), got {tuple(owner.corners.shape)}")


@dataclass(frozen=True, eq=False)
class MaskLogits:
    """The masks of M candidates as logits on a grid; a logit over 0 is inside.

    Attributes:
        values: (M,h,w) the logits, or (M,P) weights of the prototypes.
        prototypes: (P,h,w), whose weighted sums are the logits; None: the values are.
        boxes: (M,4) xyxy in cells of the grid: a cell whose center lies outside is in no mask. None: every cell may be.
    """

    values: Tensor
    prototypes: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        wanted = 3 if self.prototypes is None else 2
        if self.values.ndim != wanted:
            form = "(M, h, w)" if wanted == 3 else "(M, P), the prototypes' weights"
            raise ValueError(f"logits of masks must be {form}, got {tuple(self.values.shape)}")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> "MaskLogits":
        """The chosen rows; differentiable."""
        return MaskLogits(self.values[rows], self.prototypes, None if self.boxes is None else self.boxes[rows])

    def logits(self) -> Tensor:
        """(M,h,w); differentiable."""
        return self.values if self.prototypes is None else torch.einsum("mp,phw->mhw", self.values, self.prototypes)

    def possible(self) -> Tensor:
        """(M,h,w) bool: the cells that may be in a mask."""
        height, width = (self.values if self.prototypes is None else self.prototypes).shape[-2:]
        if self.boxes is None:
            return torch.ones((len(self), height, width), dtype=torch.bool, device=self.values.device)
        x1, y1, x2, y2 = self.boxes.detach()[:, :, None].unbind(1)
        down, across = (torch.arange(extent, device=self.values.device) + 0.5 for extent in (height, width))
        return ((y1 <= down) & (down < y2))[:, :, None] & ((x1 <= across) & (across < x2))[:, None, :]


@dataclass(frozen=True, eq=False)
class Candidates:
    """M raw candidates, before non-maximum suppression.

    Attributes:
        boxes: (M,4), or (M,K,4) where the boxes are class-specific; xyxy in image pixels, not clipped.
        scores: (M,K), one column per class, as the framework's own post-processing ranks them; a label is a column.
        level: (M,) index into `Trace.features`; -1: not known.
        logits: (M,K) before sigmoid or softmax.
        raw: The regression branch's outputs, by name, each (M,) or (M,K).
        factors: The factors of a score, by name ("class", "centerness"), each (M,) or (M,K).
        keypoints: (M,P,3) x and y in image pixels, and the score. Where the network takes the highest cell of a heat map, x and y
            are the map's expected place, which is differentiable.
        corners: (M,4,2) xy in image pixels, of turned boxes.
        masks: The logits of M masks.
    """

    boxes: Tensor
    scores: Tensor
    level: Tensor
    logits: Tensor | None = None
    raw: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    keypoints: Tensor | None = None
    corners: Tensor | None = None
    masks: MaskLogits | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.scores.ndim != 2:
            raise ValueError(f"scores must have the shape (M, K), got {tuple(self.scores.shape)}")
        if tuple(self.boxes.shape) not in {(count, 4), (*self.scores.shape, 4)}:
            raise ValueError(f"boxes must be ({count}, 4) or (M, K, 4), got {tuple(self.boxes.shape)}")
        if self.level.shape != (count,):
            raise ValueError(f"level must have the shape ({count},), got {tuple(self.level.shape)}")
        _check_shapes(self, count)
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"{count} candidates do not fit the logits of {len(self.masks)} masks")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Any) -> "Candidates":
        """The chosen rows; differentiable."""
        return Candidates(
            self.boxes[rows],
            self.scores[rows],
            self.level[rows],
            None if self.logits is None else self.logits[rows],
            {name: value[rows] for name, value in self.raw.items()},
            {name: value[rows] for name, value in self.factors.items()},
            None if self.keypoints is None else self.keypoints[rows],
            None if self.corners is None else self.corners[rows],
            None if self.masks is None else self.masks[rows],
        )

    def boxes_of(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Boxes (N,4) of the candidates `rows` (N,) for the classes `labels` (N,)."""
        return self.boxes[rows] if self.boxes.ndim == 2 else self.boxes[rows, labels]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One level of features.

    Attributes:
        values: (C,h,w).
        stride: Network pixels per cell.
        name: The level's name in its model family.
    """

    values: Tensor
    stride: float
    name: str

    @property
    def grid(self) -> Size:
        """(h, w)"""
        return self.values.shape[-2], self.values.shape[-1]


@dataclass(frozen=True, eq=False)
class Trace:
    """One stored forward pass: explaining a hundred detections costs one of these, not a hundred.

    Attributes:
        image: (3,H,W) float in 0..1, the user's image.
        frame: Where the image lies on the network's canvas.
        features: One entry per level.
        candidates: All M raw rows.
        detections: After the framework's own non-maximum suppression.
        embedding: (1,D) of an image-text model or a classifier.
        state: What the model family needs to take gradients later; private to it.
        made_by: A weak reference to the network.
        differentiable: Features and candidates keep their graph down to the network's weights.
        fingerprint: The network's state during the pass; explaining the trace with the network in another state is refused.
        stored: Whether the trace was pickled or copied deeply, which loses `state` and `made_by`: the image is traced again when
            it is explained, and the candidates must come out the same.
    """

    image: Tensor
    frame: Frame
    features: tuple[FeatureMap, ...]
    candidates: Candidates
    detections: Detections
    embedding: Tensor | None = None
    state: Any = None
    made_by: Callable[[], Any] | None = None
    differentiable: bool = False
    fingerprint: Any = None
    stored: bool = False

    def __reduce__(self) -> Any:
        """Without what refers to the network: it may hold closures, hooks and the network itself."""
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _OF_NETWORK}
        return _stored_trace, (kept,)

    # Without this copy.copy would use __reduce__ and lose the state.
    def __copy__(self) -> "Trace":
        return replace(self)

    def rows(self, candidates: Candidates, detections: Detections) -> "Trace":
        """The same pass restricted to some candidates, one per detection, so that detection i is candidate i."""
        order = torch.arange(len(detections), device=detections.source.device)
        # Without the state, which is about the rows of the whole pass.
        return replace(self, candidates=candidates, detections=replace(detections, source=order), state=None)


# "differentiable", because the graph is lost; "stored", because it is set anew.
_OF_NETWORK = ("state", "made_by", "fingerprint", "differentiable", "stored")


def _stored_trace(kept: Mapping[str, Any]) -> Trace:
    return Trace(**kept, stored=True)


@runtime_checkable
class Target(Protocol):
    """The scalar that is explained: a callable from a Trace to one number per detection, (N,), computed from its candidates
    by differentiable operations. Row i may depend only on candidate `trace.detections.source[i]`.

    A target carries its name: an attribute `name`, or else a function's `__name__`. One that reads masks or keypoints says so
    with an attribute `branch`, "mask" or "keypoint": gradients then go through the part of the network that gives these."""

    def __call__(self, trace: Trace) -> Tensor:
        """One number per detection of the trace, (N,)."""


def target_name(target: Target) -> str:
    """A target's name; for a user-defined callable, its function's or class's name."""
    return str(getattr(target, "name", None) or getattr(target, "__name__", type(target).__name__))


def branch_of(target: Target) -> str:
    """The part of the network that a target is computed by: "mask", "keypoint", or "" for boxes and classes."""
    return str(getattr(target, "branch", ""))


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """N heat maps, as the method defines them: raw, not scaled to 0..1. They may require grad.

    Attributes:
        native: N maps, each (h,w) on the grid of its own layer, covering the network's canvas.
        frame: Where the image lies on the network's canvas.
        target: The target's name.
        method: The method's name.
        options: The method's settings.
        routes: N names of how each gradient was taken; "" where the method takes none.
        scaled: True for the view `normalized()`, where every map is min-max scaled to 0..1.
        crop_padding: Whether `at_image` crops the canvas's padding; False stretches the padded map over the image.
        method_title: The method's name as people write it.
        layers: N names of the layer whose features each map is drawn on; () for methods without one.
    """

    native: tuple[Tensor, ...]
    frame: Frame
    target: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    routes: tuple[str, ...] = ()
    scaled: bool = False
    crop_padding: bool = True
    method_title: str = ""
    layers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.native)

    def __getitem__(self, index: Any) -> "HeatMaps":
        """The maps chosen by a number, a slice, a list or a tensor of indices or booleans."""
        chosen = rows_of(index, len(self))
        routes = tuple(self.routes[i] for i in chosen) if self.routes else ()
        layers = tuple(self.layers[i] for i in chosen) if self.layers else ()
        return replace(self, native=tuple(self.native[i] for i in chosen), routes=routes, layers=layers)

    @property
    def values(self) -> Tensor:
        """(N,h,w). Where the maps' grids differ in size, the coarser ones are resized (bilinear) to the finest."""
        if not self.native:
            return torch.zeros((0, 1, 1))
        finest = max(((m.shape[0], m.shape[1]) for m in self.native), key=lambda shape: shape[0] * shape[1])
        values = self._by_shape(lambda maps: resize_maps(maps, finest))
        return min_max(values) if self.scaled else values

    def normalized(self) -> "HeatMaps":
        """The same maps, each min-max scaled to 0..1 when it is read; a constant map becomes zeros."""
        return replace(self, scaled=True)

    def resized(self, grid: Size) -> Tensor:
        """(N,h,w) on a grid that covers the network's canvas, for comparing maps with one another; see `resample_maps`."""
        return self._by_shape(lambda maps: resample_maps(maps, grid)) if self.native else torch.zeros((0, *grid))

    def at_image(self) -> Tensor:
        """(N,H,W) on the original image's pixels, padding cropped. A `normalized()` view is scaled after resizing."""
        if not self.native:
            return torch.zeros((0, *self.frame.image))
        maps = self._by_shape(lambda m: self.frame.maps_to_image(m, crop_padding=self.crop_padding))
        return min_max(maps) if self.scaled else maps

    def _by_shape(self, resize: Callable[[Tensor], Tensor]) -> Tensor:
        """Resize the maps one grid size at a time and put them back in order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, values in enumerate(self.native):
            groups.setdefault(tuple(values.shape), []).append(i)
        parts = [resize(torch.stack([self.native[i] for i in rows])) for rows in groups.values()]
        order = torch.tensor([i for rows in groups.values() for i in rows], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]


def rows_of(index: Any, count: int) -> list[int]:
    """The rows that an index chooses out of `count`: a number, a slice, a list, or a tensor of numbers or booleans."""
    # arange takes every kind of index that a tensor does, and refuses those out of range. It is on the CPU.
    return torch.arange(count)[index.cpu() if isinstance(index, Tensor) else index].reshape(-1).tolist()


def min_max(maps: Tensor) -> Tensor:
    """Maps (N,h,w), each min-max scaled to 0..1. A constant map becomes zeros, never NaN."""
    low = maps.amin((-2, -1), keepdim=True)
    spread = maps.amax((-2, -1), keepdim=True) - low
    # The inner where keeps the division finite: a NaN in the branch not taken would still reach the gradient.
    return torch.where(spread > 0, (maps - low) / torch.where(spread > 0, spread, 1), 0)
