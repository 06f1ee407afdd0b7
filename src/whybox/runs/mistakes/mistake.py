"""One mistake of a detector: what it is about, which maps explain it, and what it is in plain words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whybox.accuracy.tide import BACKGROUND, BOTH, CLASSIFICATION, DUPLICATE, KINDS, LOCALIZATION, MISSED
from whybox.targets import SIDES
from whybox.types import Detections

EDGES = {"x1": "left", "y1": "top", "x2": "right", "y2": "bottom"}


@dataclass(frozen=True)
class Named:
    """An annotated object: the name of its annotation, its class's name and column, its box (4,) inside the image."""

    id: str
    name: str
    label: int
    box: Tensor


@dataclass(frozen=True)
class Mistake:
    """One error in image `index` of a data set.

    kind: one of TIDE's. found: the detection, one row, on the CPU; for a missed object its best candidate, and no row where
    the model has none. name: the class of `found`, or of the missed object. iou: with the object, or the largest with any.
    object: what it is about. rival: for a duplicate, the detection that it repeats; held: whether another detection has
    found the object. note: why a missed object's candidate scores low.
    """

    image: str
    index: int
    kind: str
    found: Detections
    name: str
    iou: float
    object: Named | None = None
    rival: Detections | None = None
    held: bool = False
    note: str = ""

    @property
    def score(self) -> float:
        """Of the detection or the candidate; NaN without one."""
        return float(self.found.scores[0]) if len(self.found) else math.nan

    @property
    def worst_side(self) -> tuple[str, float]:
        """For a poor box: the side that is furthest off beside the object's own width or height, and by how many pixels it
        reaches too far (above 0) or stops short; ("", 0) for other kinds."""
        if self.kind != LOCALIZATION or self.object is None:
            return "", 0.0
        true = self.object.box
        outward = (self.found.boxes[0] - true) * torch.tensor([-1.0, -1.0, 1.0, 1.0])
        extent = (true[2:] - true[:2]).repeat(2)
        worst = int((outward.abs() / extent).argmax())
        return SIDES[worst], float(outward[worst])

    @property
    def area(self) -> float:
        """Of the object, in pixels; 0 without one."""
        return 0.0 if self.object is None else float((self.object.box[2:] - self.object.box[:2]).prod())

    def targets(self) -> tuple[tuple[Detections, str, str], ...]:
        """The maps that explain it: of which detection, for which target, and what the map shows."""
        if not len(self.found):
            return ()
        score = (self.found, "score", f"why {self.name}")
        if self.kind == LOCALIZATION:
            side, _ = self.worst_side
            return ((self.found, side, f"why the {EDGES[side]} edge lies here"),)
        if self.kind == CLASSIFICATION and self.object is not None:
            contrast = (self.found, f"contrast:{self.object.label}", f"why {self.name} and not {self.object.name}")
            return contrast, score
        if self.kind == DUPLICATE and self.rival is not None:
            surer = (self.rival, "score", f"the surer detection, {float(self.rival.scores[0]):.2f}")
            return (self.found, "score", f"the duplicate, {self.score:.2f}"), surer
        return ((self.found, "score", f"the best candidate, {self.score:.2f}"),) if self.kind == MISSED else (score,)

    def sentence(self) -> str:
        """What went wrong."""
        return _SENTENCES[self.kind](self)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, ready for JSON; what does not exist is None."""
        side, off = self.worst_side
        return {
            "image": self.image,
            "kind": self.kind,
            "class": self.name,
            "detection": _row(self.found),
            "truth": None if self.object is None else _object(self.object),
            "iou": round(self.iou, 4),
            "side": side or None,
            "side_off_px": round(off, 2) if side else None,
            "repeats": None if self.rival is None else _row(self.rival),
            "object_found_by_another": self.held,
            "sentence": self.sentence(),
            "note": self.note,
        }


def _row(found: Detections) -> dict[str, Any] | None:
    if not len(found):
        return None
    box = [round(side, 2) for side in found.boxes[0].tolist()]
    return {"box": box, "score": round(float(found.scores[0]), 6), "label": int(found.labels[0]), "source": int(found.source[0])}


def _object(named: Named) -> dict[str, Any]:
    box = [round(side, 2) for side in named.box.tolist()]
    return {"id": named.id, "class": named.name, "label": named.label, "box": box}


def _background(one: Mistake) -> str:
    touches = f"; the nearest overlaps it by {one.iou:.2f}" if one.iou >= 0.005 else ""
    return f"Nothing is annotated here{touches}. The map shows what looked like {one.name}."


def _localization(one: Mistake) -> str:
    side, off = one.worst_side
    way = f"reaches {abs(off):.0f} px too far" if off > 0 else f"stops {abs(off):.0f} px short"
    held = " Another detection has this object." if one.held else ""
    return f"Its {EDGES[side]} edge {way} (IoU {one.iou:.2f}); the map shows what that edge rests on.{held}"


def _classification(one: Mistake) -> str:
    true = one.object.name if one.object else "another class"
    held = " Another detection has this object." if one.held else ""
    return f"It is annotated as {true} (IoU {one.iou:.2f}). The first map shows what speaks for {one.name} against {true}.{held}"


def _both(one: Mistake) -> str:
    true = one.object.name if one.object else "another class"
    return f"Class and box are both wrong: it is annotated as {true}, and the box fits it badly (IoU {one.iou:.2f})."


def _duplicate(one: Mistake) -> str:
    return f"A surer detection has this {one.name} already. Do the two maps rest on the same pixels?"


def _missed(one: Mistake) -> str:
    if not len(one.found):
        return f"This {one.name} was missed, and the model gave no candidate for it."
    return f"This {one.name} was missed. The map shows what its best candidate rests on."


_SENTENCES = {
    BACKGROUND: _background,
    LOCALIZATION: _localization,
    CLASSIFICATION: _classification,
    BOTH: _both,
    DUPLICATE: _duplicate,
    MISSED: _missed,
}


def surest_first(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """False detections by falling score, then the missed objects by falling size."""

    def rank(one: Mistake) -> tuple[bool, float]:
        missed = one.kind == MISSED
        return missed, -one.area if missed else -one.score

    return sorted(mistakes, key=rank)


def choose(mistakes: Sequence[Mistake], top: int) -> list[Mistake]:
    """At most `top` mistakes, the first of each kind in turn as long as it has any, in the order in which they came."""
    queues = [[i for i, one in enumerate(mistakes) if one.kind == kind] for kind in KINDS]
    rounds = [(place, i) for queue in queues for place, i in enumerate(queue)]
    return [mistakes[i] for i in sorted(i for _, i in sorted(rounds)[:top])]
