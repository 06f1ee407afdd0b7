"""ODAM-NMS: what two detections looked at decides whether they are one object."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox.errors import WhyboxError
from whybox.rule import ANOTHER, DUPLICATE, Rule, Suppressed, Vectors, against
from whybox.suppression._in_order import keep_in_order
from whybox.suppression.greedy import check_share


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows (n,D) scaled to length 1; a row of zeros stays zero."""
    # Divided by the largest entry first: the square of a raw gradient map's values may underflow.
    scaled = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    units: Tensor = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    return units


def has_neighbor(boxes: Tensor, groups: Tensor, grow: float = 0.5) -> Tensor:
    """Whether each box, grown on every side by `grow` of its width and height, touches another grown box of its group: (N,) bool.

    For a box that has none, no map is needed: nothing else can have looked at what it looked at.
    """
    margin = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).repeat(1, 2) * boxes.new_tensor([-grow, -grow, grow, grow])
    wide = boxes + margin
    result = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    # A slice at a time: 10,000 boxes against one another are 400 MB.
    for rows in torch.split(torch.arange(len(boxes), device=boxes.device), 1000):
        touching = (box_iou(wide[rows], wide) > 0) & (groups[rows, None] == groups)
        touching[torch.arange(len(rows), device=rows.device), rows] = False
        result[rows] = touching.any(1)
    return result


@dataclass(frozen=True)
class OdamNms(Rule):
    """ODAM-NMS: a box that overlaps a kept one by more than `iou_threshold` is a duplicate only if the cosine of their maps is at
    least `low`; one that overlaps it less is a duplicate nevertheless if the cosine is at least `high`.

    The maps are flattened and scaled to length 1; their mean is not subtracted. Where one of the two maps is zero everywhere, the
    IoU alone decides. With `high` over 1 and `low` 0 this is greedy NMS.

    Attributes:
        iou_threshold: As in greedy NMS.
        high: Cosine from which boxes of little overlap are duplicates.
        low: Cosine below which boxes of much overlap are not.
    """

    iou_threshold: float = 0.5
    high: float = 0.8
    low: float = 0.2

    name: ClassVar[str] = "odam"
    title: ClassVar[str] = "ODAM-NMS"
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, ICLR 2023 and the journal version, algorithm 1"
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    def __post_init__(self) -> None:
        check_share("odam", "iou_threshold", self.iou_threshold)
        if not 0 <= self.low <= self.high or self.high == 0:
            wrong = f"low {self.low:g} and high {self.high:g}"
            raise WhyboxError(f"rule 'odam': 0 <= low <= high and high > 0 are needed, got {wrong}")

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Remove boxes that looked at what a kept one of their group looked at. vectors: of the maps."""
        assert vectors is not None
        alike = MapSimilarity(boxes, groups, vectors)

        def removes(rows: Tensor, others: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
            cosine, known = alike(rows, others)
            overlapping = iou > self.iou_threshold
            # NaN, where a map is zero everywhere, is at least nothing: the second term is then false.
            by_map = torch.where(overlapping, cosine >= self.low, cosine >= self.high)
            return torch.where(known, by_map, overlapping), cosine

        return keep_in_order(boxes, scores, groups, removes)

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """The IoU and the cosine against the thresholds that decide at this IoU."""
        overlapping = iou > self.iou_threshold
        overlap = f"IoU {against(iou, '>' if overlapping else '≤', self.iou_threshold)}"
        verdict = DUPLICATE if removed else ANOTHER
        if math.isnan(similarity):
            return f"{overlap}, and a map is zero everywhere, so that the IoU alone decides: {verdict}"
        threshold = self.low if overlapping else self.high
        # What the overlap alone would say and what the maps say, joined by "and" where they agree.
        joined = " and" if removed == overlapping else ", but"
        return f"{overlap}{joined} {self.compared} {against(similarity, '≥' if removed else '<', threshold)}: {verdict}"


class MapSimilarity:
    """Cosines of maps. Maps that are not at hand are asked for only where a candidate has a neighbor; they are drawn at once."""

    def __init__(self, boxes: Tensor, groups: Tensor, vectors: Vectors) -> None:
        """Ask for the maps that can matter.

        Args:
            boxes: (N,4) xyxy.
            groups: (N,).
            vectors: Of the maps.
        """
        needed = torch.ones_like(groups, dtype=torch.bool) if vectors.at_hand else has_neighbor(boxes, groups)
        rows = needed.nonzero()[:, 0]
        units = unit_rows(vectors.of(rows).float()) if len(rows) else boxes.new_zeros((0, 1))
        self._place = torch.full((len(groups),), len(rows), dtype=torch.long, device=groups.device)
        self._place[rows] = torch.arange(len(rows), device=rows.device)
        # A last row stands for all candidates without a map: zeros, whose cosine with anything is 0.
        self._units = torch.cat([units, units.new_zeros((1, units.shape[1]))])
        self._known = torch.cat([units.ne(0).any(1), torch.ones(1, dtype=torch.bool, device=units.device)])

    def __call__(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Compare candidates.

        Args:
            rows: (b,)
            others: (m,)

        Returns:
            (b,m) cosines, NaN where a map is zero everywhere; (b,m) bool, whether there is one. A candidate without a neighbor
            has the cosine 0 with all others.
        """
        mine, theirs = self._place[rows], self._place[others]
        known = self._known[mine][:, None] & self._known[theirs]
        return (self._units[mine] @ self._units[theirs].T).masked_fill(~known, torch.nan), known
