"""From candidates to detections, step by step as ultralytics does it."""

import torch
from torch import Tensor
from torchvision.ops import nms

from whybox.frame import Frame
from whybox.models.plain._suppression import Suppression
from whybox.models.ultralytics._turned import overlaps_better
from whybox.types import Candidates, Detections

_APART = 7680
"""Boxes of two classes are moved this many pixels apart, so that they do not overlap. The sum rounds, which decides near ties."""
_MOST = 30000
"""Boxes that take part in duplicate removal, those with the highest scores."""


def suppressed(candidates: Candidates, frame: Frame, suppression: Suppression) -> Detections:
    """After non-maximum suppression, each candidate with its best class."""
    found = suppression.unsuppressed(candidates, frame.image)
    if len(found) > _MOST:
        found = found[found.scores.argsort(descending=True)[:_MOST]]
    if suppression.nms_iou is None:
        return found[found.scores.argsort(descending=True, stable=True)[: suppression.max_detections]]
    if "angle" in candidates.raw:
        return _turned(found, candidates, frame, suppression.nms_iou)[: suppression.max_detections]
    # Not clipped to the image.
    boxes = frame.boxes_to_network(candidates.boxes[found.source])
    kept = nms((boxes + found.labels[:, None] * _APART).float(), found.scores.float(), suppression.nms_iou)
    return found[kept[: suppression.max_detections]]


def _turned(found: Detections, candidates: Candidates, frame: Frame, threshold: float) -> Detections:
    """Of turned boxes; one that is removed itself removes others, too."""
    found = found[found.scores.argsort(descending=True, stable=True)]
    raw = {name: values[found.source].float() for name, values in candidates.raw.items()}
    corners = frame.boxes_to_network(candidates.boxes[found.source]).float()
    center = (corners[:, :2] + corners[:, 2:]) / 2 + found.labels[:, None] * _APART
    sides = torch.stack([raw["l"] + raw["r"], raw["t"] + raw["b"]], 1)
    return found[~overlaps_better(center, sides, raw["angle"], threshold)]


def ranked(candidates: Candidates, frame: Frame, suppression: Suppression, most: int, pairs: int) -> Detections:
    """Without duplicate removal: the best `pairs` pairs of a class and one of the `most` best candidates."""
    scores = candidates.scores
    rows = scores.amax(1).topk(min(most, len(scores))).indices
    best, pair = scores[rows].flatten().topk(min(pairs, scores[rows].numel()))
    pair, best = pair[best > suppression.score_threshold], best[best > suppression.score_threshold]
    source, labels = rows[pair // scores.shape[1]], pair % scores.shape[1]
    chosen = slice(suppression.max_detections)
    boxes = _clipped(candidates.boxes[source], frame)
    return Detections(boxes, best, labels, source)[chosen]


def _clipped(boxes: Tensor, frame: Frame) -> Tensor:
    height, width = frame.image
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
