"""FeatureNMS: boxes of medium overlap are duplicates if their learned embeddings are close."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.rule import ANOTHER, DUPLICATE, Rule, Suppressed, Vectors, against
from whybox.suppression._in_order import keep_in_order
from whybox.suppression.greedy import check_share


@dataclass(frozen=True)
class Feature(Rule):
    """FeatureNMS.

    Attributes:
        low: Boxes that overlap by at most this are never duplicates.
        high: Boxes that overlap by more than this always are.
        distance: Between the two, those whose embeddings are at most so far apart (Euclidean) are.
    """

    low: float = 0.1
    high: float = 0.9
    distance: float = 1.0

    name: ClassVar[str] = "feature"
    title: ClassVar[str] = "FeatureNMS"
    source: ClassVar[str] = "Salscheider: FeatureNMS, ICPR 2020, algorithm 1"
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    compared: ClassVar[str] = "distance of the embeddings"

    def __post_init__(self) -> None:
        check_share("feature", "low", self.low)
        check_share("feature", "high", self.high)
        if self.low > self.high or self.distance < 0:
            raise WhyboxError(
                f"rule 'feature': low <= high and distance >= 0 are needed, got {self.low:g}, {self.high:g} and {self.distance:g}"
            )

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Remove boxes that overlap a kept one of their group and resemble it. vectors: of the embeddings."""
        assert vectors is not None
        embeddings = vectors.of(torch.arange(len(boxes), device=boxes.device))

        def removes(rows: Tensor, others: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
            # Not by a matrix product, which rounds the distance of equal embeddings to something other than 0.
            apart = torch.cdist(embeddings[rows], embeddings[others], compute_mode="donot_use_mm_for_euclid_dist")
            return (iou > self.high) | ((iou > self.low) & (apart <= self.distance)), apart

        return keep_in_order(boxes, scores, groups, removes)

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """The Euclidean distance (n,) of embeddings (n,D)."""
        distance: Tensor = (first - second).norm(dim=1)
        return distance

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """The IoU against its two thresholds; between them, the distance against its own."""
        verdict = DUPLICATE if removed else ANOTHER
        if iou > self.high:
            return f"IoU {against(iou, '>', self.high)}: {verdict} whatever the embeddings"
        if iou <= self.low:
            return f"IoU {against(iou, '≤', self.low)}: {verdict} whatever the embeddings"
        apart = against(similarity, "≤" if removed else ">", self.distance)
        return f"IoU {against(iou, '>', self.low)} and {self.compared} {apart}: {verdict}"
