"""Pixel accuracy: the share of pixels that the map, cut at its mean, puts on the right side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.metrics._pixel_truth import Threshold, above, check_threshold, judge_pixels
from whybox.ops.regions import Region, check_region
from whybox.truth import Metric, MetricInput, MetricResult


@dataclass(frozen=True)
class PixelAccuracy(Metric):
    """The share of pixels that are the object's and above a threshold of the map, or neither.

    region: the object's "mask", or its "box". threshold: the map's "mean", or a number, of the map scaled to 0..1. Ignored
    regions of the object's class do not count. A map that is nowhere above the threshold has the background's share.
    Source: Chefer, Gur, Wolf, CVPR 2021, segmentation: the map is cut at its mean.
    """

    region: Region = "mask"
    threshold: Threshold = "mean"

    name: ClassVar[str] = "pixel_accuracy"
    group: ClassVar[str] = "segmentation"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Chefer, Gur, Wolf, CVPR 2021, segmentation; Zhao et al.: Grad-ECLIP, ICML 2024"

    def __post_init__(self) -> None:
        check_region(self.region)
        check_threshold(self.threshold)

    @property
    def title(self) -> str:
        return f"Pixel accuracy above {self.threshold} ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The accuracy of each map."""

        def accuracy(values: Tensor, own: Tensor) -> Tensor:
            return (above(values, self.threshold) == own).double().mean()

        return MetricResult(judge_pixels(maps, inputs, self.region, accuracy))
