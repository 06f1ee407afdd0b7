"""Visual explanation accuracy: how well the map, cut at a threshold, is the object's shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import unknown
from whybox.ops.regions import Region, check_region, judge_matched, object_regions
from whybox.truth import Metric, MetricInput, MetricResult
from whybox.types import min_max

Area = Literal["trapezoid", "mean"]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""T of the paper."""


def vea_curve(maps: Tensor, regions: Tensor) -> Tensor:
    """IoU of the pixels where a map, scaled to 0..1, is above T with the object's region, for T in THRESHOLDS: (N,9).

    maps: (N,H,W). regions: (N,H,W) bool. A constant map is nowhere above a threshold: 0. NaN where a region is empty.
    Source: Zhao, Hsiao, Chan, journal version of ODAM, visual explanation accuracy. Its code draws the mask from
    polygons cut to whole pixels; ours is the data set's own mask.
    """
    at = maps.new_tensor(THRESHOLDS)
    # One pass over the pixels for all thresholds: how many pixels exceed k of them, outside the region and inside.
    levels, bins = len(at) + 1, 2 * (len(at) + 1)
    kinds = torch.bucketize(min_max(maps), at, out_int32=True)
    kinds.add_(regions, alpha=levels).add_(bins * torch.arange(len(maps), dtype=torch.int32, device=maps.device)[:, None, None])
    counts = kinds.flatten().bincount(minlength=bins * len(maps)).reshape(len(maps), 2, levels)
    outside, inside = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].unbind(1)
    sizes = counts[:, 1].sum(1)
    defined = (sizes > 0) & maps.isfinite().flatten(1).all(1)
    return torch.where(defined[:, None], (inside / (outside + sizes[:, None])).to(maps), torch.nan)


def area_under(curves: Tensor, area: Area = "trapezoid") -> Tensor:
    """Curves (N,9) over THRESHOLDS -> (N,).

    "trapezoid": the area between T = .1 and .9 as a part of the largest possible, .8, so that a perfect map gives 1.
    "mean": of the nine values. The paper does not say which it takes.
    """
    if area == "mean":
        return curves.mean(1)
    return ((curves[:, 1:] + curves[:, :-1]) / 2).mean(1)


@dataclass(frozen=True)
class Vea(Metric):
    """Visual explanation accuracy (VEA).

    region: the object's "mask", or its "box". auc: "trapezoid" or "mean", see `area_under`.
    """

    region: Region = "mask"
    auc: Area = "trapezoid"

    name: ClassVar[str] = "vea"
    group: ClassVar[str] = "localization"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    across: ClassVar[str] = "threshold of the map"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, visual explanation accuracy"

    def __post_init__(self) -> None:
        check_region(self.region)
        if self.auc not in ("trapezoid", "mean"):
            raise unknown("auc", self.auc, ("trapezoid", "mean"))

    @property
    def title(self) -> str:
        return f"VEA ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under each curve, and the curves."""
        regions, own = object_regions(maps, inputs, self.region)
        curves = judge_matched(maps, own, lambda chosen, rows: vea_curve(chosen, regions.of(rows)))
        return MetricResult(area_under(curves, self.auc), curves, curves.new_tensor(THRESHOLDS))
