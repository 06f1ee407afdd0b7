"""SmoothGrad: the mean of the input's gradients over noisy copies of the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.method import Method
from whybox.methods._changed_images import average_maps
from whybox.methods.input_x_gradient import SIGNS, Sign, take_sign
from whybox.model import Model
from whybox.ops.maps import sum_products
from whybox.pullback import FeatureGradient, PlacedMaps
from whybox.types import Detections, HeatMaps, Target, Trace


def smoothgrad_map(pixels: Tensor, gradient: Tensor, times_input: bool = True) -> Tensor:
    """One noisy copy's part: sum_k dY/dX_k o X_k, or sum_k dY/dX_k, over the color channels: pixels (3,H,W), gradient
    (n,3,H,W) -> maps (n,H,W), signed.

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, section 3, of which the map is the mean.
    """
    return sum_products(pixels, gradient) if times_input else gradient.sum(1)


@dataclass(frozen=True)
class SmoothGrad(Method):
    """SmoothGrad, of gradient x input or of the gradient itself, at the input that the network sees.

    samples: noisy images; each costs a forward pass, and one backward pass per detection. noise: the standard deviation, as a
    part of the image's range. seed: of the noise. times_input: False leaves the factor out. sign: as in input_x_gradient, taken
    after the mean, so that what changes its sign with the noise cancels.
    """

    samples: int = 50
    noise: float = 0.15
    seed: int = 0
    times_input: bool = True
    sign: Sign = "absolute"
    route: str = "auto"

    name: ClassVar[str] = "smoothgrad"
    title: ClassVar[str] = "SmoothGrad"
    needs: ClassVar[frozenset[str]] = frozenset({"input"})
    source: ClassVar[str] = "Smilkov, Thorat, Kim, Viegas, Wattenberg: SmoothGrad, 2017, section 3"

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise unknown("sign", self.sign, SIGNS)
        if self.samples < 1:
            raise WhyboxError(f"samples must be at least 1, got {self.samples}")
        if self.noise < 0:
            raise WhyboxError(f"noise must not be negative, got {self.noise}")

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target."""
        found, routes = average_maps(model, trace, detections, targets, self._noisy(trace.image), self._draw, self.route)
        return [
            self.heat_maps([take_sign(values, self.sign) for values in maps], trace.frame, target, routes=routes)
            for maps, target in zip(found, targets, strict=True)
        ]

    def _noisy(self, image: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Noisy images and their weights; a model whose preprocessing works on eight bits cuts them off at 0 and 1. The noise is
        drawn on the CPU, the same for every device."""
        generator = torch.Generator().manual_seed(self.seed)
        deviation = self.noise * (image.max() - image.min())
        for _ in range(self.samples):
            yield 1 / self.samples, image + deviation * torch.randn(image.shape, generator=generator).to(image)

    def _draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        return gradient.under(smoothgrad_map(gradient.activation(), gradient.gradient, self.times_input))
