"""Object discrimination index: how much of what the map puts on objects lies on other objects."""

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
    """Each map's sum on all other objects / its sum on all objects: maps (N,H,W), own (N,) row of regions -> (N,).

    overlap: where another object's region overlaps the target's own, "keep" counts it as the other's, "exclude" as the
    target's. single: a target that has no other object beside it is "undefined", NaN, or "zero". A map without energy on
    any object is NaN: it says nothing of any. floor: see `whybox.ops.regions.energy`.
    Source: Zhao, Hsiao, Chan, journal version of ODAM, object discrimination index. The paper keeps the overlap and
    counts single objects as 0, and its code gives maps without energy on objects 0, the best value.
    """
    counts, mine = regions.counts(), regions.of(own)
    on_all = energy(maps, floor) * (counts > 0)
    others = (counts > 0) & ~mine if overlap == "exclude" else counts > mine.int()
    shares = sum_shares((on_all * others).sum((-2, -1)), on_all.sum((-2, -1)), nothing=torch.nan)
    alone = ~others.flatten(1).any(1) & ~shares.isnan()
    return shares.masked_fill(alone, torch.nan if single == "undefined" else 0.0)


@dataclass(frozen=True)
class Odi(Metric):
    """Object discrimination index (ODI). Objects of every class count, ignore regions do not.

    region: the objects' "box", with every pixel that it touches, or their "mask".
    overlap: "keep", as the paper, or "exclude". single: "undefined", or "zero" as the paper; see `discrimination_index`.
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
        return f"Object discrimination index ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The index of each map."""
        regions, own = object_regions(maps, inputs, self.region)

        def judge(chosen: Tensor, rows: Tensor) -> Tensor:
            return discrimination_index(chosen, regions, rows, overlap=self.overlap, single=self.single, floor=self.floor)

        return MetricResult(judge_matched(maps, own, judge))
