"""Grad-CAM: the channels of the features, weighted by their mean gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.ops.maps import GradientMethod, weigh_channels
from whybox.pullback import FeatureGradient, PlacedMaps
from whybox.types import Detections


def gradcam_map(features: Tensor, gradient: Tensor) -> Tensor:
    """H = ReLU(sum_k w_k A_k), w_k the mean of dY/dA_k over the grid.

    Args:
        features: (C,h,w) or (n,C,h,w), the whole layer.
        gradient: (n,C,k,l), on the whole layer or on the window outside which it is zero; its sum is divided by the layer's
            h*w either way.

    Returns:
        (n,h,w)

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
    2017, eq. 1 and 2.
    """
    # Not the gradient's own mean: a window has fewer cells than the layer.
    cells = features.shape[-2] * features.shape[-1]
    return weigh_channels(features, gradient.sum((-2, -1)) / cells).relu()


@dataclass(frozen=True)
class GradCam(GradientMethod):
    """Grad-CAM. A weight is one number per channel, so the map shows all instances of the class, not this detection alone.

    Attributes:
        layer: None for the level that the detection comes from; else one of the model's `layers` or a module's path.
        route: How gradients are taken: "auto", "fast" or "exact".
        crop_padding: False resizes the padded map to the image, as the reference implementation of ODAM does.
    """

    layer: str | None = None
    route: str = "auto"
    crop_padding: bool = True

    name: ClassVar[str] = "gradcam"
    title: ClassVar[str] = "Grad-CAM"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    source: ClassVar[str] = "Selvaraju et al.: Grad-CAM, ICCV 2017, eq. 1 and 2"

    @property
    def frozen_allowed(self) -> bool:
        """False: the weights sum gradients over the whole grid, and the part that frozen statistics omit reaches every cell."""
        return False

    def draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        """Draw maps of the whole layer. A window of the gradient is enough: what lies outside it adds nothing to the mean.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.

        Returns:
            n maps and where they lie.
        """
        # Clipped: a window may reach beyond the grid, whose mean this is.
        return gradient.on_grid(gradcam_map(gradient.features, gradient.clipped().gradient))
