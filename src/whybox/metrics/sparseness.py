"""Sparseness: the Gini index of a map's energy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.ops.regions import Floor, check_floor, energy
from whybox.truth import Metric, MetricInput, MetricResult


def gini_index(amounts: Tensor) -> Tensor:
    """G = sum_k (2 k - P - 1) a_k / (P sum_k a_k) of P amounts a in rising order.

    Source: Hurley, Rickard, "Comparing Measures of Sparsity", IEEE Trans. Information Theory 2009, table I.

    Args:
        amounts: (N,P), not negative.

    Returns:
        (N,), 0 where all amounts are equal, near 1 where one holds everything; NaN where all are 0 or one is not finite.
    """
    count = amounts.shape[1]
    # In float64: the weights run to the number of pixels, and the terms of both signs nearly cancel.
    rising = amounts.double().sort(1).values
    weights = 2 * torch.arange(1, count + 1, device=amounts.device, dtype=torch.float64) - count - 1
    index = (rising * weights).sum(1) / (count * rising.sum(1))
    return torch.where(amounts.isfinite().all(1), index, torch.nan).to(amounts)


@dataclass(frozen=True)
class Sparseness(Metric):
    """The Gini index of each map. It depends on the map alone: it says whether a map is concise, not whether it is right.

    Source: Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training", ICML 2020: the Gini index
    as the measure of a concise attribution.

    Attributes:
        floor: "minimum" subtracts the map's lowest value first, as scaling to 0..1 does; "zero" does not.
    """

    floor: Floor = "minimum"

    name: ClassVar[str] = "sparseness"
    group: ClassVar[str] = "complexity"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "Chalasani et al.: Concise Explanations of Neural Networks, ICML 2020"

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The index of each map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: Ignored.

        Returns:
            (N,), 0 to 1; NaN for a map without energy.
        """
        return MetricResult(gini_index(energy(maps, self.floor).flatten(1)))
