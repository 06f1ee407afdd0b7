"""Gradient x input: the plain baseline, ODAM's product at the pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from whybox.errors import unknown
from whybox.ops.maps import GradientMethod
from whybox.pullback import FeatureGradient, PlacedMaps, sum_products
from whybox.types import Detections

Sign = Literal["absolute", "positive", "signed"]
SIGNS = ("absolute", "positive", "signed")


def input_x_gradient_map(pixels: Tensor, gradient: Tensor, sign: Sign = "absolute") -> Tensor:
    """H = |sum_k dY/dX_k o X_k|, summed over the color channels.

    Args:
        pixels: (3,H,W).
        gradient: (n,3,H,W).
        sign: "absolute" takes the sum's absolute value, "positive" its positive part, "signed" the sum as it is.

    Returns:
        (n,H,W)

    Source: gradient x input as in Shrikumar et al., "Not Just a Black Box: Learning Important Features Through
    Propagating Activation Differences", 2016; the sum over channels and its absolute value are the common choice.
    """
    return take_sign(sum_products(pixels, gradient), sign)


def take_sign(maps: Tensor, sign: Sign) -> Tensor:
    """The maps' absolute value, their positive part, or the maps as they are.

    Args:
        maps: Of any shape, signed.
        sign: "absolute", "positive" or "signed".

    Returns:
        Maps of the same shape.
    """
    if sign == "absolute":
        return maps.abs()
    return maps.relu() if sign == "positive" else maps


@dataclass(frozen=True)
class InputXGradient(GradientMethod):
    """Gradient x input, at the network's input: after resizing, normalization and padding.

    Attributes:
        sign: "absolute" counts evidence for and against alike; "positive" keeps the evidence for; "signed" keeps both with
            their sign. The sign depends on the normalization's zero, so the absolute value is the default.
        route: How gradients are taken: "auto", "fast" or "exact".
        crop_padding: False resizes the padded map to the image, as the reference implementation of ODAM does.
    """

    sign: Sign = "absolute"
    route: str = "auto"
    crop_padding: bool = True

    name: ClassVar[str] = "input_x_gradient"
    title: ClassVar[str] = "Gradient × input"
    layer: ClassVar[str] = "input"
    needs: ClassVar[frozenset[str]] = frozenset({"input"})
    source: ClassVar[str] = "Shrikumar et al.: Not Just a Black Box, 2016, gradient x input"

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise unknown("sign", self.sign, SIGNS)

    def draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        """Draw maps on the network's pixels, zero wherever the gradient is.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.

        Returns:
            n maps and where they lie.
        """
        return gradient.under(input_x_gradient_map(gradient.activation(), gradient.gradient, self.sign))
