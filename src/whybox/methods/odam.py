"""ODAM: a heat map for one detection, from the gradient at the features, cell by cell."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.ops.maps import draw_maps
from whybox.types import Detections, FeatureGradient, HeatMaps, Model, Target, Trace

Smoothing = Literal["none", "gaussian", "global"]


def odam_map(features: Tensor, gradient: Tensor) -> Tensor:
    """H = ReLU(sum_k dY/dA_k o A_k): features (C,h,w) or (n,C,h,w), gradient (n,C,h,w) -> maps (n,h,w).

    Source: Zhao, Hsiao, Chan, "Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination", eq. 2, with the smoothing already applied to `gradient`.
    """
    return torch.einsum("...chw,nchw->nhw" if features.ndim == 3 else "nchw,nchw->nhw", features, gradient).relu()


def smooth_gradient(gradient: Tensor, sigma: Tensor) -> Tensor:
    """Convolve every gradient map (n,C,h,w) with a Gaussian; sigma (n,2) is its standard deviation (down, across) in cells.

    Zero beyond the edge; the kernel is normalised to sum 1 on an endless grid. sigma 0 leaves a map as it is.
    """
    down = _gaussian_matrix(gradient.shape[-2], sigma[:, 0])
    across = _gaussian_matrix(gradient.shape[-1], sigma[:, 1])
    return torch.einsum("nij,ncjk,nlk->ncil", down, gradient, across)


def _gaussian_matrix(length: int, sigma: Tensor) -> Tensor:
    """(n,length,length): row i holds the kernel centred at cell i."""
    cells = torch.arange(length, device=sigma.device, dtype=sigma.dtype)
    squared = (cells[:, None] - cells).square()
    reach = torch.arange(-4 * length, 4 * length + 1, device=sigma.device, dtype=sigma.dtype).square()
    width = 2 * sigma.clamp(min=1e-4).square()[:, None, None]
    return (-squared / width).exp() / (-reach / width).exp().sum(-1, keepdim=True)


@dataclass(frozen=True)
class Odam:
    """ODAM. All quantitative results of the paper use smoothing "none".

    smoothing: "none"; "gaussian", a Gaussian over each gradient map whose standard deviation is `sigma` times the box's
    side in feature cells, down and across; "global", the mean of each gradient map: that is Grad-CAM.
    The paper names the Gaussian and that its size follows the object's, and gives no formula: the rule and sigma are ours.
    layer: None for the level that the detection comes from; else one of the model's `layers` or a module's path.
    """

    smoothing: Smoothing = "none"
    sigma: float = 0.1
    layer: str | None = None
    route: str = "auto"

    name: ClassVar[str] = "odam"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, ICLR 2023 and the journal version, eq. 2"

    def __call__(
        self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target], names: Sequence[str]
    ) -> list[HeatMaps]:
        """One HeatMaps a target; `names` are the targets' names."""
        maps, routes = draw_maps(
            model, trace, detections, targets, self._draw, layer=self.layer, route=self.route
        )
        return [
            HeatMaps(native, trace.frame, name, self.name, asdict(self), routes)
            for native, name in zip(maps, names, strict=True)
        ]

    def _draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> Tensor:
        """Without smoothing a map is nowhere wider than its gradient: the window is enough."""
        if self.smoothing == "none":
            return odam_map(gradient.activation(), gradient.gradient)
        whole = gradient.whole()
        if self.smoothing == "global":
            return odam_map(whole.features, whole.gradient.mean((-2, -1), keepdim=True).expand_as(whole.gradient))
        sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).flip(-1) / stride
        return odam_map(whole.features, smooth_gradient(whole.gradient, self.sigma * sides))
