"""The gradient of a local head on windows of the features, without knowing the head's layers.

An output cell of most heads depends on a small window of the features. Crops of these go once more through the calls that
the head made, all detections in one batch, and one backward pass gives the gradient of every one. That this is the same
gradient is checked in the pass itself: how far the head sees is what its calls say, or else is measured with a NaN, which
spreads to whatever depends on it, and what the crops give at the detections' cells must be what the network gave there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whybox.frame import take_windows
from whybox.models.plain._reach import Area, needed_margins
from whybox.ops.calls import Call, play
from whybox.ops.gradients import gradients_on
from whybox.ops.graphs import sound_norms

_RADII = (3, 7, 15)
"""Radii of the maps that the receptive field is measured on, smallest first."""
_ROUNDING = 1000
"""Steps of the floating-point format that two passes may differ by: convolutions of other sizes add in other orders."""
_MOST_ROUNDING = 0.02


@dataclass(frozen=True)
class Head:
    """What local calls make of one feature map. features: (C,h,w). raw: what they gave, (1,channels,h,w) by index."""

    calls: Sequence[Call]
    root: int
    features: Tensor
    raw: Mapping[int, Tensor]

    def run(self, maps: Tensor) -> dict[int, Tensor]:
        """The raw outputs for other maps (n,C,k,l), each (n,channels,k,l). Differentiable where the recorded pass was.

        Raises:
            Exception: The calls cannot be made with maps of that size.
        """
        tensors = {self.root: maps.clone()}  # the head may begin with an activation in place
        play(self.calls, tensors)
        found = {index: tensors[index] for index in self.raw}
        for values in found.values():
            if (len(values), *values.shape[2:]) != (len(maps), *maps.shape[2:]):
                raise ValueError(f"expected a cell for a cell, got {tuple(values.shape)} for {tuple(maps.shape)}")
        return found

    def radius(self) -> int | None:
        """Cells from an output cell to the farthest feature cell that it depends on; None where that is far.

        One cell of a map with the features' own values is made NaN. It spreads to every output that depends on it, also
        where gates are closed and weights are zero.
        """
        for radius in _RADII:
            # The features repeat where their grid is smaller than the probe.
            rows, columns = (torch.arange(2 * radius + 1, device=self.features.device) % n for n in self.features.shape[-2:])
            probe = self.features[:, rows][:, :, columns][None]
            probe[..., radius, radius] = torch.nan
            touched = [values.isnan().any(1)[0].nonzero() for values in self.run(probe).values()]
            reach = max((int((cells - radius).abs().max()) for cells in touched if len(cells)), default=0)
            # Where it touches the probe's edge it may reach farther.
            if reach < radius:
                return reach
        return None


@dataclass(frozen=True)
class Crops:
    """n crops of a feature map, and what the head gave for them at each row's cells.

    maps: (n,C,k,l), a leaf, zero beyond the map. origin: (n,2) the crops' top-left cells. cells: indices of the rows' cells on
    the whole grid, as `_cells` gives them. outputs: by raw output (n,s,t,channels), s x t cells a row, with their graph.
    """

    maps: Tensor
    origin: Tensor
    cells: tuple[Tensor, Tensor]
    outputs: Mapping[int, Tensor]

    def same(self, raw: Mapping[int, Tensor]) -> Tensor:
        """(n,) whether the head gave for the crop what it gave for the whole map, `raw`."""
        same = torch.ones(len(self.maps), dtype=torch.bool, device=self.maps.device)
        for index, outputs in self.outputs.items():
            same &= close(outputs.detach(), self.at_cells(raw[index][0])).flatten(1).all(1)
        return same

    def gradient(self, seeds: Mapping[int, Tensor]) -> Tensor:
        """The gradient of the raw outputs at the rows' cells, (n,s,t,channels) by index -> gradients (n,C,k,l) on the crops."""
        # What has no part in a value is left out, which spares its branch of the head.
        reached = [index for index, seed in seeds.items() if self.outputs[index].requires_grad and seed.any()]
        if not reached:
            return torch.zeros_like(self.maps)
        outputs = [self.outputs[index] for index in reached]
        with gradients_on(), sound_norms(*outputs):
            return torch.autograd.grad(outputs, self.maps, [seeds[index] for index in reached], retain_graph=True)[0]

    def at_cells(self, whole: Tensor) -> Tensor:
        """(channels,h,w) on the whole grid -> (n,s,t,channels) at the rows' cells."""
        return whole.movedim(0, -1)[self.cells]


def close(values: Tensor, wanted: Tensor) -> Tensor:
    """Where values are what they should be, but for rounding; of the values' shape."""
    rounding = min(_ROUNDING * torch.finfo(wanted.dtype).eps, _MOST_ROUNDING)
    # By the mean, too, because a value near zero is a difference of larger ones, and has their rounding.
    return (values - wanted).abs() <= rounding * (wanted.abs() + wanted.abs().mean())


def crop(head: Head, low: Tensor, high: Tensor) -> Crops | None:
    """Run a head on crops around the cells from `low` (n,2) to `high` (n,2), row and column; None where it is not local."""
    try:
        crops = _crop(head, low, high)
    except Exception:  # a head may refuse maps of another size in any way; the exact route is left
        return None
    return crops if crops is not None and any(output.requires_grad for output in crops.outputs.values()) else None


def _crop(head: Head, low: Tensor, high: Tensor) -> Crops | None:
    height, width = head.features.shape[-2:]
    down, across = (high - low + 1).amax(0).tolist()
    # All rows have the extent of the widest; at the edge their cells begin earlier.
    corner = low.minimum(torch.tensor([height - down, width - across], device=low.device))
    area = Area(corner, (down, across), (height, width))
    needed = needed_margins(head.calls, head.raw)
    if needed is None:
        return _crop_measured(head, area)
    margin = needed[head.root]
    if margin >= _RADII[-1]:
        return None
    origin = corner - margin
    with gradients_on():
        maps = take_windows(head.features, origin, area.size(margin)).requires_grad_()
        # A clone, because the head may begin with an activation in place.
        played = area.play(head.calls, head.root, maps.clone(), needed, head.raw)
        outputs = {index: values.movedim(1, -1) for index, values in played.items()}
    return Crops(maps, origin, _cells(corner, area.extent), outputs)


def _crop_measured(head: Head, area: Area) -> Crops | None:
    """Of a head with calls whose reach is not known."""
    radius = head.radius()
    if radius is None:
        return None
    grid = torch.tensor(area.grid, device=area.low.device)
    size = torch.tensor(area.size(radius), device=grid.device).minimum(grid)
    # A crop that would hang over the edge moves inwards, so that its edge is the map's and padding acts as it did there.
    origin = (area.low - radius).clamp(min=0).minimum(grid - size)
    with gradients_on():
        maps = take_windows(head.features, origin, (int(size[0]), int(size[1]))).requires_grad_()
        number = torch.arange(len(maps), device=grid.device)[:, None, None]
        inside = _cells(area.low - origin, area.extent)
        outputs = {index: values.movedim(1, -1)[(number, *inside)] for index, values in head.run(maps).items()}
    return Crops(maps, origin, _cells(area.low, area.extent), outputs)


def _cells(corner: Tensor, extent: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Rows (n,s,1) and columns (n,1,t) of the cells from each corner (n,2) on."""
    down, across = (torch.arange(int(n), device=corner.device) for n in extent)
    return (corner[:, :1] + down)[:, :, None], (corner[:, 1:] + across)[:, None, :]
