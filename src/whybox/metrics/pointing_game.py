"""Pointing game: whether the map's peak lies on the object."""

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
    """Whether the peak of each map lies on its target.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.2.

    Args:
        maps: (N,H,W).
        targets: The pixels that hit, (N,H,W) bool.
        ties: Where several pixels share the highest value, "expected" is the fraction of them that hits, the mean score of a
            random choice, and so a constant map scores the target's share of the image; "first" takes the first of them row
            by row, as the reference code does.

    Returns:
        (N,), 1 or 0, or between them for ties; NaN for a map with NaN.
    """
    if ties == "first":
        flat = maps.flatten(1)
        # argmax takes the first of equal values, and NaN as the largest of all.
        peak = flat.argmax(1, keepdim=True)
        hits = targets.flatten(1).gather(1, peak).to(maps)
        return hits.masked_fill(flat.gather(1, peak).isnan(), torch.nan)[:, 0]
    peaks = tied_peaks(maps)
    return (peaks & targets).sum((-2, -1)).to(maps) / peaks.sum((-2, -1))


def box_targets(boxes: Tensor, size: tuple[int, int], tolerance: float = 0.0) -> Tensor:
    """The pixels that hit boxes.

    Args:
        boxes: (N,4) xyxy in pixels.
        size: Of the image, (H, W).
        tolerance: Pixels within this distance of a box hit. With 0 only those strictly inside, as in the reference code: of
            the box 5..15 the pixels 6..14.

    Returns:
        (N,H,W) bool.
    """
    # Pixel i at the coordinate i, not i + 1/2, as in the reference code.
    (down, across) = (torch.arange(length, device=boxes.device, dtype=boxes.dtype) for length in size)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    beyond_x = torch.maximum(low[..., 0] - across, across - high[..., 0])
    beyond_y = torch.maximum(low[..., 1] - down, down - high[..., 1])
    if not tolerance:
        return (beyond_y < 0)[:, :, None] & (beyond_x < 0)[:, None, :]
    distance = beyond_y.clamp(min=0).square()[:, :, None] + beyond_x.clamp(min=0).square()[:, None, :]
    return distance <= tolerance**2


def mask_targets(masks: Tensor, tolerance: float = 0.0) -> Tensor:
    """The pixels that hit masks.

    Args:
        masks: (N,H,W) bool.
        tolerance: Pixels within this distance of a mask's pixel hit, too.

    Returns:
        (N,H,W) bool.
    """
    reach = int(tolerance)
    if not reach:
        return masks
    # As floats: torch pools no booleans.
    wide = pad(masks.float(), (0, 0, reach, reach))
    height = masks.shape[-2]
    grown = torch.zeros_like(masks)
    # Dilation by a disc, row by row: max pooling has only rectangles, and each row of the disc is one.
    for row in range(-reach, reach + 1):
        half = int((tolerance**2 - row**2) ** 0.5)
        rows = wide[:, reach + row : reach + row + height]
        grown |= max_pool2d(rows, (1, 2 * half + 1), stride=1, padding=(0, half)) > 0
    return grown


@dataclass(frozen=True)
class PointingGame(Metric):
    """Pointing game.

    Attributes:
        region: The object's "box", or its "mask".
        tolerance: Image pixels beside the object that still hit; the first pointing games used 15.
        ties: "expected" or "first", see `pointing_hits`.
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
        """The name for tables, with the options that change its meaning."""
        return f"Pointing game ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """Whether each map's peak hits its object.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 1 or 0, or between them for ties; NaN without an object.
        """
        regions, own = object_regions(maps, inputs, self.region)

        def judge(chosen: Tensor, rows: Tensor) -> Tensor:
            if self.region == "mask":
                targets = mask_targets(regions.of(rows), self.tolerance)
            else:
                targets = box_targets(regions.boxes[rows], regions.size, self.tolerance)
            hits = pointing_hits(chosen, targets, self.ties)
            return torch.where(regions.of(rows).flatten(1).any(1), hits, torch.nan)

        return MetricResult(judge_matched(maps, own, judge))
