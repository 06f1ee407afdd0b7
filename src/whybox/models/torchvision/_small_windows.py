"""Transposed convolutions of many small windows, faster than torch's own where all sums may be rounded otherwise.

A 1x1 window is one matrix product with the whole kernel. For larger ones the kernel and the window are polynomials in two
variables and the result is their product: it is known from its values at as many points as it has coefficients, and each value
is one product of two values (Toom-Cook; in neural networks as Winograd's minimal filtering: Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). A 3x3 window with a 3x3 kernel takes 25 multiplications for each pair of channels
instead of 81, a 5x5 window 49 instead of 225.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

_KERNEL = 3
# The coordinates of the points by the window's size; the last point is infinity, where a polynomial's value is its highest
# coefficient. Small ones, and their mirror images: rounding is amplified by the powers of a coordinate.
_POINTS: dict[int, tuple[float, ...]] = {3: (0, 1, -1, 0.5), 5: (0, 1, -1, 2, -0.5, 0.5)}
# Fewer windows are not worth the values of the kernel.
_ENOUGH = 32


class _Points(NamedTuple):
    """Values and coefficients in two variables, as matrices on flattened (rows, columns).

    Attributes:
        window: (p,k*k), a window's values at the p points.
        kernel: (p,9), a kernel's.
        result: (q*q,p), the result's coefficients from its values.
    """

    window: Tensor
    kernel: Tensor
    result: Tensor


@cache
def _points(size: int) -> _Points:
    """For windows of a size, in double precision."""
    coordinates, extent = _POINTS[size], size + _KERNEL - 1
    window, kernel, result = (_values(coordinates, count) for count in (size, _KERNEL, extent))
    # Values of about the size of the coefficients.
    scales = window.abs().sum(1, keepdim=True), kernel.abs().sum(1, keepdim=True)
    result = result.inverse() * (scales[0] * scales[1]).T
    return _Points(*(torch.kron(matrix, matrix) for matrix in (window / scales[0], kernel / scales[1], result)))


def _values(coordinates: tuple[float, ...], count: int) -> Tensor:
    """Of a polynomial with `count` coefficients, at the coordinates and at infinity: (points,count)."""
    powers = torch.tensor(coordinates, dtype=torch.float64)[:, None] ** torch.arange(count)
    return torch.cat([powers, torch.eye(count, dtype=torch.float64)[-1:]])


def product_multiplications(count: int, size: int, extent: int) -> int:
    """Multiplications by `SmallWindows` for each pair of channels of one of `count` windows of `size` cells per side and a kernel
    of `extent`."""
    if count >= _ENOUGH and size in _POINTS and extent == _KERNEL:
        return (size + extent - 1) ** 2
    return (size * extent) ** 2


class SmallWindows:
    """Transposed convolutions of windows (n,C,k,k), without a graph, for as long as no weight changes.

    What the points make of a kernel is kept: windows come in many small batches.
    """

    def __init__(self, kernel: Callable[[nn.Conv2d], Tensor]) -> None:
        """Do nothing yet.

        Args:
            kernel: A layer's weights as conv_transpose2d takes them.
        """
        self._kernel = kernel
        self._weights: dict[tuple[nn.Module, int], Tensor] = {}

    def __call__(self, windows: Tensor, layer: nn.Conv2d) -> Tensor:
        """(n,C,k,k) -> (n,channels,k+m-1,k+m-1), sums in another order than torch's, which costs a digit or two."""
        count, size, extent = len(windows), windows.shape[-1], layer.kernel_size[0]
        precise = windows.dtype == layer.weight.dtype and windows.dtype in (torch.float32, torch.float64)
        if layer.groups == 1 and size == 1:
            return _spread(windows, self._kernel(layer))
        if layer.groups == 1 and precise and size in _POINTS and extent == _KERNEL and count >= _ENOUGH:
            return self._multiply(windows, layer)
        return conv_transpose2d(windows.contiguous(), self._kernel(layer), groups=layer.groups)

    def _multiply(self, windows: Tensor, layer: nn.Conv2d) -> Tensor:
        """Through the values at the points."""
        count, channels, size, _ = windows.shape
        points = _Points(*(matrix.to(windows) for matrix in _points(size)))
        if (layer, size) not in self._weights:
            kernel = self._kernel(layer).permute(2, 3, 0, 1).reshape(_KERNEL**2, -1)
            self._weights[layer, size] = (points.kernel @ kernel).reshape(len(points.kernel), channels, -1)
        weights = self._weights[layer, size]
        values = (points.window @ windows.permute(2, 3, 0, 1).reshape(size * size, -1)).reshape(-1, count, channels)
        grown = points.result @ (values @ weights).flatten(1)
        return grown.reshape(size + _KERNEL - 1, size + _KERNEL - 1, count, -1).permute(2, 3, 0, 1)


def _spread(windows: Tensor, kernel: Tensor) -> Tensor:
    """(n,C,1,1) cells times the whole kernel."""
    channels, outputs, extent, _ = kernel.shape
    weights = kernel.permute(0, 2, 3, 1).reshape(channels, -1)
    return (windows.flatten(1) @ weights).reshape(len(windows), extent, extent, outputs).permute(0, 3, 1, 2)
