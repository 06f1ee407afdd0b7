"""From candidates to detections."""

from dataclasses import dataclass

from whybox.frame import Size
from whybox.suppression.greedy import greedy_rows
from whybox.types import Candidates, Detections


@dataclass(frozen=True)
class Suppression:
    """From candidates to detections: each candidate with its best class, class by class non-maximum suppression.

    nms_iou: boxes of one class that overlap more than this are duplicates; None: none are.
    """

    score_threshold: float = 0.05
    nms_iou: float | None = 0.5
    max_detections: int = 100

    def unsuppressed(self, candidates: Candidates, image: Size) -> Detections:
        """Each candidate with its best class, where the score is over the threshold; boxes clipped to the image."""
        if not candidates.scores.numel():
            return Detections.empty(candidates.scores)
        scores, labels = candidates.scores.max(1)
        source = (scores > self.score_threshold).nonzero()[:, 0]
        boxes = candidates.boxes_of(source, labels[source])
        limit = boxes.new_tensor([image[1], image[0], image[1], image[0]])
        return Detections(boxes.clamp(min=0).minimum(limit), scores[source], labels[source], source)

    def detections(self, candidates: Candidates, image: Size) -> Detections:
        """The detections, best first; `source` is the candidate's row."""
        found = self.unsuppressed(candidates, image)
        if self.nms_iou is None:
            return found[found.scores.argsort(descending=True, stable=True)[: self.max_detections]]
        # Suppression compares the boxes as the network gave them, not clipped; in float32, because torchvision's nms has no half
        # precision on CPUs.
        boxes = candidates.boxes_of(found.source, found.labels)
        kept = greedy_rows(boxes.float(), found.scores.float(), found.labels, self.nms_iou, self.max_detections)
        return found[kept]
