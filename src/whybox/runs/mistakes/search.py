"""Find a detector's errors over a data set and classify them by type (TIDE)."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from whybox import api
from whybox.accuracy.tide import CORRECT, DUPLICATE, IGNORED, KINDS, MISSED, Sorted, ap50, ap50_gains, sort_errors
from whybox.decisions import describe_rule
from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.explained import class_name
from whybox.missed import SAME, match_drawn
from whybox.model import Model
from whybox.ops.matching import pairwise_iou
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.runs.labels import check_columns, column_names, match_classes, to_columns
from whybox.runs.mistakes.mistake import Mistake, Named, surest_first
from whybox.truth import DataSet, Truth
from whybox.types import Detections, Trace
from whybox.verdicts import judge, own_rule, suppressor

SCHEMA = 1
"""Version of errors.json's format; raised when an older reader would misread the file."""


@dataclass(frozen=True)
class Search:
    """The settings of an error analysis.

    Attributes:
        method: The explanation method.
        score_threshold: Minimum score of a detection, 0 to 1.
        limit: Use only the first images; None: all.
        top: Maximum number of explained errors, balanced over the types, highest scores first.
        options: The method's options.
    """

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
    """The errors of a model's detections on a data set.

    Attributes:
        model: The model's name.
        data: The data set's name.
        search: The settings.
        images: Number of evaluated images.
        objects: Number of annotated objects, without ignored ones.
        correct: Number of correct detections.
        mistakes: The errors, highest scores first.
        ap50: AP at IoU .50 over all detections of the model, regardless of score, 0 to 1.
        gains: By error type, how much `ap50` would rise without its errors (dAP of TIDE).
        failed: (image, reason) for each image that could not be evaluated.
        notes: Sentences without a full stop on how the data's classes were matched with the model's.
        suppression: The model's rule of duplicate removal with its thresholds, in words; "" where it is not known.
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
    notes: tuple[str, ...] = ()
    suppression: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """The number of errors by type."""
        counts = Counter(mistake.kind for mistake in self.mistakes)
        return {kind: counts[kind] for kind in KINDS}

    def as_dict(self) -> dict[str, Any]:
        """The errors without maps, as plain numbers and text: the contents of errors.json.

        Returns:
            A dict ready for JSON; what does not exist is None.
        """
        return {
            "schema": SCHEMA,
            "model": self.model,
            "data": self.data,
            "method": self.search.method,
            "options": dict(self.search.options),
            "score_threshold": self.search.score_threshold,
            "suppression": self.suppression or None,
            "images": self.images,
            "objects": self.objects,
            "correct": self.correct,
            "counts": self.counts,
            "ap50": rounded(self.ap50),
            "ap50_gains": {kind: rounded(gain) for kind, gain in self.gains.items()},
            "errors": [mistake.as_dict() for mistake in self.mistakes],
            "failed": [{"image": name, "error": reason} for name, reason in self.failed],
            "notes": list(self.notes),
        }


def find_errors(
    model: Model, data: DataSet, search: Search, *, on_progress: OnProgress = no_progress, on_warning: OnWarning
) -> Errors:
    """Classify the model's errors in every image.

    Args:
        model: A detector.
        data: Annotated images.
        search: The settings.
        on_progress: Called with an image's name after each image.
        on_warning: Called with a line for each image that fails, for classes that the model does not know, and for columns
            without names.

    Returns:
        The errors, counts and gains in AP50, without maps.

    Raises:
        WhyboxError: The method or its options are invalid, or the model knows none of the data set's classes, or has no names
            for its columns and another number of them.
    """
    # The maps are drawn later, but an invalid method should fail before the first image.
    api.make_method(search.method, model, **search.options)
    data = api.open_data(data)
    notes = match_classes(model, data)
    for line in notes:
        on_warning(line)
    names = data.names[: search.limit]
    sorted_images: list[Sorted] = []
    mistakes: list[Mistake] = []
    failed: list[tuple[str, str]] = []
    objects = correct = 0
    for index, name in enumerate(names):
        try:
            all_sorted, shown, found = _sort_image(model, data, index, search)
        except FATAL:
            raise
        except Exception as error:
            failed.append((name, reason_of(error)))
            on_warning(of_image(name, reason_of(error)))
        else:
            sorted_images.append(all_sorted)
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
        notes,
        "" if (rule := own_rule(model)) is None else describe_rule(rule),
    )


def _sort_image(model: Model, data: DataSet, index: int, search: Search) -> tuple[Sorted, Sorted, list[Mistake]]:
    """All classified detections of an image, those above the score threshold, and the errors among the latter."""
    sample = data[index]
    trace = api.trace(model, sample.image)
    check_columns(model, trace.candidates.scores.shape[1], data)
    truth = to_columns(sample.truth, data.classes, model.classes, first_column=model.first_column)
    truth = _inside(truth, trace.frame.image)
    everything = _on_cpu(trace.detections)
    # AP counts detections of any score; the errors that are shown do not.
    found = everything[everything.scores >= search.score_threshold]
    shown = sort_errors(found, truth)
    names = _names(model, data)
    false = [
        _false(sample.name, index, i, found, shown, truth, names)
        for i, kind in enumerate(shown.kinds)
        if kind not in (CORRECT, IGNORED)
    ]
    missed = _missed(sample.name, index, trace, truth, shown.missed, model, names, search.score_threshold)
    return sort_errors(everything, truth), shown, [_judged(mistake, model, trace) for mistake in false + missed]


def _judged(mistake: Mistake, model: Model, trace: Trace) -> Mistake:
    """A duplicate, and a missed object's candidate, with what suppression said about it."""
    if mistake.kind == DUPLICATE and mistake.rival is not None:
        return replace(mistake, decision=judge(model, trace, mistake.rival, mistake.found))
    if mistake.kind != MISSED or not len(mistake.found) or _is_detection(mistake.found, trace):
        return mistake
    removed = suppressor(model, trace, mistake.found)
    if removed is None:
        return mistake
    row, decision = removed
    return replace(mistake, rival=_on_cpu(trace.detections[[row]]), decision=decision)


def _is_detection(candidate: Detections, trace: Trace) -> bool:
    found = trace.detections
    return bool(((found.source.cpu() == candidate.source) & (found.labels.cpu() == candidate.labels)).any())


def _inside(truth: Truth, size: tuple[int, int]) -> Truth:
    """The objects with boxes clipped to the image, as the model's own boxes are, without those outside of it."""
    boxes = clip_boxes_to_image(truth.boxes, size)
    return replace(truth, boxes=boxes)[((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)]


def _on_cpu(detections: Detections) -> Detections:
    return Detections(detections.boxes.cpu(), detections.scores.cpu(), detections.labels.cpu(), detections.source.cpu())


def _names(model: Model, data: DataSet) -> Callable[[int], str]:
    """The class name of a label: the model's, or the data set's if the model has none."""
    known = column_names(model, data.classes)
    return lambda label: class_name(label, known)


def _false(
    image: str, index: int, i: int, found: Detections, shown: Sorted, truth: Truth, names: Callable[[int], str]
) -> Mistake:
    """Detection i as a mistake."""
    object_row, rival, kind = int(shown.objects[i]), int(shown.rivals[i]), shown.kinds[i]
    return Mistake(
        image,
        index,
        kind,
        found[i],
        names(int(found.labels[i])),
        float(shown.ious[i]),
        object=_named(truth, object_row, names) if object_row >= 0 else None,
        rival=found[rival] if kind == DUPLICATE and rival >= 0 else None,
        held=rival >= 0,
    )


def _named(truth: Truth, row: int, names: Callable[[int], str]) -> Named:
    label = int(truth.labels[row])
    return Named(truth.ids[row], names(label), label, truth.boxes[row])


def _missed(
    image: str, index: int, trace: Trace, truth: Truth, rows: Tensor, model: Model, names: Callable[[int], str], threshold: float
) -> list[Mistake]:
    """The missed objects `rows`, each with its best candidate and a note on why its score is low."""
    mistakes = []
    for row in rows.tolist():
        best, note = _candidate(trace, truth, row, model, threshold)
        iou = float(pairwise_iou(best.boxes, truth.boxes[row][None])[0, 0]) if len(best) else 0.0
        missed = _named(truth, row, names)
        mistakes.append(Mistake(image, index, MISSED, best, missed.name, iou, object=missed, note=note))
    return mistakes


def _candidate(trace: Trace, truth: Truth, row: int, model: Model, threshold: float) -> tuple[Detections, str]:
    """The best candidate of object `row`, and why its score is low.

    A candidate that fits another object of the class better belongs to that object, and in a crowd often has the higher
    score: it is left out if others remain.
    """
    if not len(trace.candidates):
        return Detections.empty(), ""
    label = int(truth.labels[row])
    # A two-stage detector has a box per class.
    boxes = trace.candidates.boxes if trace.candidates.boxes.ndim == 2 else trace.candidates.boxes[:, label]
    # Two boxes without area have IoU 0 / 0.
    iou = pairwise_iou(boxes, truth.boxes[truth.labels == label].to(boxes))
    # The object's column among those of its class.
    with_object = iou[:, int((truth.labels[:row] == label).sum())]
    rows = torch.nonzero((with_object > 0) & ((with_object >= iou.amax(1)) | (with_object >= SAME)))[:, 0]
    rows = rows if len(rows) else torch.arange(len(boxes), device=boxes.device)
    drawn = {"boxes": truth.boxes[row][None], "labels": [label]}
    best, (note,) = match_drawn(_narrowed(trace, rows), drawn, model.classes, threshold)
    return _on_cpu(replace(best, source=rows[best.source])), note.replace("the drawn box", "the object")


def _narrowed(trace: Trace, rows: Tensor) -> Trace:
    """The trace with only some candidates, and with all detections, whose source is -1 where their candidate is left out."""
    # All detections stay: the note on a candidate compares it with them.
    new_row = torch.full((len(trace.candidates),), -1, device=rows.device)
    new_row[rows] = torch.arange(len(rows), device=rows.device)
    detections = trace.detections
    # A source that is not known stays so: -1 as an index would be the last row.
    source = torch.where(detections.source >= 0, new_row[detections.source], -1)
    return replace(trace, candidates=trace.candidates[rows], detections=replace(detections, source=source))


def rounded(value: float) -> float | None:
    """Round a number for JSON.

    Args:
        value: The number.

    Returns:
        Four decimals; None for a value that is not finite.
    """
    return round(value, 4) if math.isfinite(value) else None


def of_image(name: str, reason: str) -> str:
    """A line on an image that failed.

    Args:
        name: The image's name.
        reason: Why it failed.

    Returns:
        The reason, with the name before it unless it contains the name.
    """
    return reason if name in reason else f"{name}: {reason}"
