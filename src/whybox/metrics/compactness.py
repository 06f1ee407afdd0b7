"""Compactness: the spread of the map around its peak, relative to the size of the object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.ops.regions import Floor, check_floor, energy, judge_matched, object_regions, tied_peaks
from whybox.truth import Metric, MetricInput, MetricResult


def spread(maps: Tensor, boxes: Tensor, floor: Floor = "minimum") -> Tensor:
    """sqrt( sum_x H(x) |x - x_max|^2 / ( (w^2 + h^2) / 4 * sum_x H(x) ) ) for maps H and boxes of w by h pixels.

    Where several pixels share the highest value, |x - x_max|^2 is its mean over them.

    Source: Zhao, Hsiao, Chan, journal version of ODAM, compactness.

    Args:
        maps: (N,H,W).
        boxes: (N,4) xyxy as annotated, also where they reach beyond the image.
        floor: See `whybox.ops.regions.energy`.

    Returns:
        (N,), NaN for a map without energy and for a box without a size.
    """
    amounts = energy(maps, floor)
    peaks = tied_peaks(amounts).to(amounts)
    # Squared distances are sums over the axes, and along each axis only the map's marginal sums matter.
    squares = sum(_mean_square(amounts.sum(axis), peaks.sum(axis)) for axis in (-1, -2))
    sides = boxes[:, 2:] - boxes[:, :2]
    return (squares / (sides.square().sum(1) / 4)).masked_fill((sides == 0).all(1), torch.nan).sqrt()


def _mean_square(amounts: Tensor, peaks: Tensor) -> Tensor:
    """The mean of (x - p)^2 for x distributed as amounts (N,L) and p as peaks (N,L)."""
    # E(x - p)^2 = (E x - E p)^2 + var x + var p for independent x and p.
    place = torch.arange(amounts.shape[1], device=amounts.device, dtype=amounts.dtype)
    (x, x_variance), (p, p_variance) = (_moments(weights, place) for weights in (amounts, peaks))
    return (x - p).square() + x_variance + p_variance


def _moments(weights: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance (N,) of positions (L,) with weights (N,L)."""
    total = weights.sum(1)
    # 0 / 0 is NaN where a map has no energy: then there is no spread.
    mean = weights @ place / total
    return mean, (weights * (place - mean[:, None]).square()).sum(1) / total


@dataclass(frozen=True)
class Compactness(Metric):
    """Compactness: 0 for a map of one pixel, 1 if the root mean square distance to the peak is half the box's diagonal.

    Attributes:
        floor: "minimum" subtracts the map's lowest value first, as the paper's scaling to 0..1 does; "zero" does not.
    """

    floor: Floor = "minimum"

    name: ClassVar[str] = "compactness"
    group: ClassVar[str] = "localization"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Compactness"
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, torch.inf)
    needs: ClassVar[frozenset[str]] = frozenset({"box"})
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, compactness"

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The spread of each map around its peak.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections, their matched objects and the annotations.

        Returns:
            (N,), 0 or more; NaN without an object.
        """
        regions, own = object_regions(maps, inputs, "box")
        return MetricResult(judge_matched(maps, own, lambda chosen, rows: spread(chosen, regions.boxes[rows], self.floor)))
