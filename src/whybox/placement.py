"""Where maps lie on their layer's grid: on all of it, in windows, or over boxes."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from whybox.frame import Size, paste_boxes, paste_windows, take_windows


@runtime_checkable
class Placement(Protocol):
    """Where the maps (n,k,l) of n rows lie on a grid (h,w)."""

    @property
    def grid(self) -> Size:
        """(h, w) of the grid that `place` fills."""
        ...

    def place(self, maps: Tensor) -> Tensor:
        """Maps (n,k,l) -> (n,h,w) on the grid, zero outside their place. Differentiable."""
        ...

    def take(self, features: Tensor) -> Tensor:
        """The features under the maps: (C,h,w) -> (n,C,k,l), or a tensor that broadcasts to it."""
        ...

    def inside(self, values: Tensor) -> Tensor:
        """Values (n,C,k,l), zero in cells outside the grid."""
        ...

    def __getitem__(self, rows: Any) -> "Placement":
        """The placement of some of the rows."""
        ...


@dataclass(frozen=True)
class Whole:
    """The maps cover the grid."""

    grid: Size

    def place(self, maps: Tensor) -> Tensor:
        """The maps as they are."""
        return maps

    def take(self, features: Tensor) -> Tensor:
        """The features as they are."""
        return features

    def inside(self, values: Tensor) -> Tensor:
        """The values as they are."""
        return values

    def __getitem__(self, rows: Any) -> "Whole":
        return self


@dataclass(frozen=True)
class Windows:
    """Each map is a window of the grid.

    Attributes:
        origin: (n,2) the window's top-left cell (row, column); a window may reach beyond the grid.
        size: (k, l) of a window, in cells.
        grid: (h, w).
    """

    origin: Tensor
    size: Size
    grid: Size

    def place(self, maps: Tensor) -> Tensor:
        """Maps (n,...,k,l) -> (n,...,h,w); cells outside the grid are dropped."""
        return paste_windows(maps, self.origin, self.grid)

    def take(self, features: Tensor) -> Tensor:
        """(C,h,w) -> (n,C,k,l), zero beyond the edge."""
        return take_windows(features, self.origin, self.size)

    def inside(self, values: Tensor) -> Tensor:
        """Values (n,C,k,l), zero beyond the edge."""
        cells = torch.ones((1, *self.grid), dtype=values.dtype, device=values.device)
        return values * take_windows(cells, self.origin, self.size)

    def grown(self, margin: int) -> "Windows":
        """The same windows, `margin` cells wider on every side."""
        return Windows(self.origin - margin, (self.size[0] + 2 * margin, self.size[1] + 2 * margin), self.grid)

    def __getitem__(self, rows: Any) -> "Windows":
        return Windows(self.origin[rows], self.size, self.grid)


@dataclass(frozen=True)
class Boxes:
    """Each map lies over a box, as RoI-pooled features do.

    Attributes:
        cells: (n,4) boxes, xyxy in cells of the grid.
        grid: (h, w).
    """

    cells: Tensor
    grid: Size

    def place(self, maps: Tensor) -> Tensor:
        """Maps (n,k,l), each resized to its box."""
        return paste_boxes(maps, self.cells, self.grid)

    def take(self, features: Tensor) -> Tensor:
        """Pooled features (n,C,k,l) as they are: they have their maps' shape already."""
        return features

    def inside(self, values: Tensor) -> Tensor:
        """The values as they are: pooling never reads beyond the edge."""
        return values

    def __getitem__(self, rows: Any) -> "Boxes":
        return Boxes(self.cells[rows], self.grid)
