"""Model randomization: the similarity of an explanation to those of the model with random weights."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.similarity import check_comparison, compare_redrawn
from whybox.truth import Metric, MetricInput, MetricResult


def randomization(maps: Tensor, randomized: Iterable[Tensor], similarity: str = "spearman", size: int = 64) -> Tensor:
    """The similarity of maps to those of the model with more and more random weights.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3: rank correlation of absolute maps,
    SSIM. The lower resolution and the dropped sign are ours: a map with inverted ranks has lost no information.

    Args:
        maps: (N,H,W) of the trained model; absolute values are compared.
        randomized: The maps (N,H,W) after each of S stages.
        similarity: "spearman" for the absolute rank correlation, or "ssim", see `whybox.ops.similarity.ssim`.
        size: Cells along the longest side at which maps are compared.

    Returns:
        Curves (N,S), 0 for a map that became constant; NaN if the first map is constant or a map is not finite.

    Raises:
        WhyboxError: There is no stage.
    """
    magnitudes = maps.abs()
    curves = [compare_redrawn(magnitudes, changed.abs(), similarity, size) for changed in randomized]
    if not curves:
        raise WhyboxError("randomization needs the maps after at least one stage of random weights, got none")
    stacked = torch.stack(curves, 1)
    return stacked.abs() if similarity == "spearman" else stacked


@dataclass(frozen=True)
class Randomization(Metric):
    """Model randomization, cascading from the output to the input. The value is the mean of the curve.

    Not its last point: a map that ignores the head and depends on the backbone alone stays similar through half of the
    cascade, but at the end is as dissimilar as a faithful one.

    Attributes:
        similarity: "spearman" or "ssim".
        size: Cells along a map's longest side at which maps are compared.
    """

    similarity: Literal["spearman", "ssim"] = "spearman"
    size: int = 64

    name: ClassVar[str] = "randomization"
    group: ClassVar[str] = "sanity"
    across: ClassVar[str] = "share of the layers that are random"
    title: ClassVar[str] = "Randomization"
    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"randomized"})
    source: ClassVar[str] = "Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018, section 3"

    def __post_init__(self) -> None:
        check_comparison(self.similarity, self.size)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (0.0, 1.0) if self.similarity == "spearman" else (-1.0, 1.0)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The mean similarity of each map over the stages.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The maps under random weights.

        Returns:
            The means (N,) and the curves (N,S) over the share of randomized layers.

        Raises:
            WhyboxError: `inputs` have no maps under random weights.
        """
        if inputs.randomized is None:
            raise WhyboxError("randomization needs maps under random weights (MetricInput.randomized), got inputs without")
        stages = inputs.randomized()
        try:
            curves = randomization(maps, (changed for _, changed in stages), self.similarity, self.size)
        finally:
            # Closing restores the model's own weights at once, also after an error.
            if isinstance(stages, Generator):
                stages.close()
        done = torch.arange(1, curves.shape[1] + 1, device=curves.device) / curves.shape[1]
        # A stage in which the random network gives no candidate has no map, NaN, and does not count.
        return MetricResult(curves.nanmean(1), curves, done)
