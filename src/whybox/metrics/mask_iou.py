"""Mask IoU: intersection over union of the pixels above the map's mean with the object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.metrics._pixel_truth import Threshold, above, check_threshold, judge_pixels
from whybox.ops.regions import Region, check_region
from whybox.truth import Metric, MetricInput, MetricResult


@dataclass(frozen=True)
class MaskIou(Metric):
    """Intersection over union of the object with the pixels where the map is above a threshold.

    Ignored regions of the object's class do not count.

    Source: Chefer, Gur, Wolf, CVPR 2021, segmentation: the map is cut at its mean. Ours is the IoU of the object alone; tables
    of segmentation often average it with the background's.

    Attributes:
        region: The object's "mask", or its "box".
        threshold: "mean", or a number, of the map scaled to 0..1.
    """

    region: Region = "mask"
    threshold: Threshold = "mean"

    name: ClassVar[str] = "mask_iou"
    group: ClassVar[str] = "segmentation"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "after Chefer, Gur, Wolf, CVPR 2021, segmentation; Zhao et al.: Grad-ECLIP, ICML 2024"

    def __post_init__(self) -> None:
        check_region(self.region)
        check_threshold(self.threshold)

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return f"IoU above {self.threshold} ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The IoU of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1; NaN without an object.
        """

        def iou(values: Tensor, own: Tensor) -> Tensor:
            shown = above(values, self.threshold)
            # `judge_pixels` leaves out objects without a pixel: the union is never empty.
            return (shown & own).sum() / (shown | own).sum()

        return MetricResult(judge_pixels(maps, inputs, self.region, iou))
