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
from whybox.pullback import FeatureGradient, PlacedMaps, sum_products
from whybox.types import Detections, HeatMaps, Target, Trace


def smoothgrad_map(pixels: Tensor, gradient: Tensor, times_input: bool = True) -> Tensor:
    """One noisy copy's map: sum_k dY/dX_k o X_k, or sum_k dY/dX_k, over the color channels; signed.

    Args:
        pixels: X (3,H,W).
        gradient: (n,3,H,W).
        times_input: Whether to multiply by X.

    Returns:
        (n,H,W)

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, section 3, whose map is the mean of these.
    """
    return sum_products(pixels, gradient) if times_input else gradient.sum(1)


@dataclass(frozen=True)
class SmoothGrad(Method):
    """SmoothGrad, of gradient x input or of the gradient itself, at the network's input.

    Attributes:
        samples: Noisy images; each costs a forward pass and one backward pass per detection.
        noise: Standard deviation of the noise, as a share of the image's value range.
        seed: Seed of the noise.
        times_input: Whether to multiply the gradient by the input.
        sign: As in input_x_gradient, applied after the mean, so that values whose sign changes with the noise cancel.
        route: How gradients are taken: "auto", "fast" or "exact".
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
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.
        """
        averages, routes = average_maps(model, trace, detections, targets, self._noisy(trace.image), self._draw, self.route)
        return [
            self.heat_maps([take_sign(values, self.sign) for values in maps], trace.frame, target, routes=routes)
            for maps, target in zip(averages, targets, strict=True)
        ]

    def _noisy(self, image: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Noisy images and their weights; a model whose preprocessing works on 8-bit images clips them to 0..1."""
        # On the CPU, so that the noise is the same on every device.
        generator = torch.Generator().manual_seed(self.seed)
        # The paper gives the noise as a share of x_max - x_min.
        deviation = self.noise * (image.max() - image.min())
        for _ in range(self.samples):
            yield 1 / self.samples, image + deviation * torch.randn(image.shape, generator=generator).to(image)

    def _draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        return gradient.under(smoothgrad_map(gradient.activation(), gradient.gradient, self.times_input))
