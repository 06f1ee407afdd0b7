"""Stability: the similarity of an explanation to those of slightly noisy images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.similarity import check_comparison, compare_redrawn
from whybox.truth import Metric, MetricInput, MetricResult


def stability(
    maps: Tensor,
    image: Tensor,
    redraw: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    *,
    draws: int = 4,
    sigma: float = 0.02,
    similarity: str = "spearman",
    size: int = 64,
) -> Tensor:
    """The similarity of maps to those of noisy images.

    Source: ours. Alvarez-Melis, Jaakkola, "On the Robustness of Interpretability Methods", 2018, measure the same by a
    local Lipschitz constant; similarities do not depend on the maps' scale and can be compared between methods.

    Args:
        maps: (N,H,W) of the unmodified image.
        image: (3,H,W) in 0..1.
        redraw: A changed image -> the maps (N,H,W) of the same objects.
        generator: Draws the noise.
        draws: Number of noisy images.
        sigma: Standard deviation of the Gaussian noise; noisy images are clipped to 0..1.
        similarity: "spearman" or "ssim".
        size: Cells along the longest side at which maps are compared.

    Returns:
        (N,draws), 0 for a map that became constant; NaN if the first map is constant or a map is not finite.
    """
    similarities = []
    for _ in range(draws):
        # Drawn on the CPU, so that every device sees the same noise.
        noise = torch.randn(image.shape, generator=generator).to(image) * sigma
        similarities.append(compare_redrawn(maps, redraw((image + noise).clamp(0, 1)), similarity, size))
    return torch.stack(similarities, 1)


@dataclass(frozen=True)
class Stability(Metric):
    """Stability under noise: the mean similarity over the draws.

    Attributes:
        draws: Number of noisy images.
        sigma: Standard deviation of the noise on values in 0..1; 0.02 is about 5 of 255 grey levels, hardly visible.
        similarity: "spearman" or "ssim".
        size: Cells along a map's longest side at which maps are compared.
    """

    draws: int = 4
    sigma: float = 0.02
    similarity: Literal["spearman", "ssim"] = "spearman"
    size: int = 64

    name: ClassVar[str] = "stability"
    group: ClassVar[str] = "sanity"
    title: ClassVar[str] = "Stability"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"redraw"})
    source: ClassVar[str] = "ours; after Alvarez-Melis, Jaakkola: On the Robustness of Interpretability Methods, 2018"

    def __post_init__(self) -> None:
        check_comparison(self.similarity, self.size)
        if self.draws < 1 or not self.sigma > 0:
            raise WhyboxError(f"stability needs draws of 1 or more and a positive sigma, got {self.draws} and {self.sigma}")

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The mean similarity of each map to those of noisy images.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The image, and a way to draw the maps again.

        Returns:
            (N,), -1 to 1, NaN where the similarity is not defined.

        Raises:
            WhyboxError: `inputs` cannot draw the maps again.
        """
        if inputs.redraw is None:
            raise WhyboxError("stability needs inputs that can draw the maps again (MetricInput.redraw), got None")
        if not len(maps):
            return MetricResult(maps.new_zeros(0))
        similarities = stability(
            maps,
            inputs.image,
            inputs.redraw,
            # The noisy images are shared by all detections, so the seed is the first one's.
            inputs.generator(0),
            draws=self.draws,
            sigma=self.sigma,
            similarity=self.similarity,
            size=self.size,
        )
        return MetricResult(similarities.nanmean(1))
