"""Which detection stands for which annotated object."""

import torch
from torch import Tensor


def pairwise_iou(a: Tensor, b: Tensor, legacy: bool = False) -> Tensor:
    """Intersection over union of boxes a (N,4) and b (M,4), xyxy -> (N,M).

    legacy: a box holds the pixels of both its corners, so that it is x2 - x1 + 1 wide; for whole numbers this counts
    pixels. No epsilon is added: two boxes without area have the IoU 0, two equal boxes have exactly 1.
    """
    pixel = 1 if legacy else 0
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + pixel).clamp(min=0)
    shared = sides.prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2] + pixel).clamp(min=0).prod(-1) for boxes in (a, b))
    union = area_a[:, None] + area_b - shared
    return (shared / union).masked_fill(union <= 0, 0)


def match_well_detected(
    boxes: Tensor, labels: Tensor, truth_boxes: Tensor, truth_labels: Tensor, *, iou: float = 0.9, legacy: bool = True
) -> Tensor:
    """The row of the annotated object that each of N detections finds well, or -1 -> (N,) int64.

    boxes (N,4) and truth_boxes (M,4) xyxy in the same pixels; labels (N,), truth_labels (M,). One to one and greedy: again
    and again the pair of one class with the largest IoU of all that is left is taken, while that IoU is above `iou`. Of
    equal pairs the first detection's is taken, then the first object's. legacy: as in `pairwise_iou`.

    Source: Zhao et al., "Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination" (ODAM), the well-detected objects of its quantitative experiments.
    """
    overlap = pairwise_iou(boxes, truth_boxes, legacy)
    rows, columns = torch.nonzero((overlap > iou) & (labels[:, None] == truth_labels), as_tuple=True)
    order = overlap[rows, columns].argsort(descending=True, stable=True)
    matched, taken = [-1] * len(boxes), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if matched[row] < 0 and column not in taken:
            matched[row] = column
            taken.add(column)
    return torch.tensor(matched, dtype=torch.long, device=boxes.device)
