"""Objects that the detector missed: the best candidate for a box drawn by the user, and why its score is low."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from whybox.errors import WhyboxError
from whybox.explained import class_name
from whybox.ops.matching import pairwise_iou
from whybox.targets import class_index
from whybox.types import Detections, Trace

SAME = 0.99
"""From this IoU on, a drawn box counts as the detection itself."""
CLOSE = 0.5
"""From this IoU on, a candidate is considered for a drawn box; where there is none, the one with the highest IoU is taken."""


def match_drawn(
    trace: Trace, drawn: Mapping[str, Any], classes: Sequence[str] | None, score_threshold: float = 0.3
) -> tuple[Detections, tuple[str, ...]]:
    """Match drawn boxes with candidates of their class: the one with the highest score among those with an IoU of at least
    0.5, else the one with the highest IoU. A box that is one of the detections is matched with that detection.

    Args:
        trace: The image's trace.
        drawn: "boxes" (N,4) xyxy in image pixels and, where the class is known, "labels" (N) names or columns.
        classes: The names of the columns, or None.
        score_threshold: The notes mention detections with a lower score.

    Returns:
        N detections, and N notes on what became of each candidate.

    Raises:
        WhyboxError: Boxes or labels are invalid, or boxes lie outside the image.
    """
    boxes = _read_boxes(drawn, trace)
    labels = _read_labels(drawn, boxes, trace, classes)
    matches = [_best_candidate(trace, box, label) for box, label in zip(boxes, labels, strict=True)]
    source = torch.tensor([row for row, _, _ in matches], dtype=torch.long, device=boxes.device)
    label = torch.tensor([label for _, label, _ in matches], dtype=torch.long, device=boxes.device)
    # As detectors clip their own boxes; candidates are not clipped.
    decoded = clip_boxes_to_image(trace.candidates.boxes_of(source, label), trace.frame.image)
    detections = Detections(decoded, trace.candidates.scores[source, label], label, source)
    overlaps = [iou for _, _, iou in matches]
    notes = tuple(_reason(trace, detections[i], overlaps[i], classes, score_threshold) for i in range(len(detections)))
    return detections, notes


def _read_boxes(drawn: Mapping[str, Any], trace: Trace) -> Tensor:
    if "boxes" not in drawn:
        raise WhyboxError(f"detections: expected a mapping with 'boxes' and 'labels', got {', '.join(map(str, drawn)) or 'none'}")
    try:
        boxes = torch.as_tensor(drawn["boxes"], dtype=torch.float32, device=trace.candidates.boxes.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise WhyboxError("boxes must be numbers x1, y1, x2, y2 in image pixels, one row per box") from None
    boxes = boxes[None] if boxes.ndim == 1 and len(boxes) == 4 else boxes
    # An empty list is read as the shape (0,).
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise WhyboxError(f"boxes must have the shape (N, 4), got {tuple(boxes.shape)}")
    height, width = trace.frame.image
    clipped: Tensor = clip_boxes_to_image(boxes, (height, width))
    for box, inside in zip(boxes.tolist(), clipped.tolist(), strict=True):
        text = ", ".join(f"{value:g}" for value in box)
        # "not >" and not "<=", so that NaN is refused.
        if not (box[2] > box[0] and box[3] > box[1]):
            raise WhyboxError(f"box ({text}): expected x1 < x2 and y1 < y2, in image pixels")
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            raise WhyboxError(f"box ({text}): lies outside the image of {width}x{height} pixels")
    return clipped


def _read_labels(drawn: Mapping[str, Any], boxes: Tensor, trace: Trace, classes: Sequence[str] | None) -> list[int | None]:
    labels = drawn.get("labels")
    if labels is None:
        return [None] * len(boxes)
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(values) != len(boxes):
        raise WhyboxError(f"detections: {len(boxes)} boxes and {len(values)} labels; expected one label per box")
    numbers = [class_index(value, classes) for value in values]
    columns = trace.candidates.scores.shape[1]
    for number in numbers:
        if not 0 <= number < columns:
            raise WhyboxError(f"label {number}: the model has the columns 0 to {columns - 1}")
    return list(numbers)


def _best_candidate(trace: Trace, box: Tensor, label: int | None) -> tuple[int, int, float]:
    """(row, column of the class, IoU)"""
    candidates = trace.candidates
    if not len(candidates):
        raise WhyboxError("the model gave no candidate on this image")
    if (detection := _same_detection(trace, box, label)) is not None:
        return detection
    per_class = candidates.boxes if candidates.boxes.ndim == 3 else candidates.boxes[:, None]
    # The box of its class alone: the same proposal may fit well with another class's box.
    if label is not None and per_class.shape[1] > 1:
        per_class = per_class[:, label : label + 1]
    iou = pairwise_iou(per_class.reshape(-1, 4), box[None]).reshape(len(candidates), -1)
    scores = candidates.scores if label is None else candidates.scores[:, label : label + 1]
    iou = iou.expand_as(scores)
    close = iou >= CLOSE
    # -1 is below every score.
    rank = torch.where(close, scores, -1.0) if close.any() else iou
    row, at = divmod(int(rank.flatten().argmax()), scores.shape[1])
    return row, at if label is None else label, float(iou[row, at])


def _same_detection(trace: Trace, box: Tensor, label: int | None) -> tuple[int, int, float] | None:
    """The detector's own detection, where the drawn box is one."""
    detections = trace.detections
    if not len(detections):
        return None
    iou = pairwise_iou(detections.boxes, box[None])[:, 0]
    if label is not None:
        iou = iou * (detections.labels == label)
    best = int(iou.argmax())
    return (int(detections.source[best]), int(detections.labels[best]), float(iou[best])) if iou[best] >= SAME else None


def _reason(trace: Trace, detection: Detections, iou: float, classes: Sequence[str] | None, threshold: float) -> str:
    """What became of a candidate, in one line."""
    row, label, score = int(detection.source), int(detection.labels), float(detection.scores)
    parts = [f"best candidate: IoU {iou:.2f} with the drawn box, score {score:.3f}{_factors(trace, row, label)}"]
    if _is_detection(trace, row, label):
        parts.append("it is among the detections" if score >= threshold else f"detected, below the threshold {threshold:g}")
    else:
        parts += _rivals(trace, detection, classes)
    winner = int(trace.candidates.scores[row].argmax())
    if winner != label:
        leads = float(trace.candidates.scores[row, winner])
        parts.append(f"another class leads there: {class_name(winner, classes)} {leads:.3f}")
    return "; ".join(parts)


def _is_detection(trace: Trace, row: int, label: int) -> bool:
    detections = trace.detections
    return bool(((detections.source == row) & (detections.labels == label)).any())


def _rivals(trace: Trace, detection: Detections, classes: Sequence[str] | None) -> list[str]:
    """The detection of the same class that covers it most, where one can have suppressed it."""
    same = torch.nonzero((trace.detections.labels == detection.labels) & (trace.detections.scores >= detection.scores))[:, 0]
    if len(same):
        iou = pairwise_iou(trace.detections.boxes[same], detection.boxes)[:, 0]
        best = int(iou.argmax())
        if iou[best] >= CLOSE:
            name = class_name(int(detection.labels), classes)
            return [f"covered by detection {int(same[best])} ({name}, IoU {float(iou[best]):.2f})"]
    return ["not kept by the detector: its score is too low there"]


def _factors(trace: Trace, row: int, label: int) -> str:
    if len(trace.candidates.factors) < 2:
        return ""
    values = ((name, value[row] if value.ndim == 1 else value[row, label]) for name, value in trace.candidates.factors.items())
    return " (" + ", ".join(f"{name} {float(value):.3f}" for name, value in values) + ")"
