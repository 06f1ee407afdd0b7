"""Which detections of an image are explained: the model's own best, the user's, or boxes that the user drew."""

from typing import Any

import torch

from whybox.errors import WhyboxError
from whybox.given_detections import boxes_and_labels
from whybox.missed import match_drawn
from whybox.model import Model
from whybox.types import Detections, Trace

MOST_DETECTIONS = 100
"""The default of `top` for detectors."""


def check_selection(score_threshold: Any, top: Any) -> None:
    """Refuse an invalid threshold or number of detections."""
    # True is an int.
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 0):
        raise WhyboxError(f"top must be a whole number of detections, 0 or more, got {top!r}")
    # NaN alone is not equal to itself.
    if not isinstance(score_threshold, (int, float)) or score_threshold != score_threshold:
        raise WhyboxError(f"score_threshold must be a number, got {score_threshold!r}")


def best(detections: Detections, score_threshold: float, top: int) -> Detections:
    """The `top` detections with the highest scores, at least `score_threshold`, in their original order."""
    kept = torch.nonzero(detections.scores >= score_threshold)[:, 0]
    if len(kept) > top:
        # topk sorts by score; the detector's own order is kept, as without `top`.
        kept = kept[detections.scores[kept].topk(top).indices.sort().values]
    return detections[kept]


def choose(
    trace: Trace, wanted: Any, model: Model, score_threshold: float, top: int | None
) -> tuple[Detections, tuple[str, ...]]:
    """Select the detections to explain.

    Args:
        trace: The image's trace.
        wanted: None, Detections of this trace, or what `given_detections` reads: a mapping with "boxes" and "labels",
            supervision.Detections, ultralytics' Results, COCO's dictionaries.
        model: The model that made the trace.
        score_threshold: The lowest score of the model's own detections.
        top: The largest number of the model's own detections; None: 100, and all texts of an image-text model.

    Returns:
        N detections, and N notes: on what became of the boxes that the user drew, or on what the model itself left out.
    """
    if wanted is None:
        own = _own(trace, model, score_threshold, top)
        most = MOST_DETECTIONS if top is None else top
        # With as many as are wanted, what has lower scores is not missed.
        return own, (_left_out(trace, model, score_threshold) if len(own) < most else "",) * len(own)
    if isinstance(wanted, Detections):
        _check_rows(wanted, trace)
        return wanted, ("",) * len(wanted)
    drawn = boxes_and_labels(wanted, model.classes, trace.frame.image)
    if model.whole_image and "labels" in drawn and "boxes" not in drawn:
        drawn = {**drawn, "boxes": trace.candidates.boxes.expand(len(drawn["labels"]), 4)}
    detections, notes = match_drawn(trace, drawn, model.classes, score_threshold)
    # There is one candidate, the whole image: how well it fits the box says nothing.
    return detections, ("",) * len(detections) if model.whole_image else notes


def _own(trace: Trace, model: Model, score_threshold: float, top: int | None) -> Detections:
    own = trace.detections
    if not model.whole_image:
        return best(own, score_threshold, MOST_DETECTIONS if top is None else top)
    if model.takes_text:
        # The user asked for every text: the threshold does not apply.
        chosen = best(own, -torch.inf, len(own) if top is None else top)
    else:
        chosen = best(own, score_threshold, MOST_DETECTIONS if top is None else top)
    # A classifier always has an answer, however unsure.
    return chosen if len(chosen) or top == 0 else own[:1]


def _left_out(trace: Trace, model: Model, score_threshold: float) -> str:
    """Where candidates with scores over the user's threshold lie under the model's own, a line that says so."""
    floor = model.score_threshold
    scores = trace.candidates.scores[:, model.first_column :]
    if not ((scores >= score_threshold) & (scores < floor)).any():
        return ""
    return f"there may be more: {model.name} itself gives nothing under a score of {floor:g}"


def _check_rows(wanted: Detections, trace: Trace) -> None:
    rows, columns = trace.candidates.scores.shape
    fits = (wanted.source >= 0) & (wanted.source < rows) & (wanted.labels >= 0) & (wanted.labels < columns)
    if not fits.all():
        raise WhyboxError("detections: source or labels are not this image's candidates; pass boxes and labels instead")
