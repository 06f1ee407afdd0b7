"""Visual explanation accuracy (VEA): IoU of the thresholded map with the object, over thresholds."""

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
"""The paper's thresholds T."""


def vea_curve(maps: Tensor, regions: Tensor) -> Tensor:
    """IoU of the object's region with the pixels where the map, scaled to 0..1, is above T, for T in `THRESHOLDS`.

    Source: Zhao, Hsiao, Chan, journal version of ODAM, visual explanation accuracy. Its code draws the mask from
    polygons cut to whole pixels; ours is the data set's own mask.

    Args:
        maps: (N,H,W).
        regions: (N,H,W) bool.

    Returns:
        (N,9), 0 for a constant map; NaN where a region is empty or a map is not finite.
    """
    at = maps.new_tensor(THRESHOLDS)
    # One pass over the pixels for all thresholds: how many pixels exceed k of them, outside the region and inside.
    levels, bins = len(at) + 1, 2 * (len(at) + 1)
    # bucketize counts the thresholds strictly below a value: H > T, as in the reference code.
    cells = torch.bucketize(min_max(maps), at, out_int32=True)
    cells.add_(regions, alpha=levels).add_(bins * torch.arange(len(maps), dtype=torch.int32, device=maps.device)[:, None, None])
    counts = cells.flatten().bincount(minlength=bins * len(maps)).reshape(len(maps), 2, levels)
    # From the highest bin down: the pixels above a threshold are those of all bins beyond it.
    outside, inside = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].unbind(1)
    sizes = counts[:, 1].sum(1)
    defined = (sizes > 0) & maps.isfinite().flatten(1).all(1)
    return torch.where(defined[:, None], (inside / (outside + sizes[:, None])).to(maps), torch.nan)


def area_under(curves: Tensor, area: Area = "trapezoid") -> Tensor:
    """The area under curves over `THRESHOLDS`; the paper does not state its rule.

    Args:
        curves: (N,9).
        area: "trapezoid": the area between T = .1 and .9 divided by the largest possible one, .8, so that a perfect map scores
            1; "mean": the mean of the nine values.

    Returns:
        (N,), 0 to 1.
    """
    if area == "mean":
        return curves.mean(1)
    return ((curves[:, 1:] + curves[:, :-1]) / 2).mean(1)


@dataclass(frozen=True)
class Vea(Metric):
    """Visual explanation accuracy (VEA).

    Attributes:
        region: The object's "mask", or its "box".
        auc: "trapezoid" or "mean", see `area_under`.
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
        """The name for tables, with the options that change its meaning."""
        return f"VEA ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under each map's IoU curve.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            The areas (N,) and the curves (N,9); NaN without an object.
        """
        regions, own = object_regions(maps, inputs, self.region)
        curves = judge_matched(maps, own, lambda chosen, rows: vea_curve(chosen, regions.of(rows)))
        return MetricResult(area_under(curves, self.auc), curves, curves.new_tensor(THRESHOLDS))
