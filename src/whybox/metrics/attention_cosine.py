"""Cosine between an explanation and a map of where people looked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.metrics._fixations import DEGREE_PIXELS, check_attention, compare_with_attention
from whybox.ops.regions import Floor, energy
from whybox.ops.similarity import cosine
from whybox.truth import Metric, MetricInput, MetricResult


def attention_cosine(maps: Tensor, attention: Tensor, floor: Floor = "minimum") -> Tensor:
    """Cosine of maps and attention maps, both (N,H,W), taken as vectors of pixels -> (N,), 0..1; NaN where one is blank.

    Maps enter as amounts >= 0 (floor: see `whybox.ops.regions.energy`), attention as it is; scale does not matter.
    Source: Zhao et al. (ODAM), comparison with human attention, which gives no formula.
    """
    return cosine(energy(maps, floor), attention)


@dataclass(frozen=True)
class AttentionCosine(Metric):
    """Cosine with human attention.

    sigma_pixels: width of the Gaussian at a fixation, pixels of one degree of visual angle as the image was shown.
    floor: "minimum" subtracts the map's lowest value first, as scaling to 0..1 does; "zero" does not.
    """

    sigma_pixels: float = DEGREE_PIXELS
    floor: Floor = "minimum"

    name: ClassVar[str] = "attention_cosine"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Attention, cosine"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, comparison with human attention (no formula given)"

    def __post_init__(self) -> None:
        check_attention(self.sigma_pixels, self.floor)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The cosine of each map with the attention that its object got."""
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_cosine(a, b, self.floor))
        )
