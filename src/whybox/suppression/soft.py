"""Soft-NMS: overlapping boxes are not removed but lose score."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox.errors import WhyboxError, unknown
from whybox.rule import Rule, Suppressed, Vectors
from whybox.suppression._in_order import by_group
from whybox.suppression.greedy import check_share


@dataclass(frozen=True)
class Soft(Rule):
    """Soft-NMS: each kept box multiplies the scores of the others by a factor that falls with their IoU.

    Attributes:
        decay: "gaussian", exp(-IoU^2 / sigma); "linear", 1 - IoU where the IoU is over `iou_threshold`.
        sigma: Of the Gaussian.
        iou_threshold: Of the linear decay.
        min_score: A box whose score falls to this or below is removed.
        returned: "decayed": the kept boxes have their lowered scores, as published; "original": those that they came with, as
            ODAM's reference implementation returns them, which puts near-duplicates among the best boxes.
    """

    decay: Literal["gaussian", "linear"] = "gaussian"
    sigma: float = 0.5
    iou_threshold: float = 0.3
    min_score: float = 0.001
    returned: Literal["decayed", "original"] = "decayed"

    name: ClassVar[str] = "soft"
    title: ClassVar[str] = "Soft-NMS"
    source: ClassVar[str] = "Bodla, Singh, Chellappa, Davis: Soft-NMS, ICCV 2017, eqs. 2 and 3"
    rescores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.decay not in ("gaussian", "linear"):
            raise unknown("decay", self.decay, ("gaussian", "linear"))
        if self.returned not in ("decayed", "original"):
            raise unknown("returned", self.returned, ("decayed", "original"))
        check_share("soft", "iou_threshold", self.iou_threshold)
        check_share("soft", "min_score", self.min_score)
        if self.sigma <= 0:
            raise WhyboxError(f"rule 'soft': sigma must be greater than 0, got {self.sigma:g}")

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Lower the scores of boxes that overlap a kept one of their group; `by` names the box that brought one down."""
        by = torch.full_like(groups, -1, dtype=torch.long)
        iou = torch.full_like(scores, torch.nan, dtype=torch.float32)
        lowered = scores.float().clone()
        kept: list[Tensor] = []
        for rows in by_group(scores, groups):
            left = rows[lowered[rows] > self.min_score]
            while len(left):
                best = lowered[left].argmax()
                row = left[best]
                kept.append(row)
                left = torch.cat([left[:best], left[best + 1 :]])
                # Of two boxes without area it is NaN, and a score times NaN would be lost.
                overlap = box_iou(boxes[row, None].float(), boxes[left].float())[0].nan_to_num()
                lowered[left] *= self._factor(overlap)
                stays = lowered[left] > self.min_score
                by[left[~stays]], iou[left[~stays]] = row, overlap[~stays]
                left = left[stays]
        chosen = torch.stack(kept) if kept else by[:0]
        # Ranked by the decayed scores also where the original ones are returned: that is the order in which they were kept.
        chosen = chosen[lowered[chosen].argsort(descending=True, stable=True)]
        final = lowered.to(scores.dtype) if self.returned == "decayed" else scores
        return Suppressed(chosen, final[chosen], by, iou, torch.full_like(iou, torch.nan))

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """The factor by which this IoU lowers a score."""
        factor = float(self._factor(torch.tensor(iou)))
        lowered = f"IoU {iou:.2f} multiplies its score by {factor:.2f}"
        return f"{lowered}; all together, it fell to {self.min_score:g} or below" if removed else lowered

    def _factor(self, iou: Tensor) -> Tensor:
        if self.decay == "gaussian":
            return (-iou.square() / self.sigma).exp()
        return torch.where(iou > self.iou_threshold, 1 - iou, 1)
