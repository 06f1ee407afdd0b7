"""Leakage: how much of the map lies on the one other object that gets most of it."""

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
    """shares (N,G) of each map's sum on each other object; diou (N,G), the distance-IoU of the target with it.

    Both are NaN in the target's own column.
    """

    shares: Tensor
    diou: Tensor


def leaks(maps: Tensor, regions: Regions, own: Tensor, floor: Floor = "minimum") -> Leaks:
    """Pair by pair, where the energy of maps (N,H,W) goes: own (N,) is the target's row among the G regions.

    A pixel of the target's own region never leaks. DIoU is IoU - d^2 / c^2, d the distance of the boxes' centers and c
    the diagonal of the box around both: with it, leaks can be set against how close two objects are. A map without
    energy is NaN. floor: see `whybox.ops.regions.energy`.
    Source: the pairs and DIoU: reference code of Zhao, Hsiao, Chan, journal version of ODAM; there IoU counts one pixel
    more a side. DIoU: Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 7.
    """
    amounts = energy(maps, floor)
    outside = regions.sums(amounts * ~regions.of(own))
    shares = sum_shares(outside, amounts.sum((-2, -1))[:, None], nothing=torch.nan)
    diou: Tensor = distance_box_iou(regions.boxes[own], regions.boxes)
    mine = own[:, None] == torch.arange(len(regions), device=own.device)
    return Leaks(shares.masked_fill(mine, torch.nan), diou.masked_fill(mine, torch.nan))


def largest_leak(shares: Tensor) -> Tensor:
    """The largest share of each row (N,G); NaN where a row has none."""
    if not shares.shape[1]:
        return shares.new_full((len(shares),), torch.nan)
    largest = shares.nan_to_num(nan=-1.0).amax(1)
    return largest.masked_fill(largest < 0, torch.nan)


@dataclass(frozen=True)
class Leakage(Metric):
    """The largest leak of each map to another object of any class; ignore regions are no objects. Alone: NaN.

    region: the objects' "box", with every pixel that it touches, or their "mask".
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
        return f"Leakage ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The largest leak of each map."""
        regions, own = object_regions(maps, inputs, self.region)
        return MetricResult(
            judge_matched(maps, own, lambda chosen, rows: largest_leak(leaks(chosen, regions, rows, self.floor).shares))
        )
