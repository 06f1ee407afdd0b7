"""SSGrad-CAM++ (Spatial Sensitive Grad-CAM++): Grad-CAM++ with a spatial weight per channel, from its gradient."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import unknown
from whybox.methods.gradcam_pp import gradcam_pp_weights
from whybox.ops.maps import GradientMethod, cells_in_boxes
from whybox.placement import Windows
from whybox.pullback import FeatureGradient, PlacedMaps, sum_products
from whybox.types import Detections

Region = Literal["box", "whole"]


def ssgradcam_pp_map(activation: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
    """H = ReLU(sum_k w_k S_k o A_k), S_k = |g_k| / max_ij |g_k|; zero wherever the gradient is. A channel whose gradient is
    zero contributes nothing.

    Args:
        activation: A (C,k,l) or (n,C,k,l), the features under each gradient.
        gradient: g (n,C,k,l).
        weights: w (n,C), from `gradcam_pp_weights`.

    Returns:
        (n,k,l)

    Source: the space map S: Yamauchi, Ishikawa, "Spatial Sensitive Grad-CAM: Visual Explanations for Object Detection
    by Incorporating Spatial Sensitivity", ICIP 2022; weights from a weighted combination of the gradients: Yamauchi,
    "Spatial Sensitive Grad-CAM++: Improved Visual Explanation for Object Detectors via Weighted Combination of Gradient
    Map", CVPR Workshops 2024.
    """
    size = gradient.abs()
    peak = size.amax((-2, -1))
    # The inner where keeps the division finite: a NaN in the branch not taken still reaches gradients (pytorch/pytorch#52248).
    scale = torch.where(peak > 0, weights / torch.where(peak > 0, peak, 1), 0)
    # w_k / max |g_k| is one number per channel: so the large tensor is multiplied once.
    return sum_products(activation, size * scale[..., None, None]).relu()


@dataclass(frozen=True)
class SSGradCamPP(GradientMethod):
    """SSGrad-CAM++: w_k = sum_ij alpha_ij ReLU(g_ij), alpha = g^2 / (2 M g^2 + g^3 sum_ab M A_k), M the object's mask.

    Attributes:
        region: "box": M is 1 in the cells that the detection's box touches, and only they count in w_k. M stems from
            Y = sum_k w_k sum_ij M A_k, where Grad-CAM++ has no M; this leaves alpha undefined outside M, and how M is drawn is
            whybox's reading of the paper. "whole": M is 1 everywhere, which gives the weights of Grad-CAM++. Pooled features
            span the box, so there both are the same.
        layer: None for the level that the detection comes from; else one of the model's `layers` or a module's path.
        route: How gradients are taken: "auto", "fast" or "exact".
        crop_padding: False resizes the padded map to the image, as the reference implementation of ODAM does.
    """

    region: Region = "box"
    layer: str | None = None
    route: str = "auto"
    crop_padding: bool = True

    name: ClassVar[str] = "ssgradcam_pp"
    title: ClassVar[str] = "SSGrad-CAM++"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    source: ClassVar[str] = "Yamauchi: Spatial Sensitive Grad-CAM++, CVPR Workshops 2024; Yamauchi, Ishikawa, ICIP 2022"

    def __post_init__(self) -> None:
        if self.region not in ("box", "whole"):
            raise unknown("region", self.region, ("box", "whole"))

    @property
    def frozen_allowed(self) -> bool:
        """False: its map in space takes the gradient's magnitude, to which the weak gradient far away, through the statistics,
        adds up. Frozen statistics leave that out: one in twenty maps is another one, and all are more local."""
        return False

    def draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        """Draw maps that are zero wherever the gradient is: the window is enough.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.

        Returns:
            n maps and where they lie.
        """
        clipped = gradient.clipped().gradient
        if self.region == "whole" or gradient.pooled:
            weights = gradcam_pp_weights(gradient.features.sum((-2, -1)), clipped)
        else:
            inside = cells_in_boxes(detections.boxes, stride, gradient.grid).to(clipped)
            window = (clipped.shape[-2], clipped.shape[-1])
            origin = gradient.placement.origin if isinstance(gradient.placement, Windows) else None
            region = cells_in_boxes(detections.boxes, stride, window, origin).to(clipped)
            # Over the layer's whole grid, also where the gradient is on a window.
            total = inside.flatten(1) @ gradient.features.flatten(1).T
            weights = gradcam_pp_weights(total, clipped * region[:, None])
        return gradient.under(ssgradcam_pp_map(gradient.activation(), clipped, weights))
