"""Pixel accuracy: the share of pixels that the map, cut at its mean, classifies correctly."""

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

    Ignored regions of the object's class do not count. A map that is nowhere above the threshold has the background's share.

    Source: Chefer, Gur, Wolf, CVPR 2021, segmentation: the map is cut at its mean.

    Attributes:
        region: The object's "mask", or its "box".
        threshold: "mean", or a number, of the map scaled to 0..1.
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
        """The name for tables, with the options that change its meaning."""
        return f"Pixel accuracy above {self.threshold} ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The accuracy of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1; NaN without an object.
        """

        def accuracy(values: Tensor, own: Tensor) -> Tensor:
            # In float32 a mean over more than 2**24 pixels is no longer exact.
            return (above(values, self.threshold) == own).double().mean()

        return MetricResult(judge_pixels(maps, inputs, self.region, accuracy))
