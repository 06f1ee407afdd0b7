"""Correlation between an explanation and a map of where people looked."""

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
    """Pearson's r, or the covariance, of maps and attention maps (N,H,W) over the pixels -> (N,); NaN where one is constant.

    "pearson" takes both as they are. "covariance": both as distributions (`to_distributions`; the map less its lowest
    value), times H W, so that their mean is 1 whatever the resolution; then the mean product of what exceeds that mean.
    Source: Zhao et al. (ODAM), comparison with human attention, which gives no formula. Its values of some 1e-3 beside
    cosines of 0.4 cannot be r; a covariance orders its four methods alike. The unit of theirs is not known.
    """
    if scale == "pearson":
        return pearson(maps, attention)
    pixels = maps.shape[-2] * maps.shape[-1]
    first, second = (values * pixels - 1 for values in (to_distributions(maps), to_distributions(attention, "zero")))
    return (first * second).mean((-2, -1))


@dataclass(frozen=True)
class AttentionCorrelation(Metric):
    """Correlation with human attention.

    scale: "pearson" for r; "covariance" keeps the maps' contrast, see `attention_correlation`.
    sigma_pixels: width of the Gaussian at a fixation, pixels of one degree of visual angle as the image was shown.
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
        return "Attention, " + ("correlation" if self.scale == "pearson" else "covariance")

    @property
    def range(self) -> tuple[float, float]:
        return (-1.0, 1.0) if self.scale == "pearson" else (-1.0, inf)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The correlation of each map with the attention that its object got."""
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_correlation(a, b, self.scale))
        )
