"""Object discrimination index (ODI): the share on other objects of a map's energy on all objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import unknown
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

Overlap = Literal["keep", "exclude"]
Single = Literal["undefined", "zero"]


def discrimination_index(
    maps: Tensor,
    regions: Regions,
    own: Tensor,
    *,
    overlap: Overlap = "keep",
    single: Single = "undefined",
    floor: Floor = "minimum",
) -> Tensor:
    """Each map's energy on all other objects divided by its energy on all objects.

    Source: Zhao, Hsiao, Chan, journal version of ODAM, object discrimination index. The paper keeps the overlap and
    counts single objects as 0, and its code gives maps without energy on objects 0, the best value.

    Args:
        maps: (N,H,W) on the image's pixels.
        regions: The objects' regions.
        own: (N,) rows of the targets in `regions`.
        overlap: Where another object's region overlaps the target's, "keep" counts it as the other's, "exclude" as the
            target's.
        single: The value of a target without other objects, "undefined" (NaN) or "zero".
        floor: See `whybox.ops.regions.energy`.

    Returns:
        (N,), 0 to 1; NaN for a map without energy on any object.
    """
    counts, target_region = regions.counts(), regions.of(own)
    on_all = energy(maps, floor) * (counts > 0)
    # "keep": pixels in more regions than the target's own.
    others = (counts > 0) & ~target_region if overlap == "exclude" else counts > target_region.int()
    shares = sum_shares((on_all * others).sum((-2, -1)), on_all.sum((-2, -1)), nothing=torch.nan)
    # A map without energy on any object stays undefined, also where the object is the only one.
    alone = ~others.flatten(1).any(1) & ~shares.isnan()
    return shares.masked_fill(alone, torch.nan if single == "undefined" else 0.0)


@dataclass(frozen=True)
class Odi(Metric):
    """Object discrimination index (ODI). Objects of every class count, ignored regions do not.

    Attributes:
        region: The objects' "box", with every pixel that it touches, or their "mask".
        overlap: "keep", as in the paper, or "exclude"; see `discrimination_index`.
        single: "undefined", or "zero" as in the paper; see `discrimination_index`.
        floor: "minimum" subtracts the map's lowest value first, as the paper's scaling to 0..1 does; "zero" does not.
    """

    region: Region = "box"
    overlap: Overlap = "keep"
    single: Single = "undefined"
    floor: Floor = "minimum"

    name: ClassVar[str] = "odi"
    group: ClassVar[str] = "discrimination"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("", "region=mask")}
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, object discrimination index"

    def __post_init__(self) -> None:
        check_region(self.region)
        check_floor(self.floor)
        if self.overlap not in ("keep", "exclude"):
            raise unknown("overlap", self.overlap, ("keep", "exclude"))
        if self.single not in ("undefined", "zero"):
            raise unknown("single", self.single, ("undefined", "zero"))

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return f"Object discrimination index ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The index of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1, NaN where the index is not defined.
        """
        regions, own = object_regions(maps, inputs, self.region)

        def judge(chosen: Tensor, rows: Tensor) -> Tensor:
            return discrimination_index(chosen, regions, rows, overlap=self.overlap, single=self.single, floor=self.floor)

        return MetricResult(judge_matched(maps, own, judge))
