"""How much of an explanation stays when the image gets a little noise."""

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
    """How alike N maps (N,H,W) are to the maps of `draws` noisy images, one column a draw -> (N,draws).

    image (3,H,W) in 0..1; every draw adds Gaussian noise of standard deviation `sigma` and clips to 0..1. redraw: a
    changed image -> the same objects' maps. similarity, at `size` cells a longest side: "spearman" or "ssim".
    A map that became constant has nothing left: 0. NaN where the first map is constant, or one is not finite.
    Source: ours. It asks what Alvarez-Melis, Jaakkola, "On the Robustness of Interpretability Methods", 2018, ask with a
    local Lipschitz constant; similarities need no scale of maps, and can be compared between methods.
    """
    alike = []
    for _ in range(draws):
        # Drawn on the CPU, so that every device sees the same noise.
        noise = torch.randn(image.shape, generator=generator).to(image) * sigma
        alike.append(compare_redrawn(maps, redraw((image + noise).clamp(0, 1)), similarity, size))
    return torch.stack(alike, 1)


@dataclass(frozen=True)
class Stability(Metric):
    """Stability under noise: the mean similarity over the draws.

    draws: noisy images. sigma: of the noise, of values in 0..1; 0.02 is some 5 of 255 grey levels, hardly seen.
    similarity: "spearman" or "ssim". size: cells along a map's longest side at which maps are compared.

    One noisy image serves all detections of an image, so its seed is the first detection's.
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
        """The mean similarity of each map to its noisy images' maps."""
        if inputs.redraw is None:
            raise WhyboxError("stability needs inputs that can draw the maps again (MetricInput.redraw), got none")
        if not len(maps):
            return MetricResult(maps.new_zeros(0))
        alike = stability(
            maps,
            inputs.image,
            inputs.redraw,
            inputs.generator(0),
            draws=self.draws,
            sigma=self.sigma,
            similarity=self.similarity,
            size=self.size,
        )
        return MetricResult(alike.nanmean(1))
