"""One error of a detector: its object, the maps that explain it, and a sentence about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whybox.accuracy.tide import BACKGROUND, BOTH, CLASSIFICATION, DUPLICATE, KINDS, LOCALIZATION, MISSED
from whybox.rule import Decision
from whybox.targets import SIDES
from whybox.types import Detections

EDGES = {"x1": "left", "y1": "top", "x2": "right", "y2": "bottom"}


@dataclass(frozen=True)
class Named:
    """An annotated object.

    Attributes:
        id: The annotation's id.
        name: The class name.
        label: The class's score column.
        box: (4,) xyxy in image pixels, clipped to the image.
    """

    id: str
    name: str
    label: int
    box: Tensor


@dataclass(frozen=True)
class Mistake:
    """One error in an image of a data set.

    Attributes:
        image: The image's name.
        index: The image's index in the data set.
        kind: The TIDE error type.
        found: The detection, one row, on the CPU; for a missed object its best candidate, empty if the model has none.
        name: The class name of `found`, or of the missed object.
        iou: IoU of the detection with `object`, or the largest with any object.
        object: The ground truth object that the error is about, if any.
        rival: For a duplicate, the detection with a higher score that is matched to the object; for a missed object, the
            detection that removed its best candidate as a duplicate, if one did.
        held: Whether another detection is matched to the object.
        note: Why a missed object's candidate has a low score.
        decision: What the model's rule of duplicate removal said about `rival` and `found`; None where it is not known.
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
    decision: Decision | None = None

    @property
    def score(self) -> float:
        """The score of the detection or of the candidate; NaN without one."""
        return float(self.found.scores[0]) if len(self.found) else math.nan

    @property
    def worst_side(self) -> tuple[str, float]:
        """The worst side of a localization error: the side with the largest error relative to the object's width or height, and
        that error in pixels, positive where the box reaches too far; ("", 0) for other types."""
        if self.kind != LOCALIZATION or self.object is None:
            return "", 0.0
        true = self.object.box
        # x1 and y1 reach too far where they are too small.
        outward = (self.found.boxes[0] - true) * torch.tensor([-1.0, -1.0, 1.0, 1.0])
        extent = (true[2:] - true[:2]).repeat(2)
        worst = int((outward.abs() / extent).argmax())
        return SIDES[worst], float(outward[worst])

    @property
    def area(self) -> float:
        """The area of the object's box in square pixels; 0 without an object."""
        return 0.0 if self.object is None else float((self.object.box[2:] - self.object.box[:2]).prod())

    def targets(self) -> tuple[tuple[Detections, str, str], ...]:
        """The maps that explain the error.

        Returns:
            (detection, target, label of the map) for each; () for a missed object without a candidate.
        """
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
            matched = (self.rival, "score", f"the matched detection, {float(self.rival.scores[0]):.2f}")
            return (self.found, "score", f"the duplicate, {self.score:.2f}"), matched
        if self.kind == MISSED and self.rival is not None:
            remover = (self.rival, "score", f"the detection that removed it, {float(self.rival.scores[0]):.2f}")
            return (self.found, "score", f"the best candidate, {self.score:.2f}"), remover
        return ((self.found, "score", f"the best candidate, {self.score:.2f}"),) if self.kind == MISSED else (score,)

    def sentence(self) -> str:
        """Describe the error in one or two sentences.

        Returns:
            Sentences for the page, about the object and the maps.
        """
        return _SENTENCES[self.kind](self)

    def as_dict(self) -> dict[str, Any]:
        """The error as plain numbers and text.

        Returns:
            A dict ready for JSON; what does not exist is None.
        """
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
            "repeats": _row(self.rival) if self.rival is not None and self.kind == DUPLICATE else None,
            "removed_by": _row(self.rival) if self.rival is not None and self.kind == MISSED else None,
            "suppression": None if self.decision is None else _decision(self.decision),
            "object_found_by_another": self.held,
            "sentence": self.sentence(),
            "note": self.note,
        }


def _row(found: Detections) -> dict[str, Any] | None:
    if not len(found):
        return None
    box = [round(side, 2) for side in found.boxes[0].tolist()]
    return {"box": box, "score": round(float(found.scores[0]), 6), "label": int(found.labels[0]), "source": int(found.source[0])}


def _decision(decision: Decision) -> dict[str, Any]:
    alike = None if math.isnan(decision.similarity) else round(decision.similarity, 4)
    return {"outcome": decision.outcome, "iou": round(decision.iou, 4), "similarity": alike, "why": decision.why}


def _object(named: Named) -> dict[str, Any]:
    box = [round(side, 2) for side in named.box.tolist()]
    return {"id": named.id, "class": named.name, "label": named.label, "box": box}


def _background(mistake: Mistake) -> str:
    # Below, two decimals would read 0.00.
    touches = f"; the largest IoU with an object is {mistake.iou:.2f}" if mistake.iou >= 0.005 else ""
    return f"No object is annotated here{touches}. The map shows the evidence for {mistake.name}."


def _localization(mistake: Mistake) -> str:
    side, off = mistake.worst_side
    way = f"reaches {abs(off):.0f} px too far" if off > 0 else f"stops {abs(off):.0f} px short"
    held = " Another detection is matched to this object." if mistake.held else ""
    return f"Its {EDGES[side]} edge {way} (IoU {mistake.iou:.2f}); the map explains the position of that edge.{held}"


def _classification(mistake: Mistake) -> str:
    true = mistake.object.name if mistake.object else "another class"
    held = " Another detection is matched to this object." if mistake.held else ""
    return (
        f"It is annotated as {true} (IoU {mistake.iou:.2f}). The first map shows the evidence for {mistake.name} against {true}."
        f"{held}"
    )


def _both(mistake: Mistake) -> str:
    true = mistake.object.name if mistake.object else "another class"
    return f"Class and box are both wrong: it is annotated as {true}, and the box is poorly localized (IoU {mistake.iou:.2f})."


def _duplicate(mistake: Mistake) -> str:
    return f"A detection with a higher score is matched to this {mistake.name}. Do the two maps highlight the same pixels?"


def _missed(mistake: Mistake) -> str:
    if not len(mistake.found):
        return f"This {mistake.name} was missed, and the model has no candidate for it."
    if mistake.rival is not None:
        return (
            f"This {mistake.name} was missed: its best candidate was removed as a duplicate of a detection with a higher score. "
            "Do the two maps highlight the same pixels?"
        )
    return f"This {mistake.name} was missed. The map explains the score of its best candidate."


_SENTENCES = {
    BACKGROUND: _background,
    LOCALIZATION: _localization,
    CLASSIFICATION: _classification,
    BOTH: _both,
    DUPLICATE: _duplicate,
    MISSED: _missed,
}


def surest_first(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Order mistakes for the page.

    Args:
        mistakes: The mistakes.

    Returns:
        False detections by descending score, then missed objects by descending area.
    """

    def rank(mistake: Mistake) -> tuple[bool, float]:
        # A missed object's candidate has a low score by definition, so its size says how grave the error is.
        missed = mistake.kind == MISSED
        return missed, -mistake.area if missed else -mistake.score

    return sorted(mistakes, key=rank)


def choose(mistakes: Sequence[Mistake], top: int) -> list[Mistake]:
    """Choose mistakes balanced over the error types: the first of each type, then the second, and so on.

    Args:
        mistakes: The mistakes, the most important first.
        top: Maximum number.

    Returns:
        The chosen mistakes in their original order.
    """
    queues = [[i for i, mistake in enumerate(mistakes) if mistake.kind == kind] for kind in KINDS]
    # Sorted by the place in its queue first: that is one of every type, then the next of every type.
    rounds = [(place, i) for queue in queues for place, i in enumerate(queue)]
    return [mistakes[i] for i in sorted(i for _, i in sorted(rounds)[:top])]
