"""Pullbacks (vector-Jacobian products) from candidates to features: gradients of n rows, with their placement on the grid."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.placement import Boxes, Placement, Whole, Windows
from whybox.types import Target, Trace, target_name


@dataclass(frozen=True)
class PlacedMaps:
    """n maps and where they lie on their layer's grid; made by `FeatureGradient.under` and `FeatureGradient.on_grid`.

    Attributes:
        values: (n,k,l).
        placement: Where each map lies.
    """

    values: Tensor
    placement: Placement

    def place(self) -> Tensor:
        """(n,h,w) on the grid."""
        return self.placement.place(self.values)


@dataclass(frozen=True)
class FeatureGradient:
    """dY/dA of n detections at one feature map.

    Attributes:
        gradient: (n,C,k,l); zero everywhere else on the grid.
        features: The layer's activations, (C,h,w) shared by all detections, or (n,C,k,l) pooled per detection (RoI features).
        placement: Where the gradient lies on the grid.
    """

    gradient: Tensor
    features: Tensor
    placement: Placement

    @property
    def grid(self) -> Size:
        """(h, w) of the features: the whole layer, or the pooled region."""
        return self.features.shape[-2], self.features.shape[-1]

    @property
    def pooled(self) -> bool:
        """Whether the features are pooled per detection."""
        return self.features.ndim == 4

    def activation(self) -> Tensor:
        """The features under each gradient, broadcastable to (n,C,k,l)."""
        return self.placement.take(self.features)

    def products(self) -> Tensor:
        """sum_k dY/dA_k o A_k, (n,k,l): for methods that need no more, which may be had at less than the gradient's cost."""
        return sum_products(self.activation(), self.gradient)

    @property
    def extent(self) -> tuple[int, int, int]:
        """(n, k, l) of the gradient."""
        return len(self.gradient), self.gradient.shape[-2], self.gradient.shape[-1]

    def clipped(self) -> "FeatureGradient":
        """The same gradient, zero in the cells of a window that lie outside the grid."""
        return FeatureGradient(self.placement.inside(self.gradient), self.features, self.placement)

    def whole(self) -> "FeatureGradient":
        """The same gradient on the features' whole grid, zero outside its window."""
        if not isinstance(self.placement, Windows):
            return self
        return FeatureGradient(self.placement.place(self.gradient), self.features, Whole(self.grid))

    def under(self, maps: Tensor) -> PlacedMaps:
        """Place maps (n,k,l) where the gradients lie."""
        return PlacedMaps(self._checked(maps, self.extent[1:]), self.placement)

    def on_grid(self, maps: Tensor) -> PlacedMaps:
        """Place maps (n,h,w) on the features' whole grid."""
        # A pooled region is a grid of its own, which only its box places on the level's.
        placement = Whole(self.grid) if isinstance(self.placement, Windows) else self.placement
        return PlacedMaps(self._checked(maps, self.grid), placement)

    def __getitem__(self, rows: Any) -> "FeatureGradient":
        """Some of the rows, chosen by a slice or a tensor."""
        features = self.features[rows] if self.pooled else self.features
        return FeatureGradient(self.gradient[rows], features, self.placement[rows])

    def _checked(self, maps: Any, size: Size) -> Tensor:
        """The maps as a tensor of the gradient's type, which all that follows can compute with."""
        if type(maps).__module__ == "numpy":
            maps = torch.as_tensor(maps)
        if not isinstance(maps, Tensor):
            raise WhyboxError(f"maps must be a tensor, got {type(maps).__name__}")
        wanted = (self.extent[0], *size)
        if tuple(maps.shape) != wanted:
            raise WhyboxError(
                f"maps must have the shape {wanted} here, got {tuple(maps.shape)}: under() takes maps of the gradient's "
                f"extent {self.extent[1:]}, on_grid() of the features' {self.grid}"
            )
        return maps.to(self._like())

    def _like(self) -> Tensor:
        return self.gradient


@dataclass(frozen=True)
class Pending:
    """A gradient that has not been computed, because methods may do with less.

    Attributes:
        gradient: Computes it, (n,C,k,l).
        products: Computes what `FeatureGradient.products` gives, (n,k,l), at less than the gradient's cost.
    """

    gradient: Callable[[], Tensor]
    products: Callable[[], Tensor]


class PendingGradient(FeatureGradient):
    """A gradient that is computed when it is first asked for, which `products` does not do."""

    def __init__(self, pending: Pending, extent: tuple[int, int, int], features: Tensor, placement: Placement) -> None:
        """Compute nothing yet.

        Args:
            pending: What computes it.
            extent: (n, k, l) of the gradient.
            features: As in `FeatureGradient`.
            placement: As in `FeatureGradient`.
        """
        for name, value in (("pending", pending), ("_extent", extent), ("features", features), ("placement", placement)):
            # Frozen.
            object.__setattr__(self, name, value)

    pending: Pending
    _extent: tuple[int, int, int]

    @cached_property
    def gradient(self) -> Tensor:
        """(n,C,k,l), computed now."""
        return self.pending.gradient()

    @cached_property
    def _products(self) -> Tensor:
        return self.pending.products()

    def products(self) -> Tensor:
        """sum_k dY/dA_k o A_k, (n,k,l), without the gradient."""
        return self._products

    @property
    def extent(self) -> tuple[int, int, int]:
        """(n, k, l) of the gradient."""
        return self._extent

    def _like(self) -> Tensor:
        return self._products if "_products" in self.__dict__ else self.gradient


def sum_products(features: Tensor, factors: Tensor) -> Tensor:
    """sum_k F_k o A_k: features A (C,h,w) or (n,C,h,w), factors F (n,C,h,w) -> (n,h,w)."""
    # In slices of 16 MiB: on one core, 8 maps of (256,100,167) take 16 ms this way and 82 ms at once (einsum: 123 ms);
    # 100 windows of (256,11,11) fit one slice and take 1.4 ms (einsum: 7.4 ms).
    if features.ndim == 3:
        features = features.expand_as(factors)
    step = max(1, 2**22 // max(1, factors[:1].numel()))
    parts = [(a * f).sum(1) for a, f in zip(torch.split(features, step), torch.split(factors, step), strict=True)]
    return torch.cat(parts)


class Pullback(ABC):
    """A vector-Jacobian product from some candidate rows back to the features. Model families provide them.

    Attributes:
        rows: (n,) indices into the detections that are explained.
        trace: Restricted to those rows, differentiable.
        route: "exact" (autograd through the model), "windows" (exact, on the receptive field alone) or "frozen" (windows with
            the normalization's statistics held fixed).
        stride: Network pixels per cell of the features.
        features: (C,h,w) the layer's activations, or (n,C,k,l) pooled per row.
        layer: The layer's name, for reports: which level it is where the model chose one.
    """

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    layer: str = ""

    @abstractmethod
    def pull(self, values: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """dY/dA in parts that fit memory. Where the trace is differentiable, so is the gradient.

        Args:
            values: (n,) a target's values on `trace`.

        Yields:
            (m,) positions among this pullback's n rows, and the gradient of these m rows.
        """

    def gradients(self, target: Target) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """`pull` of the target's values, also where the caller is under no_grad or inference_mode.

        Raises:
            WhyboxError: The target does not give one finite number per detection.
        """
        # enable_grad alone does not undo the caller's inference_mode. No yield inside: the caller would run in this mode.
        with torch.inference_mode(False), torch.enable_grad():
            values = target(self.trace)
        _check_values(values, target, len(self.trace.detections))
        yield from self.pull(values)

    def gradient(self, target: Target) -> FeatureGradient:
        """All parts in one, in the order of the rows; where there are several, on the whole grid."""
        parts = list(self.gradients(target))
        if len(parts) == 1:
            positions, part = parts[0]
            # A single part may come in another order, too.
            return part[positions.argsort()]
        order = torch.cat([positions for positions, _ in parts]).argsort()
        whole = [part.whole() for _, part in parts]
        gradient = torch.cat([part.gradient for part in whole])[order]
        return FeatureGradient(gradient, whole[0].features, whole[0].placement)


Backward = Callable[[Tensor], Tensor]
"""A target's values (n,) on the restricted trace -> their gradient (n,C,k,l)."""


class _OnePart(Pullback):
    """A pullback whose rows all come in one part, placed by `_placement`."""

    backward: Backward

    def pull(self, values: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """One part, with all rows."""
        gradient = self.backward(values)
        positions = torch.arange(len(gradient), device=gradient.device)
        yield positions, FeatureGradient(gradient, self.features, self._placement(gradient))

    @abstractmethod
    def _placement(self, gradient: Tensor) -> Placement:
        """Where the gradients (n,C,k,l) lie."""

    @property
    def _layer_grid(self) -> Size:
        return self.features.shape[-2], self.features.shape[-1]


@dataclass(frozen=True)
class DensePullback(_OnePart):
    """A gradient that covers the whole grid. features: (C,h,w)."""

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    backward: Backward
    layer: str = ""

    def _placement(self, gradient: Tensor) -> Placement:
        return Whole(self._layer_grid)


@dataclass(frozen=True)
class WindowPullback(_OnePart):
    """A gradient that is zero outside a window around each row's cell.

    Attributes:
        features: (C,h,w).
        origin: (n,2) the windows' top-left cells (row, column).
        defer: Where there is a cheaper way to the gradient's products with the features: a target's values (n,) -> both ways,
            and the windows' size. `backward` is then not called.
    """

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    backward: Backward
    origin: Tensor
    layer: str = ""
    defer: Callable[[Tensor], tuple[Pending, Size]] | None = None

    def pull(self, values: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """One part, with all rows."""
        if self.defer is None:
            yield from super().pull(values)
            return
        pending, size = self.defer(values)
        placement = Windows(self.origin, size, self._layer_grid)
        positions = torch.arange(len(values), device=values.device)
        yield positions, PendingGradient(pending, (len(values), *size), self.features, placement)

    def _placement(self, gradient: Tensor) -> Placement:
        return Windows(self.origin, (gradient.shape[-2], gradient.shape[-1]), self._layer_grid)


@dataclass(frozen=True)
class PooledPullback(_OnePart):
    """A gradient at features pooled from regions (RoIAlign).

    Attributes:
        features: (n,C,k,l), pooled.
        cells: (n,4) the regions, xyxy in cells of the level's grid.
        grid: (h, w) of the level.
    """

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    backward: Backward
    cells: Tensor
    grid: Size
    layer: str = ""

    def _placement(self, gradient: Tensor) -> Placement:
        return Boxes(self.cells, self.grid)


Spread = Callable[[Tensor], Iterator[tuple[Tensor, FeatureGradient]]]
"""The gradient (n,C,k,l) at pooled features -> parts of the gradient at the features that they were pooled from."""


@dataclass(frozen=True)
class RegionPullback(Pullback):
    """A gradient at pooled features, carried by the pooling's transpose to a window of the level around each region. Windows
    come in parts, grouped by size.

    Attributes:
        features: (C,h,w) of the level.
        spread: The transpose of the pooling.
    """

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    backward: Backward
    spread: Spread
    layer: str = ""

    def pull(self, values: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """A part for each group of windows."""
        yield from self.spread(self.backward(values))


def _check_values(values: Any, target: Target, count: int) -> None:
    name = target_name(target)
    got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    if not isinstance(values, Tensor) or values.shape != (count,):
        raise WhyboxError(f"target {name!r} must return a tensor with one number per detection, ({count},), got {got}")
    if not values.isfinite().all():
        raise WhyboxError(f"target {name!r} is NaN or infinite for detection {int((~values.isfinite()).nonzero()[0])}")
