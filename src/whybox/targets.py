"""Targets, the scalars that are explained: one number per detection, by name. A target is a callable Trace -> (N,); users can
write their own.

Signs. A map is positive where scaling the features up increases the value. For x1 and y1 that moves the side to the right or
down, so the box shrinks there; for x2 and y2 the box grows. The distances l, t, r, b grow with the box on every side:
the map of l is the map of -x1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from whybox.errors import UnknownNameError, WhyboxError, unknown
from whybox.types import Target, Trace

SIDES = ("x1", "y1", "x2", "y2")
COMBINED = "combined"


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
"""Targets by name, with what each is. Beside these: "combined", "contrast:CLASS" and the names of the model's raw outputs."""

DESCRIPTIONS: Mapping[str, str] = {
    **{name: text for name, (_, text) in TARGETS.items()},
    COMBINED: "the largest of the class map and the four side maps, each scaled to 0..1",
    "contrast:CLASS": "the class's logit less CLASS's: why this class and not that one",
    "l t r b": "FCOS, YOLO of ultralytics: distances to the sides, network pixels",
    "angle": "turned boxes of ultralytics: by how much, in radians",
    "dx dy dw dh": "RetinaNet, SSD, R-CNN: the regression's deltas",
    "cx cy w h": "detection transformers: center and size, 0 to 1",
}


def find_target(target: str | Target, classes: Sequence[str] | None, raw: Sequence[str] = ()) -> Target:
    """The target with a name.

    Args:
        target: A name, or a callable, which is returned as it is.
        classes: The model's class names, for contrasts.
        raw: The names of the candidates' raw outputs.

    Raises:
        UnknownNameError: No target has this name.
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
    raise unknown("target", target, [*TARGETS, COMBINED, "contrast:CLASS", *raw])


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
