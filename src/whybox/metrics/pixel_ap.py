"""Pixel AP: average precision of the map as a score of the object's pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.metrics._pixel_truth import judge_pixels
from whybox.ops.regions import Region, check_region
from whybox.truth import Metric, MetricInput, MetricResult


def average_precision(values: Tensor, positive: Tensor) -> Tensor:
    """AP = sum_n (R_n - R_{n-1}) P_n over the distinct values, the highest first, without interpolation.

    P_n and R_n are precision and recall of the pixels with at least the n-th value, so that the order of equal values has no
    effect: a constant map scores the share of the positive pixels, as a random one does on average.

    Args:
        values: The map's pixels, (P,).
        positive: Whether they are the object's, (P,) bool.

    Returns:
        ().
    """
    ranked, order = values.sort(descending=True)
    # The last pixel of every distinct value: precision and recall jump there, whatever the order inside a value.
    last = torch.cat([torch.nonzero(ranked[1:] != ranked[:-1])[:, 0], ranked.new_tensor([len(ranked) - 1], dtype=torch.long)])
    # Integers are exact where float32 stops counting, at 2**24 pixels.
    hits = positive[order].cumsum(0)[last]
    recall = hits.double() / hits[-1]
    gained = torch.diff(recall, prepend=recall.new_zeros(1))
    return (gained * hits / (last + 1)).sum()


@dataclass(frozen=True)
class PixelAp(Metric):
    """Average precision of the map as a score of the object's pixels. Ignored regions of the object's class do not count.

    Source: the segmentation test of Chefer, Gur, Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR
    2021, which Zhao et al., Grad-ECLIP, ICML 2024, take over. Ours is the AP of the object's pixels alone, each image by itself.

    Attributes:
        region: The object's "mask", or its "box".
    """

    region: Region = "mask"

    name: ClassVar[str] = "pixel_ap"
    group: ClassVar[str] = "segmentation"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "after Chefer, Gur, Wolf, CVPR 2021, segmentation; Zhao et al.: Grad-ECLIP, ICML 2024"

    def __post_init__(self) -> None:
        check_region(self.region)

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return f"Pixel AP ({self.region})"

    @property
    def needs(self) -> frozenset[str]:
        """Boxes, to find the detection's object, and masks if the region is the mask."""
        return frozenset({"box", self.region})

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The average precision of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 to 1; NaN without an object.
        """
        return MetricResult(judge_pixels(maps, inputs, self.region, average_precision))
