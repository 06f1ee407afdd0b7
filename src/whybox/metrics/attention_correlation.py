"""Correlation of an explanation with a map of human attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal, get_args

from torch import Tensor

from whybox.errors import unknown
from whybox.metrics._fixations import DEGREE_PIXELS, check_attention, compare_with_attention, to_distributions
from whybox.ops.similarity import pearson
from whybox.truth import Metric, MetricInput, MetricResult

Scale = Literal["pearson", "covariance"]


def attention_correlation(maps: Tensor, attention: Tensor, scale: Scale = "pearson") -> Tensor:
    """Pearson's r, or the covariance, of maps and attention maps over the pixels.

    Source: Zhao et al. (ODAM), comparison with human attention, which gives no formula. Its values of about 1e-3 beside
    cosines of 0.4 cannot be r; a covariance gives its four methods the same order. The unit of theirs is not known.

    Args:
        maps: (N,H,W).
        attention: (N,H,W).
        scale: "pearson" for r of the raw values; "covariance" of both normalized to distributions and multiplied by H W, so
            that their mean is 1 at every resolution.

    Returns:
        (N,), NaN where a map is constant.
    """
    if scale == "pearson":
        return pearson(maps, attention)
    pixels = maps.shape[-2] * maps.shape[-1]
    # A distribution times the number of pixels has the mean 1.
    first, second = (values * pixels - 1 for values in (to_distributions(maps), to_distributions(attention, "zero")))
    return (first * second).mean((-2, -1))


@dataclass(frozen=True)
class AttentionCorrelation(Metric):
    """Correlation with human attention.

    Attributes:
        scale: "pearson" for r; "covariance" depends on the maps' contrast, see `attention_correlation`.
        sigma_pixels: Standard deviation of the Gaussian at a fixation: the pixels of one degree of visual angle.
    """

    scale: Scale = "pearson"
    sigma_pixels: float = DEGREE_PIXELS

    name: ClassVar[str] = "attention_correlation"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, comparison with human attention (no formula given)"

    def __post_init__(self) -> None:
        check_attention(self.sigma_pixels)
        if self.scale not in get_args(Scale):
            raise unknown("scale", self.scale, get_args(Scale))

    @property
    def title(self) -> str:
        """The name for tables, with the options that change its meaning."""
        return "Attention, " + ("correlation" if self.scale == "pearson" else "covariance")

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (-1.0, 1.0) if self.scale == "pearson" else (-1.0, inf)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The correlation of each map with its object's attention map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations.
        """
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_correlation(a, b, self.scale))
        )
