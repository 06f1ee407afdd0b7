"""Greedy non-maximum suppression: the rule that most detectors use."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from whybox.errors import WhyboxError
from whybox.rule import ANOTHER, DUPLICATE, Rule, Suppressed, Vectors, against
from whybox.suppression._in_order import keep_in_order

_TOGETHER = {"cpu": 1000}
_TOGETHER_ELSEWHERE = 5000
"""Up to so many boxes torchvision compares all classes at once, moved apart; more it compares class by class."""


def greedy_rows(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int | None = None) -> Tensor:
    """The rows that greedy suppression keeps, highest scores first. Every family's own post-processing calls this function.

    Args:
        boxes: (N,4) xyxy.
        scores: (N,).
        groups: (N,) classes; boxes of different groups never suppress each other.
        iou_threshold: A box that overlaps a kept one by more than this is a duplicate.
        most: The largest number of rows to return; None: all, bit for bit those of torchvision's `batched_nms`. With a number,
            equal scores keep the order of the input, which torchvision leaves open for many boxes.

    Returns:
        (K,)
    """
    if most is None or len(boxes) <= _TOGETHER.get(boxes.device.type, _TOGETHER_ELSEWHERE):
        rows: Tensor = batched_nms(boxes, scores, groups, iou_threshold)
        return rows[:most]
    order = scores.argsort(descending=True, stable=True)
    count = 1000
    # What is kept of the best does not depend on the rest: tens of thousands of boxes need not be compared for the best hundred.
    while True:
        best = order[:count]
        kept = _class_by_class(boxes[best], scores[best], groups[best], iou_threshold)
        if len(kept) >= most or count >= len(order):
            return best[kept[:most]]
        count *= 4


def _class_by_class(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """The rows that are kept of boxes that come highest scores first, in that order."""
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in torch.unique(groups):
        rows = (groups == group).nonzero()[:, 0]
        kept[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True
    return kept.nonzero()[:, 0]


@dataclass(frozen=True)
class Greedy(Rule):
    """Greedy NMS.

    Attributes:
        iou_threshold: A box that overlaps a kept one by more than this is a duplicate.
    """

    iou_threshold: float = 0.5

    name: ClassVar[str] = "greedy"
    title: ClassVar[str] = "NMS"
    source: ClassVar[str] = "torchvision.ops.batched_nms"

    def __post_init__(self) -> None:
        check_share("greedy", "iou_threshold", self.iou_threshold)

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Remove boxes that overlap a kept one of their group."""
        return keep_in_order(boxes, scores, groups, lambda rows, others, iou: (iou > self.iou_threshold, iou * torch.nan))

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """The IoU against the threshold."""
        sign = ">" if removed else "≤"
        return f"IoU {against(iou, sign, self.iou_threshold)}: {DUPLICATE if removed else ANOTHER}"


def check_share(rule: str, name: str, value: float) -> None:
    """Refuse an option that is no number from 0 to 1."""
    if not 0 <= value <= 1:
        raise WhyboxError(f"rule {rule!r}: {name} must lie between 0 and 1, got {value:g}")
