"""A detector's mistakes over a data set, sorted by kind."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from whybox import api
from whybox.accuracy.tide import CORRECT, DUPLICATE, IGNORED, KINDS, MISSED, Sorted, ap50, ap50_gains, sort_errors
from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.explained import class_name
from whybox.missed import SAME, match_drawn
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.runs.labels import lacking, to_columns
from whybox.runs.mistakes.mistake import Mistake, Named, surest_first
from whybox.truth import DataSet, Truth
from whybox.types import Detections, Trace

SCHEMA = 1
"""Of errors.json; it rises when a reader of the former one would misread the file."""


@dataclass(frozen=True)
class Search:
    """What is looked for: detections from `score_threshold` on, in the first `limit` images (None: in all). The `top` surest
    mistakes, balanced over the kinds, are explained by `method` with its options."""

    method: str = "odam"
    score_threshold: float = 0.3
    limit: int | None = None
    top: int = 100
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise WhyboxError(f"the score threshold must lie between 0 and 1, got {self.score_threshold:g}")
        if self.top < 1 or (self.limit is not None and self.limit < 1):
            raise WhyboxError(f"top and limit must be at least 1, got {self.top} and {self.limit}")


@dataclass(frozen=True)
class Errors:
    """What is wrong with a model's detections on a data set.

    mistakes: the surest first. correct: how many detections are. ap50: over all detections of the model, whatever their
    score; gains: by how much it would rise without each kind. failed: (image, reason) for each that could not be looked at.
    """

    model: str
    data: str
    search: Search
    images: int
    objects: int
    correct: int
    mistakes: tuple[Mistake, ...]
    ap50: float
    gains: Mapping[str, float]
    failed: tuple[tuple[str, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many mistakes of each kind."""
        found = Counter(one.kind for one in self.mistakes)
        return {kind: found[kind] for kind in KINDS}

    def as_dict(self) -> dict[str, Any]:
        """Everything but the maps, as plain numbers and text; what does not exist is None."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "data": self.data,
            "method": self.search.method,
            "options": dict(self.search.options),
            "score_threshold": self.search.score_threshold,
            "images": self.images,
            "objects": self.objects,
            "correct": self.correct,
            "counts": self.counts,
            "ap50": rounded(self.ap50),
            "ap50_gains": {kind: rounded(gain) for kind, gain in self.gains.items()},
            "errors": [one.as_dict() for one in self.mistakes],
            "failed": [{"image": name, "error": reason} for name, reason in self.failed],
        }


def find_errors(
    model: Model, data: DataSet, search: Search, *, on_progress: OnProgress = no_progress, on_warning: OnWarning
) -> Errors:
    """Sort what the model detects in every image; `on_warning` hears of an image that cannot be looked at, and of classes that
    the model does not know."""
    api.make_method(search.method, model, **search.options)
    if left := lacking(data.classes, model.classes):
        on_warning(f"{model.name} does not know {', '.join(left)}: objects of this kind are not counted")
    names = data.names[: search.limit]
    sorted_images: list[Sorted] = []
    mistakes: list[Mistake] = []
    failed: list[tuple[str, str]] = []
    objects = correct = 0
    for index, name in enumerate(names):
        try:
            whole, shown, found = _look(model, data, index, search)
        except FATAL:
            raise
        except Exception as error:
            failed.append((name, reason_of(error)))
            on_warning(of_image(name, reason_of(error)))
        else:
            sorted_images.append(whole)
            mistakes += found
            objects += int((shown.object_labels >= 0).sum())
            correct += shown.kinds.count(CORRECT)
        on_progress(name, 1)
    return Errors(
        model.name,
        data.name,
        search,
        len(sorted_images),
        objects,
        correct,
        tuple(surest_first(mistakes)),
        ap50(sorted_images),
        ap50_gains(sorted_images),
        tuple(failed),
    )


def _look(model: Model, data: DataSet, index: int, search: Search) -> tuple[Sorted, Sorted, list[Mistake]]:
    """All detections of an image sorted, those from the threshold on sorted, and the mistakes among these."""
    sample = data[index]
    passed = api.trace(model, sample.image)
    truth = to_columns(sample.truth, data.classes, model.classes, first_column=model.first_column)
    truth = _inside(truth, passed.frame.image)
    everything = _on_cpu(passed.detections)
    found = everything[everything.scores >= search.score_threshold]
    shown = sort_errors(found, truth)
    names = _names(model, data)
    false = [
        _false(sample.name, index, i, found, shown, truth, names)
        for i, kind in enumerate(shown.kinds)
        if kind not in (CORRECT, IGNORED)
    ]
    missed = _missed(sample.name, index, passed, truth, shown.missed, model, names, search.score_threshold)
    return sort_errors(everything, truth), shown, false + missed


def _inside(truth: Truth, size: tuple[int, int]) -> Truth:
    """The objects, cut at the image's edge as the model's own boxes are; those outside of it left out."""
    boxes = clip_boxes_to_image(truth.boxes, size)
    return replace(truth, boxes=boxes)[((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)]


def _on_cpu(found: Detections) -> Detections:
    return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.source.cpu())


def _names(model: Model, data: DataSet) -> Callable[[int], str]:
    """The class's name behind a label; where the model has no names, the data set's."""
    known = ("background",) * model.first_column + tuple(data.classes) if model.classes is None else model.classes
    return lambda label: class_name(label, known)


def _false(
    image: str, index: int, i: int, found: Detections, shown: Sorted, truth: Truth, names: Callable[[int], str]
) -> Mistake:
    """Detection i as a mistake."""
    about, rival, kind = int(shown.objects[i]), int(shown.rivals[i]), shown.kinds[i]
    return Mistake(
        image,
        index,
        kind,
        found[i],
        names(int(found.labels[i])),
        float(shown.ious[i]),
        object=_named(truth, about, names) if about >= 0 else None,
        rival=found[rival] if kind == DUPLICATE and rival >= 0 else None,
        held=rival >= 0,
    )


def _named(truth: Truth, row: int, names: Callable[[int], str]) -> Named:
    label = int(truth.labels[row])
    return Named(truth.ids[row], names(label), label, truth.boxes[row])


def _missed(
    image: str, index: int, passed: Trace, truth: Truth, rows: Tensor, model: Model, names: Callable[[int], str], threshold: float
) -> list[Mistake]:
    """The objects `rows` that were missed, each with its best candidate and why that scores low."""
    mistakes = []
    for row in rows.tolist():
        best, note = _candidate(passed, truth, row, model, threshold)
        iou = float(box_iou(best.boxes, truth.boxes[row][None])[0, 0]) if len(best) else 0.0
        one = _named(truth, row, names)
        mistakes.append(Mistake(image, index, MISSED, best, one.name, iou, object=one, note=note))
    return mistakes


def _candidate(passed: Trace, truth: Truth, row: int, model: Model, threshold: float) -> tuple[Detections, str]:
    """The best candidate of object `row`, and why its score is low.

    A candidate that fits another object of the class better is that one's, in a crowd often with the higher score: it
    is left out where others remain.
    """
    if not len(passed.candidates):
        return Detections.empty(), ""
    label = int(truth.labels[row])
    boxes = passed.candidates.boxes if passed.candidates.boxes.ndim == 2 else passed.candidates.boxes[:, label]
    iou = box_iou(boxes, truth.boxes[truth.labels == label].to(boxes)).nan_to_num()
    own = iou[:, int((truth.labels[:row] == label).sum())]
    rows = torch.nonzero((own > 0) & ((own >= iou.amax(1)) | (own >= SAME)))[:, 0]
    rows = rows if len(rows) else torch.arange(len(boxes), device=boxes.device)
    drawn = {"boxes": truth.boxes[row][None], "labels": [label]}
    best, (note,) = match_drawn(_narrowed(passed, rows), drawn, model.classes, threshold)
    return _on_cpu(replace(best, source=rows[best.source])), note.replace("the drawn box", "the object")


def _narrowed(passed: Trace, rows: Tensor) -> Trace:
    """The trace with some candidates alone and all its detections, whose source is -1 where their candidate is not there."""
    place = torch.full((len(passed.candidates),), -1, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    found = passed.detections
    return replace(passed, candidates=passed.candidates[rows], detections=replace(found, source=place[found.source]))


def rounded(value: float) -> float | None:
    """Four digits; None for what is not finite."""
    return round(value, 4) if math.isfinite(value) else None


def of_image(name: str, reason: str) -> str:
    """The reason with the image's name in it."""
    return reason if name in reason else f"{name}: {reason}"
