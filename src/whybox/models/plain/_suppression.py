"""From candidates to detections."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from whybox.frame import Size
from whybox.types import Candidates, Detections

_FEW = 1000
"""Up to so many boxes torchvision compares all classes at once, moved apart; more it compares class by class."""


@dataclass(frozen=True)
class Suppression:
    """From candidates to detections: each candidate with its best class, class by class non-maximum suppression.

    nms_iou: boxes of one class that overlap more than this are duplicates; None: none are.
    """

    score_threshold: float = 0.05
    nms_iou: float | None = 0.5
    max_detections: int = 100

    def detections(self, candidates: Candidates, image: Size) -> Detections:
        """The detections, best first, clipped to the image; `source` is the candidate's row."""
        if not candidates.scores.numel():
            return Detections.empty(candidates.scores)
        scores, labels = candidates.scores.max(1)
        source = (scores > self.score_threshold).nonzero()[:, 0]
        boxes = candidates.boxes_of(source, labels[source])
        # In float32: torchvision's nms has no half precision on CPUs.
        kept = self._kept(boxes.float(), scores[source].float(), labels[source])
        source = source[kept]
        limit = boxes.new_tensor([image[1], image[0], image[1], image[0]])
        return Detections(boxes[kept].clamp(min=0).minimum(limit), scores[source], labels[source], source)

    def _kept(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """The rows that are kept, best first."""
        if self.nms_iou is None:
            return scores.argsort(descending=True, stable=True)[: self.max_detections]
        if len(boxes) <= _FEW:
            rows: Tensor = batched_nms(boxes, scores, labels, self.nms_iou)
            return rows[: self.max_detections]
        order = scores.argsort(descending=True, stable=True)
        count = _FEW
        while True:  # what is kept of the best does not depend on the rest
            best = order[:count]
            kept = _nms_by_class(boxes[best], scores[best], labels[best], self.nms_iou)
            if len(kept) >= self.max_detections or count >= len(order):
                return best[kept[: self.max_detections]]
            count *= 4


def _nms_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """The rows that are kept of boxes that come best first, in that order."""
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for label in torch.unique(labels):
        rows = (labels == label).nonzero()[:, 0]
        kept[rows[nms(boxes[rows], scores[rows], iou)]] = True
    return kept.nonzero()[:, 0]
