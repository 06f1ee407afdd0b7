"""Pointing game: does the map's peak lie on the object?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from whybox.errors import WhyboxError, unknown
from whybox.ops.regions import Region, check_region, judge_matched, object_regions, tied_peaks
from whybox.truth import Metric, MetricInput, MetricResult

Ties = Literal["expected", "first"]


def pointing_hits(maps: Tensor, targets: Tensor, ties: Ties = "expected") -> Tensor:
    """Does the peak of each map (N,H,W) lie on its target (N,H,W) bool? 1 or 0, (N,).

    ties: where several pixels share the highest value, "expected" gives the part of them that hits, what a peak drawn
    at random among them would score on average; "first" takes the first of them row by row, as the reference code.
    A constant map points nowhere and scores the target's share of the image: were it a miss, adding noise to it would
    pay. NaN where a map holds NaN.
    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.2.
    """
    if ties == "first":
        flat = maps.flatten(1)
        peak = flat.argmax(1, keepdim=True)
        hits = targets.flatten(1).gather(1, peak).to(maps)
        return hits.masked_fill(flat.gather(1, peak).isnan(), torch.nan)[:, 0]
    peaks = tied_peaks(maps)
    return (peaks & targets).sum((-2, -1)).to(maps) / peaks.sum((-2, -1))


def box_targets(boxes: Tensor, size: tuple[int, int], tolerance: float = 0.0) -> Tensor:
    """The pixels that hit boxes (N,4) xyxy: bool (N,*size), pixel i at the coordinate i, not i + 1/2.

    Without a tolerance those strictly inside, as in the reference code: of the box 5..15 the pixels 6..14. With one, all
    within that distance of the box.
    """
    (down, across) = (torch.arange(length, device=boxes.device, dtype=boxes.dtype) for length in size)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    beyond_x = torch.maximum(low[..., 0] - across, across - high[..., 0])
    beyond_y = torch.maximum(low[..., 1] - down, down - high[..., 1])
    if not tolerance:
        return (beyond_y < 0)[:, :, None] & (beyond_x < 0)[:, None, :]
    distance = beyond_y.clamp(min=0).square()[:, :, None] + beyond_x.clamp(min=0).square()[:, None, :]
    return distance <= tolerance**2


def mask_targets(masks: Tensor, tolerance: float = 0.0) -> Tensor:
    """The pixels that hit masks (N,H,W) bool: theirs, and all within the tolerance of one of theirs."""
    reach = int(tolerance)
    if not reach:
        return masks
    wide = pad(masks.float(), (0, 0, reach, reach))
    height = masks.shape[-2]
    grown = torch.zeros_like(masks)
    # The disc row by row: each row of it is as wide as the circle is there.
    for row in range(-reach, reach + 1):
        half = int((tolerance**2 - row**2) ** 0.5)
        rows = wide[:, reach + row : reach + row + height]
        grown |= max_pool2d(rows, (1, 2 * half + 1), stride=1, padding=(0, half)) > 0
    return grown


@dataclass(frozen=True)
class PointingGame(Metric):
    """Pointing game.

    region: the object's "box", or its "mask". tolerance: how many image pixels beside it still hit (the first pointing
    games took 15). ties: "expected" or "first", see `pointing_hits`.
    """

    region: Region = "box"
    tolerance: float = 0.0
    ties: Ties = "expected"

    name: ClassVar[str] = "pointing_game"
    group: ClassVar[str] = "localization"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("", "region=mask"), "matching": ("region=mask",)}
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Zhang et al.: Excitation Backprop, ECCV 2016, section 4.2; Zhao, Hsiao, Chan: ODAM"

    def __post_init__(self) -> None:
        check_region(self.region)
        if self.tolerance < 0:
            raise WhyboxError(f"tolerance must be a number of pixels, 0 or more, got {self.tolerance}")
        if self.ties not in ("expected", "first"):
            raise unknown("ties", self.ties, ("expected", "first"))

    @property
    def title(self) -> str:
        return f"Pointing game ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """1 where a map's peak hits, 0 where it does not, between them where several peaks tie."""
        regions, own = object_regions(maps, inputs, self.region)

        def judge(chosen: Tensor, rows: Tensor) -> Tensor:
            if self.region == "mask":
                targets = mask_targets(regions.of(rows), self.tolerance)
            else:
                targets = box_targets(regions.boxes[rows], regions.size, self.tolerance)
            hits = pointing_hits(chosen, targets, self.ties)
            return torch.where(regions.of(rows).flatten(1).any(1), hits, torch.nan)

        return MetricResult(judge_matched(maps, own, judge))
