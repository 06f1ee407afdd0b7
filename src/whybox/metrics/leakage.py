"""Leakage: the largest share of a map's energy on one other object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import distance_box_iou

from whybox.ops.regions import (
    Floor,
    Region,
    Regions,
    check_floor,
    check_region,
    energy,
    judge_matched,
    object_regions,
    sum_shares,
)
from whybox.truth import Metric, MetricInput, MetricResult


class Leaks(NamedTuple):
    """The energy of N maps on each of G objects; NaN in the target's own column.

    Attributes:
        shares: (N,G) shares of each map's energy on each other object.
        diou: (N,G) distance-IoU of the target with it.
    """

    shares: Tensor
    diou: Tensor


def leaks(maps: Tensor, regions: Regions, own: Tensor, floor: Floor = "minimum") -> Leaks:
    """The share of each map's energy on each other object, with the distance of the two objects.

    Pixels in the target's own region do not leak. DIoU = IoU - d^2 / c^2, with d the distance of the boxes' centers and c
    the diagonal of the box around both.

    Source: the pairs and DIoU: reference code of Zhao, Hsiao, Chan, journal version of ODAM; there IoU counts one pixel
    more a side. DIoU: Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 7.

    Args:
        maps: (N,H,W) on the image's pixels.
        regions: The G objects' regions.
        own: (N,) rows of the targets in `regions`.
        floor: See `whybox.ops.regions.energy`.

    Returns:
        Shares and distance-IoUs; shares are NaN for a map without energy.
    """
    amounts = energy(maps, floor)
    outside = regions.sums(amounts * ~regions.of(own))
    shares = sum_shares(outside, amounts.sum((-2, -1))[:, None], nothing=torch.nan)
    diou: Tensor = distance_box_iou(regions.boxes[own], regions.boxes)
    # Its own column is NaN and not 0: an object cannot leak onto itself.
    itself = own[:, None] == torch.arange(len(regions), device=own.device)
    return Leaks(shares.masked_fill(itself, torch.nan), diou.masked_fill(itself, torch.nan))


def largest_leak(shares: Tensor) -> Tensor:
    """The largest share of each map.

    Args:
        shares: (N,G), see `Leaks`.

    Returns:
        (N,), NaN where all shares are.
    """
    # torch refuses the maximum of an empty axis, and has no nanmax: below, NaN counts as less than any share.
    if not shares.shape[1]:
        return shares.new_full((len(shares),), torch.nan)
    largest = shares.nan_to_num(nan=-1.0).amax(1)
    return largest.masked_fill(largest < 0, torch.nan)


@dataclass(frozen=True)
class Leakage(Metric):
    """The largest share of each map's energy on one other object of any class; ignored regions are no objects.

    Attributes:
        region: The objects' "box", with every pixel that it touches, or their "mask".
        floor: "minimum" subtracts the map's lowest value first, as the paper's scaling to 0..1 does; "zero" does not.
    """

    region: Region = "box"
    floor: Floor = "minimum"

    name: ClassVar[str] = "leakage"
    group: ClassVar[str] = "discrimination"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "after the reference code of Zhao, Hsiao, Chan: ODAM, journal version; the largest pair is ours"

    def __post_init__(self) -> None:
        check_region(self.region)
        check_floor(self.floor)

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return f"Leakage ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The largest leak of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1; NaN without another object.
        """
        regions, own = object_regions(maps, inputs, self.region)
        return MetricResult(
            judge_matched(maps, own, lambda chosen, rows: largest_leak(leaks(chosen, regions, rows, self.floor).shares))
        )
