"""Targets, the scalars that are explained: one number per detection, by name. A target is a callable Trace -> (N,); users can
write their own.

Signs. A map is positive where scaling the features up increases the value. For x1 and y1 that moves the side to the right or
down, so the box shrinks there; for x2 and y2 the box grows. The distances l, t, r, b grow with the box on every side:
the map of l is the map of -x1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from whybox.errors import UnknownNameError, WhyboxError, unknown
from whybox.types import Target, Trace

SIDES = ("x1", "y1", "x2", "y2")
COMBINED = "combined"
KEYPOINT = "keypoint:"
CORNER = "corner:"


def _own(trace: Trace, values: Tensor) -> Tensor:
    """The entry (N,) of values (M,) or (M,K) that belongs to each detection and its class."""
    detections = trace.detections
    return values[detections.source] if values.ndim == 1 else values[detections.source, detections.labels]


@dataclass(frozen=True)
class ClassScore:
    """The score that the detector reports, 0 to 1, with every factor in it (for FCOS also the centerness)."""

    name: str = "score"

    def __call__(self, trace: Trace) -> Tensor:
        return _own(trace, trace.candidates.scores)


@dataclass(frozen=True)
class ClassLogit:
    """The logit of the detection's class, before sigmoid or softmax: it does not saturate, and does not depend on other
    classes or factors. sign -1 explains what speaks against the class."""

    sign: float = 1.0
    name: str = "logit"

    def __call__(self, trace: Trace) -> Tensor:
        if trace.candidates.logits is None:
            raise WhyboxError(f"target {self.name!r} needs logits, and this model gives scores only; use target='score'")
        return self.sign * _own(trace, trace.candidates.logits)


@dataclass(frozen=True)
class BoxSide:
    """A side of the decoded box, in pixels of the image, not clipped to it. side: x1, y1, x2 or y2."""

    side: str

    @property
    def name(self) -> str:
        """The side."""
        return self.side

    def __call__(self, trace: Trace) -> Tensor:
        detections = trace.detections
        return trace.candidates.boxes_of(detections.source, detections.labels)[:, SIDES.index(self.side)]


@dataclass(frozen=True)
class RawOutput:
    """An output of the regression branch, by name: FCOS's distances l, t, r, b (network pixels), the deltas
    dx, dy, dw, dh of anchors and R-CNN (normalized, before the coder's weights), a transformer's cx, cy, w, h (0 to 1)."""

    output: str

    @property
    def name(self) -> str:
        """The output's name."""
        return self.output

    def __call__(self, trace: Trace) -> Tensor:
        raw = trace.candidates.raw
        if self.output not in raw:
            raise unknown("target", self.output, [*TARGETS, *raw])
        return _own(trace, raw[self.output])


@dataclass(frozen=True)
class MaskLogit:
    """The mean logit of some cells of the predicted mask, on the network's own grid; which cells is fixed, not differentiated.

    Attributes:
        where: "": the predicted mask, logits over 0; where there is none, the cell with the highest logit. "inside": of these
            cells those that do not touch the mask's edge. "edge": the cells on both sides of the edge: a higher mean moves it
            outwards. Where there are no such cells, the whole mask.
    """

    where: str = ""
    branch: ClassVar[str] = "mask"

    @property
    def name(self) -> str:
        """ "mask", or "mask:" and the cells."""
        return f"mask:{self.where}" if self.where else "mask"

    def __call__(self, trace: Trace) -> Tensor:
        if trace.candidates.masks is None:
            raise _missing(self.name, "masks")
        masks = trace.candidates.masks[trace.detections.source]
        logits = masks.logits()
        cells = self._cells(logits.detach(), masks.possible()).to(logits)
        return (logits * cells).sum((1, 2)) / cells.sum((1, 2))

    def _cells(self, logits: Tensor, possible: Tensor) -> Tensor:
        mask = _or_else((logits > 0) & possible, _highest(logits, possible))
        edge = (mask & _touching(possible & ~mask)) | (possible & ~mask & _touching(mask))
        if self.where == "inside":
            return _or_else(mask & ~edge, mask)
        return _or_else(edge, mask) if self.where == "edge" else mask


def _missing(target: str, what: str) -> WhyboxError:
    return WhyboxError(f"target {target!r} needs {what}: this model gives none, or this method draws its maps without")


def _touching(cells: Tensor) -> Tensor:
    """The cells (n,h,w) that are among these, or neighbors of one, also across a corner."""
    return max_pool2d(cells.float(), 3, 1, 1) > 0


def _highest(logits: Tensor, possible: Tensor) -> Tensor:
    """(n,h,w) bool: the possible cell with the highest logit; of all cells, where none is possible."""
    ranked = torch.where(_or_else(possible, torch.ones_like(possible)), logits, -torch.inf).flatten(1)
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, ranked.argmax(1, keepdim=True), True).reshape(logits.shape)


def _or_else(cells: Tensor, others: Tensor) -> Tensor:
    """Row by row the cells (n,h,w) bool, or the others where there is none."""
    return torch.where(cells.any(2).any(1)[:, None, None], cells, others)


@dataclass(frozen=True)
class Keypoint:
    """A keypoint's score, or its place in pixels of the image.

    Attributes:
        index: Which keypoint.
        keypoint: Its name.
        value: "score", as the network gives it; "x" or "y".
    """

    index: int
    keypoint: str
    value: str = "score"
    branch: ClassVar[str] = "keypoint"

    @property
    def name(self) -> str:
        """ "keypoint:" and its name; ":x" or ":y" after it for its place."""
        return f"{KEYPOINT}{self.keypoint}" + ("" if self.value == "score" else f":{self.value}")

    def __call__(self, trace: Trace) -> Tensor:
        points = trace.candidates.keypoints
        if points is None:
            raise WhyboxError(
                f"target {self.name!r} needs keypoints: this model gives none, or this method draws its maps without"
            )
        return points[trace.detections.source, self.index, ("x", "y", "score").index(self.value)]


@dataclass(frozen=True)
class Corner:
    """A corner of a turned box, in pixels of the image.

    Attributes:
        index: 0 to 3, in the order of `Detections.corners`.
        axis: "x" or "y".
    """

    index: int
    axis: str

    @property
    def name(self) -> str:
        """ "corner:0:x"."""
        return f"corner:{self.index}:{self.axis}"

    def __call__(self, trace: Trace) -> Tensor:
        corners = trace.candidates.corners
        if corners is None:
            raise _missing(self.name, "turned boxes")
        return corners[trace.detections.source, self.index, "xy".index(self.axis)]


@dataclass(frozen=True)
class Contrast:
    """Why this class and not another: the logit of the detection's class minus that of class `other` (a column), named
    `other_name`."""

    other: int
    other_name: str = ""

    @property
    def name(self) -> str:
        """ "contrast:" and the other class."""
        return f"contrast:{self.other_name or self.other}"

    def __call__(self, trace: Trace) -> Tensor:
        logits = trace.candidates.logits
        values = trace.candidates.scores if logits is None else logits
        if not 0 <= self.other < values.shape[1]:
            raise WhyboxError(f"contrast: class {self.other} is not one of the model's columns 0 to {values.shape[1] - 1}")
        return _own(trace, values) - values[trace.detections.source, self.other]


TARGETS: Mapping[str, tuple[Target, str]] = {
    "score": (ClassScore(), "the reported score of the detection's class"),
    "logit": (ClassLogit(), "the class's logit, before sigmoid or softmax"),
    "against": (ClassLogit(-1.0, "against"), "what speaks against the class: the logit with its sign turned"),
    **{side: (BoxSide(side), f"the box's {side}, image pixels") for side in SIDES},
}
"""Targets by name, with what each is. Beside these: "combined", "contrast:CLASS", the names of the model's raw outputs, and
what only models with masks, keypoints or turned boxes have."""

MASKS: Mapping[str, tuple[Target, str]] = {
    "mask": (MaskLogit(), "the mean logit inside the predicted mask"),
    "mask:inside": (MaskLogit("inside"), "the same without the cells at the mask's edge"),
    "mask:edge": (MaskLogit("edge"), "the mean logit on both sides of the mask's edge: what moves it outwards"),
}
CORNERS: Mapping[str, Target] = {
    target.name: target for target in (Corner(index, axis) for index in range(4) for axis in ("x", "y"))
}

DESCRIPTIONS: Mapping[str, str] = {
    **{name: text for name, (_, text) in TARGETS.items()},
    COMBINED: "the largest of the class map and the four side maps, each scaled to 0..1",
    "contrast:CLASS": "the class's logit less CLASS's: why this class and not that one",
    **{name: f"models with masks: {text}" for name, (_, text) in MASKS.items()},
    "keypoint:NAME": "models with keypoints: its score; keypoint:NAME:x and :y for its place, image pixels",
    "corner:0:x": "turned boxes: a corner's place, image pixels; corners 0 to 3, x and y",
    "l t r b": "FCOS, YOLO of ultralytics: distances to the sides, network pixels",
    "angle": "turned boxes of ultralytics: by how much, in radians",
    "dx dy dw dh": "RetinaNet, SSD, R-CNN: the regression's deltas",
    "cx cy w h": "detection transformers: center and size, 0 to 1",
}


class Gives(Protocol):
    """What `find_target` asks of a model."""

    @property
    def name(self) -> str:
        """For errors."""

    @property
    def gives(self) -> frozenset[str]:
        """What its traces provide."""

    @property
    def keypoints(self) -> Sequence[str]:
        """The names of its keypoints."""


PARTS = {"masks": ("mask", "masks"), "keypoints": (KEYPOINT, "keypoints"), "corners": (CORNER, "turned boxes")}
"""What a model may give beside boxes: the first letters of its targets, and how it is called."""


def find_target(
    target: str | Target, classes: Sequence[str] | None, raw: Sequence[str] = (), model: Gives | None = None
) -> Target:
    """The target with a name.

    Args:
        target: A name, or a callable, which is returned as it is.
        classes: The model's class names, for contrasts.
        raw: The names of the candidates' raw outputs.
        model: The model, which says whether it has masks, keypoints or turned boxes; None: it has none.

    Raises:
        UnknownNameError: No target has this name.
        WhyboxError: The model does not give what it is about.
    """
    if not isinstance(target, str) and not callable(target):
        raise WhyboxError(f"target must be a name or a callable from a Trace to (N,), got {target!r}")
    if not isinstance(target, str):
        return target
    if target in TARGETS:
        return TARGETS[target][0]
    if target.startswith("contrast:"):
        other = target.removeprefix("contrast:")
        return Contrast(class_index(other, classes), other)
    if target in raw:
        return RawOutput(target)
    given: frozenset[str] = frozenset() if model is None else model.gives
    for part, (prefix, what) in PARTS.items():
        if model is not None and target.startswith(prefix) and part not in given:
            raise WhyboxError(f"target {target!r} is about {what}, and {model.name} gives none")
    if model is not None and target.startswith(KEYPOINT):
        return _find_keypoint(target, model.keypoints)
    if "masks" in given and target in MASKS:
        return MASKS[target][0]
    if "corners" in given and target in CORNERS:
        return CORNERS[target]
    beside = [] if model is None else parts_of(model)
    raise unknown("target", target, [*TARGETS, COMBINED, "contrast:CLASS", *raw, *beside])


def parts_of(model: Gives) -> list[str]:
    """The names of the targets on masks, keypoints and turned boxes that a model has."""
    names = [*(MASKS if "masks" in model.gives else ()), *(CORNERS if "corners" in model.gives else ())]
    return names + [f"{KEYPOINT}{name}{value}" for name in model.keypoints for value in ("", ":x", ":y")]


def _find_keypoint(target: str, names: Sequence[str]) -> Keypoint:
    """The target of a name such as "keypoint:left_wrist:x"; a keypoint may be given by its number, too."""
    keypoint, _, value = target.removeprefix(KEYPOINT).partition(":")
    if value not in ("", "x", "y"):
        raise WhyboxError(f"target {target!r}: expected keypoint:NAME, keypoint:NAME:x or keypoint:NAME:y")
    if keypoint in names:
        return Keypoint(list(names).index(keypoint), keypoint, value or "score")
    if keypoint.isascii() and keypoint.isdigit() and int(keypoint) < len(names):
        return Keypoint(int(keypoint), names[int(keypoint)], value or "score")
    raise unknown("keypoint", keypoint, names)


def class_index(label: Any, classes: Sequence[str] | None) -> int:
    """The column of a class, given by its name or its number."""
    text = str(label)
    # A class may be named by digits: written as a text it is that class, and a number is always a column.
    if isinstance(label, str) and classes is not None and text in classes:
        return list(classes).index(text)
    # ASCII alone: "\u00b2" is a digit, too, and no number.
    if text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    if classes is None:
        raise UnknownNameError(f"class {text!r}: this model has no class names; give the class's number")
    raise unknown("class", text, classes)
