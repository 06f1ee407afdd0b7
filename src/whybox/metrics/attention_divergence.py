"""Jensen-Shannon divergence between an explanation and a map of human attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import unknown
from whybox.metrics._fixations import DEGREE_PIXELS, check_attention, compare_with_attention, to_distributions
from whybox.ops.regions import Floor
from whybox.truth import Metric, MetricInput, MetricResult

BASES = {"2": 2.0, "e": torch.e}


def attention_divergence(maps: Tensor, attention: Tensor, base: int | str = 2, floor: Floor = "minimum") -> Tensor:
    """JSD = H((p + q) / 2) - (H(p) + H(q)) / 2 of maps p and attention maps q, with H the entropy.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Trans. Information Theory 1991, eq. 4.1 with
    equal weights. Zhao et al. (ODAM) give neither a formula nor a base; their values, up to 0.52, fit both.

    Args:
        maps: (N,H,W), normalized to distributions over the pixels.
        attention: (N,H,W), likewise, with floor "zero".
        base: Of the logarithm, 2 or "e".
        floor: Of the maps, see `whybox.ops.regions.energy`.

    Returns:
        (N,), 0 to 1 bit, or to ln 2; NaN where a map is zero everywhere.
    """
    p, q = to_distributions(maps.double(), floor), to_distributions(attention.double(), "zero")
    mixed, first, second = (_entropy(values) for values in ((p + q) / 2, p, q))
    # Of equal distributions, rounding may leave a number just below 0.
    return (mixed - (first + second) / 2).clamp(min=0) / log(BASES[str(base)])


def _entropy(distributions: Tensor) -> Tensor:
    """The entropy (N,) of distributions (N,H,W), in nats."""
    # entr(0) is 0, where -p log p would be NaN.
    amounts: Tensor = torch.special.entr(distributions)
    return amounts.sum((-2, -1))


@dataclass(frozen=True)
class AttentionDivergence(Metric):
    """Jensen-Shannon divergence from human attention.

    Attributes:
        base: Of the logarithm, 2 or "e".
        sigma_pixels: Standard deviation of the Gaussian at a fixation: the pixels of one degree of visual angle.
        floor: "minimum" subtracts the map's lowest value first, as scaling to 0..1 does; "zero" does not.
    """

    base: int | str = 2
    sigma_pixels: float = DEGREE_PIXELS
    floor: Floor = "minimum"

    name: ClassVar[str] = "attention_divergence"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Attention, JS divergence"
    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Lin, IEEE Trans. Information Theory 1991, eq. 4.1; Zhao, Hsiao, Chan: ODAM, journal version"

    def __post_init__(self) -> None:
        check_attention(self.sigma_pixels, self.floor)
        if str(self.base) not in BASES:
            raise unknown("base", str(self.base), BASES)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (0.0, log(2) / log(BASES[str(self.base)]))

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The divergence of each map from its object's attention map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations.
        """
        return MetricResult(
            compare_with_attention(
                maps, inputs, self.sigma_pixels, lambda a, b: attention_divergence(a, b, self.base, self.floor)
            )
        )
