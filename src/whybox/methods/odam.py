"""ODAM: an instance-specific heat map from the elementwise product of features and gradient."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.model import Model
from whybox.ops.maps import (
    Fusion,
    GradientMethod,
    draw_heat_maps,
    fuse_layers,
    split_gradient,
    weigh_channels,
)
from whybox.placement import Windows
from whybox.pullback import FeatureGradient, PlacedMaps, sum_products
from whybox.types import Detections, HeatMaps, Target, Trace

Smoothing = Literal["none", "gaussian", "global"]


def odam_map(features: Tensor, gradient: Tensor) -> Tensor:
    """H = ReLU(sum_k dY/dA_k o A_k).

    Args:
        features: A (C,h,w) or (n,C,h,w).
        gradient: (n,C,h,w).

    Returns:
        (n,h,w)

    Source: Zhao, Hsiao, Chan, "Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination", eq. 2, with the smoothing already applied to `gradient`.
    """
    # ReLU after the sum over the channels: features and gradients are signed, and both are used as they are.
    return sum_products(features, gradient).relu()


def smooth_gradient(gradient: Tensor, sigma: Tensor, margin: int = 0) -> Tensor:
    """Convolve every gradient map with a Gaussian that is normalized to sum 1 on an unbounded grid; zero padding.

    Args:
        gradient: (n,C,h,w).
        sigma: (n,2) standard deviations in cells, down and across; 0 leaves a map as it is.
        margin: By how many cells the result is wider on every side.

    Returns:
        (n,C,h+2*margin,w+2*margin)
    """
    # A Gaussian is separable, and every row has its own sigma: two batched matrix products do it.
    down = _gaussian_matrix(gradient.shape[-2], sigma[:, 0], margin)
    across = _gaussian_matrix(gradient.shape[-1], sigma[:, 1], margin)
    return down[:, None] @ gradient @ across[:, None].mT


def _gaussian_matrix(length: int, sigma: Tensor, margin: int) -> Tensor:
    """(n,length+2*margin,length): row i holds the kernel centered at cell i - margin."""
    cells = torch.arange(-margin, length + margin, device=sigma.device, dtype=sigma.dtype)
    squared = (cells[:, None] - cells[margin : margin + length]).square()
    # The kernel is normalized on an unbounded grid, also where the layer ends: beyond 8 sigma it is below float32's resolution.
    far = ceil(8 * float(sigma.max())) + 1
    reach = torch.arange(-far, far + 1, device=sigma.device, dtype=sigma.dtype).square()
    # A sigma of 0 divides by zero; 1e-4 gives the same kernel, 1 at its center and 0 elsewhere.
    width = 2 * sigma.clamp(min=1e-4).square()[:, None, None]
    return (-squared / width).exp() / (-reach / width).exp().sum(-1, keepdim=True)


@dataclass(frozen=True)
class Odam(GradientMethod):
    """ODAM. All quantitative results of the paper use smoothing "none".

    Attributes:
        smoothing: "none"; "gaussian", each gradient map smoothed with a Gaussian whose standard deviation is `sigma` times the
            box's side in feature cells, down and across; "global", the mean of each gradient map, which is Grad-CAM. The paper
            says that the Gaussian's size follows the object's, without a formula: the rule and sigma are whybox's.
        sigma: The standard deviation of "gaussian" as a share of the box's sides.
        layer: None for the level that the detection comes from; else one of the model's `layers` or a module's path; or a
            tuple of them, whose maps are fused.
        fusion: "max", "mean" or "sum" of several layers' maps, each first resized to the finest grid among them and min-max
            scaled to 0..1. The rule is whybox's, not from a paper.
        route: How gradients are taken: "auto", "fast" or "exact".
        crop_padding: False resizes the padded map to the image, which shifts it by up to the padding, as the reference
            implementation does; it exists to reproduce that code's numbers.
    """

    smoothing: Smoothing = "none"
    sigma: float = 0.1
    layer: str | tuple[str, ...] | None = None
    fusion: Fusion = "max"
    route: str = "auto"
    crop_padding: bool = True

    name: ClassVar[str] = "odam"
    title: ClassVar[str] = "ODAM"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, ICLR 2023 and the journal version, eq. 2"

    def __post_init__(self) -> None:
        if self.smoothing not in ("none", "gaussian", "global"):
            raise unknown("smoothing", self.smoothing, ("none", "gaussian", "global"))
        if self.fusion not in ("max", "mean", "sum"):
            raise unknown("fusion", self.fusion, ("max", "mean", "sum"))
        if self.sigma < 0:
            raise WhyboxError(f"sigma must not be negative, got {self.sigma}")
        names = (self.layer,) if isinstance(self.layer, str) else self.layer
        if names is not None and not (isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)):
            raise WhyboxError(f"layer must be a name, a tuple of names, or None, got {self.layer!r}")
        if self.layer is not None and not self.layer:
            raise WhyboxError("layer is empty; name a layer, several, or None for the detection's own level")

    @property
    def frozen_allowed(self) -> bool:
        """False with smoothing "global", which sums gradients over the whole grid, as Grad-CAM does."""
        return self.smoothing != "global"

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection and target; with several layers, their maps fused.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.
        """
        if self.layer is None or isinstance(self.layer, str):
            return draw_heat_maps(self, model, trace, detections, targets)
        layers = [replace(self, layer=layer)(model, trace, detections, targets) for layer in self.layer]
        return [fuse_layers(maps, self.fusion, asdict(self)) for maps in zip(*layers, strict=True)]

    def draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        """Draw the maps of n rows. Without smoothing a map is zero wherever its gradient is: the window is enough.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.

        Returns:
            n maps and where they lie.
        """
        if self.smoothing == "none":
            # Not clipped: beyond the edge of the grid the features, and so their products, are 0.
            return gradient.under(gradient.products().relu())
        if self.smoothing == "global":
            cells = gradient.grid[0] * gradient.grid[1]
            # Each gradient map replaced by its mean: Grad-CAM's weights.
            weights = gradient.clipped().gradient.sum((-2, -1)) / cells
            return gradient.on_grid(weigh_channels(gradient.features, weights).relu())
        return self._draw_gaussian(gradient, self._deviations(gradient, detections, stride))

    def _deviations(self, gradient: FeatureGradient, detections: Detections, stride: float) -> Tensor:
        """(n,2) standard deviations, down and across, in cells. Pooled features span the box: there, cells of their grid."""
        if gradient.pooled:
            return self.sigma * gradient.gradient.new_tensor(gradient.grid).expand(len(detections), 2)
        boxes = detections.boxes.to(gradient.gradient)
        # Flipped from (across, down) to (down, across).
        return self.sigma * (boxes[:, 2:] - boxes[:, :2]).flip(-1) / stride

    def _draw_gaussian(self, gradient: FeatureGradient, sigma: Tensor) -> PlacedMaps:
        """Smoothed maps. A window grows by 6 standard deviations: beyond them the kernel is below float32's resolution. Where
        it would then be larger than the grid, the whole grid is used."""
        # A window may reach beyond the grid: what it holds there must not be smoothed back into the grid.
        gradient = gradient.clipped()
        if isinstance(gradient.placement, Windows):
            wide = gradient.placement.grown(ceil(6 * float(sigma.max())))
            if wide.size[0] * wide.size[1] < gradient.grid[0] * gradient.grid[1]:
                return self._draw_grown(gradient, wide, sigma)
        # A slice of rows at a time is expanded to the whole grid: all at once may not fit memory.
        maps = []
        for rows, part in split_gradient(gradient, gradient.grid):
            whole = part.whole()
            maps.append(odam_map(whole.features, smooth_gradient(whole.gradient, sigma[rows])))
        return gradient.on_grid(torch.cat(maps))

    def _draw_grown(self, gradient: FeatureGradient, wide: Windows, sigma: Tensor) -> PlacedMaps:
        """Maps on windows that are larger than the gradient's."""
        margin = (wide.size[0] - gradient.gradient.shape[-2]) // 2
        maps = [
            odam_map(wide[rows].take(part.features), smooth_gradient(part.gradient, sigma[rows], margin))
            for rows, part in split_gradient(gradient, wide.size)
        ]
        return PlacedMaps(torch.cat(maps), wide)
