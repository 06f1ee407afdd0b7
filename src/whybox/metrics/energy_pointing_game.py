"""Energy pointing game: the share of the map's energy on the object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.ops.regions import Floor, Region, check_floor, check_region, energy, judge_matched, object_regions, sum_shares
from whybox.truth import Metric, MetricInput, MetricResult


def energy_inside(maps: Tensor, regions: Tensor, floor: Floor = "minimum") -> Tensor:
    """The share of each map's energy inside its region.

    Source: Wang et al., "Score-CAM", CVPR Workshops 2020, energy-based pointing game; with boxes and masks in Zhao,
    Hsiao, Chan, journal version of ODAM.

    Args:
        maps: (N,H,W).
        regions: (N,H,W) bool.
        floor: See `whybox.ops.regions.energy`.

    Returns:
        (N,), 0 to 1; 0 for a map without energy, NaN where a region is empty.
    """
    amounts = energy(maps, floor)
    shares = sum_shares((amounts * regions).sum((-2, -1)), amounts.sum((-2, -1)), nothing=0.0)
    # An object that lies outside the image has no pixel that could hold energy.
    return torch.where(regions.flatten(1).any(1), shares, torch.nan)


@dataclass(frozen=True)
class EnergyPointingGame(Metric):
    """Energy pointing game.

    Attributes:
        region: The object's "box", with every pixel that it touches, or its "mask".
        floor: "minimum" subtracts the map's lowest value first, as the paper's scaling to 0..1 does; "zero" does not.
    """

    region: Region = "box"
    floor: Floor = "minimum"

    name: ClassVar[str] = "energy_pointing_game"
    group: ClassVar[str] = "localization"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("", "region=mask"), "matching": ("region=mask",)}
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Wang et al.: Score-CAM, CVPR Workshops 2020; Zhao, Hsiao, Chan: ODAM, journal version"

    def __post_init__(self) -> None:
        check_region(self.region)
        check_floor(self.floor)

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return f"Energy pointing game ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The share of each map's energy on its object.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1; NaN without an object.
        """
        regions, own = object_regions(maps, inputs, self.region)
        return MetricResult(judge_matched(maps, own, lambda chosen, rows: energy_inside(chosen, regions.of(rows), self.floor)))
