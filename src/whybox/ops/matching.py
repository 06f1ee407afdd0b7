"""Matching of detections with annotated objects."""

import torch
from torch import Tensor


def pairwise_iou(a: Tensor, b: Tensor, legacy: bool = False) -> Tensor:
    """Intersection over union of boxes, without an epsilon: two boxes without area have IoU 0, two equal boxes exactly 1.

    Args:
        a: (N,4) xyxy.
        b: (M,4) xyxy.
        legacy: Count the pixels of both corners, as VOC's code does: a box is x2 - x1 + 1 wide.

    Returns:
        (N,M)
    """
    pixel = 1 if legacy else 0
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + pixel).clamp(min=0)
    shared = sides.prod(-1)
    # Clamped side by side: two negative sides would have a positive product.
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2] + pixel).clamp(min=0).prod(-1) for boxes in (a, b))
    union = area_a[:, None] + area_b - shared
    return (shared / union).masked_fill(union <= 0, 0)


def match_well_detected(
    boxes: Tensor, labels: Tensor, truth_boxes: Tensor, truth_labels: Tensor, *, iou: float = 0.9, legacy: bool = True
) -> Tensor:
    """Match detections with the annotated objects of their class, one to one: greedily in descending order of IoU, above a
    threshold. Ties go to the first detection, then to the first object.

    Args:
        boxes: (N,4) xyxy.
        labels: (N,).
        truth_boxes: (M,4) xyxy in the same pixels.
        truth_labels: (M,).
        iou: A pair needs a larger IoU than this.
        legacy: As in `pairwise_iou`.

    Returns:
        (N,) int64, the row of each detection's object, or -1.

    Source: Zhao et al., "Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination" (ODAM), the well-detected objects of its quantitative experiments.
    """
    overlap = pairwise_iou(boxes, truth_boxes, legacy)
    # nonzero goes row by row, and the sort is stable: that is what decides ties.
    rows, columns = torch.nonzero((overlap > iou) & (labels[:, None] == truth_labels), as_tuple=True)
    order = overlap[rows, columns].argsort(descending=True, stable=True)
    matched, taken = [-1] * len(boxes), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if matched[row] < 0 and column not in taken:
            matched[row] = column
            taken.add(column)
    return torch.tensor(matched, dtype=torch.long, device=boxes.device)


def iou_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """IoU (n,) of boxes (n,4) with boxes (n,4); 0 where one has no area."""
    shared = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)
