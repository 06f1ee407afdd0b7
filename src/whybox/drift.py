"""Two models' detections of one image: which belong together, how their scores differ, and how alike their maps are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whybox.explained import Explained
from whybox.ops.matching import match_well_detected, pairwise_iou
from whybox.ops.similarity import mean_cells, pearson
from whybox.types import Detections

SAME_OBJECT = 0.5
"""From this IoU on, two detections of one class may be of one object."""
CELLS = 64
"""Maps are compared as means over a grid with this many cells along the image's longer side."""


@dataclass(frozen=True)
class Pair:
    """A detection of the first model, one of the second, or both, of one object.

    Attributes:
        first: The row among the first model's detections; None where it did not find the object.
        second: The row among the second model's; None where it did not.
        iou: Of their boxes; NaN where there is one.
        correlation: Pearson's, of their maps; NaN where there is one, or a map is constant.
    """

    first: int | None
    second: int | None
    iou: float = float("nan")
    correlation: float = float("nan")


def match_detections(first: Detections, second: Detections, names: tuple[Sequence[str], Sequence[str]]) -> list[Pair]:
    """Match two models' detections of one image, one to one, by class name and overlap.

    Args:
        first: N detections.
        second: M detections.
        names: Their class names, N and M.

    Returns:
        Pairs in the order of `first`, then what the second model alone has; without correlations.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys((*names[0], *names[1])))}
    labels = [torch.tensor([numbers[name] for name in each], dtype=torch.long) for each in names]
    boxes = [each.boxes.detach().cpu() for each in (first, second)]
    matched = match_well_detected(boxes[0], labels[0], boxes[1], labels[1], iou=SAME_OBJECT - 1e-6, legacy=False).tolist()
    overlap = pairwise_iou(boxes[0], boxes[1])
    pairs = [Pair(i, j, float(overlap[i, j])) if j >= 0 else Pair(i, None) for i, j in enumerate(matched)]
    return [*pairs, *(Pair(None, j) for j in range(len(second)) if j not in matched)]


def compare_explained(first: Explained, second: Explained) -> list[Pair]:
    """Match two models' explanations of one image, and compare the maps of what belongs together.

    Args:
        first: The first model's.
        second: The second model's, with the same method and target.

    Returns:
        As `match_detections`, with correlations.
    """
    pairs = match_detections(first.detections, second.detections, (first.names, second.names))
    both = [(pair.first, pair.second) for pair in pairs if pair.first is not None and pair.second is not None]
    if not both:
        return pairs
    maps = [_cells(each, rows) for each, rows in zip((first, second), zip(*both, strict=True), strict=True)]
    values = iter(pearson(*maps).tolist())
    return [
        pair if pair.first is None or pair.second is None else Pair(pair.first, pair.second, pair.iou, next(values))
        for pair in pairs
    ]


def _cells(explained: Explained, rows: Sequence[int]) -> Tensor:
    return mean_cells(explained.maps[list(rows)].at_image().detach().float().cpu(), CELLS)
