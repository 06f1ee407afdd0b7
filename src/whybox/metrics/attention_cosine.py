"""Cosine similarity of an explanation and a map of human attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.metrics._fixations import DEGREE_PIXELS, check_attention, compare_with_attention
from whybox.ops.regions import Floor, energy
from whybox.ops.similarity import cosine
from whybox.truth import Metric, MetricInput, MetricResult


def attention_cosine(maps: Tensor, attention: Tensor, floor: Floor = "minimum") -> Tensor:
    """Cosine similarity of maps and attention maps, as vectors of pixels.

    Source: Zhao et al. (ODAM), comparison with human attention, which gives no formula.

    Args:
        maps: (N,H,W).
        attention: (N,H,W), not negative.
        floor: Of the maps, see `whybox.ops.regions.energy`.

    Returns:
        (N,), 0 to 1; NaN where a map is zero everywhere.
    """
    # Negative values count as 0: fixations have nothing to compare them with.
    return cosine(energy(maps, floor), attention)


@dataclass(frozen=True)
class AttentionCosine(Metric):
    """Cosine similarity with human attention.

    Attributes:
        sigma_pixels: Standard deviation of the Gaussian at a fixation: the pixels of one degree of visual angle.
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
        """The cosine of each map with its object's attention map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations.
        """
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_cosine(a, b, self.floor))
        )
