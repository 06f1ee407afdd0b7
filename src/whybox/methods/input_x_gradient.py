"""Gradient x input: the plain baseline, ODAM's product taken at the pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from whybox.errors import unknown
from whybox.ops.maps import GradientMethod, sum_products
from whybox.pullback import FeatureGradient, PlacedMaps
from whybox.types import Detections

Sign = Literal["absolute", "positive", "signed"]
SIGNS = ("absolute", "positive", "signed")


def input_x_gradient_map(pixels: Tensor, gradient: Tensor, sign: Sign = "absolute") -> Tensor:
    """H = |sum_k dY/dX_k o X_k|, the sum over the color channels: pixels (3,H,W), gradient (n,3,H,W) -> maps (n,H,W).

    sign: "absolute" takes the sum's size, "positive" its positive part, "signed" leaves it.
    Source: gradient x input as in Shrikumar et al., "Not Just a Black Box: Learning Important Features Through
    Propagating Activation Differences", 2016; the sum over channels and its absolute value are the common choice.
    """
    return take_sign(sum_products(pixels, gradient), sign)


def take_sign(maps: Tensor, sign: Sign) -> Tensor:
    """The maps' size, their positive part, or the maps as they are."""
    if sign == "absolute":
        return maps.abs()
    return maps.relu() if sign == "positive" else maps


@dataclass(frozen=True)
class InputXGradient(GradientMethod):
    """Gradient x input, at the input that the network itself sees: after resizing, normalizing and padding.

    sign: "absolute", a pixel that speaks for and one that speaks against count alike; "positive", only what speaks for;
    "signed", the sum as it is. The sign depends on where the normalization puts zero, so the size is the default.
    crop_padding: False stretches the padded map over the image, as the reference implementation of ODAM does.
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
        """Maps (n,H,W) on the network's pixels, nowhere wider than the gradient."""
        return gradient.under(input_x_gradient_map(gradient.activation(), gradient.gradient, self.sign))
