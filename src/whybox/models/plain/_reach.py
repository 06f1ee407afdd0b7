"""How many cells around its own each of a head's calls reads, where torch's functions say it.

A head that is made of convolutions and of functions of single cells then needs no measuring, and less of a crop the
nearer it is to its end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whybox.frame import Size
from whybox.ops.calls import Call, play

_OF_ONE_CELL = (
    *("silu", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "mish", "hardswish", "hardsigmoid", "hardtanh", "softplus"),
    *("sigmoid", "tanh", "exp", "logsigmoid", "clamp", "neg", "square"),
    *("add", "sub", "mul", "div", "rsub", "cat", "chunk", "split", "clone", "contiguous"),
)
"""Names of functions whose result in a cell is of that cell alone, where they keep a map's size, as all local calls do."""
_FUNCTIONS = {
    getattr(space, name + end, None)
    for space in (torch, functional, Tensor, torch._C._nn)
    for name in _OF_ONE_CELL
    for end in ("", "_")
} - {None}
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def reach_of(call: Call) -> int | None:
    """Cells, down and across, from one of its outputs' to the farthest that the call reads for it; None: not known."""
    if call.writes and len(call.reads) > 1:
        return None  # one of the maps may stand in another's memory, of which it must not be cut
    args, options = call.arguments
    if call.function is torch.conv2d:
        padding = _padding(**_named(call))
        return None if padding is None else max(padding)
    if call.function is functional.batch_norm:
        return None if (args[5] if len(args) > 5 else options.get("training")) else 0
    return 0 if call.function in _FUNCTIONS else None


def _named(call: Call) -> dict[str, Any]:
    """The arguments of a convolution by name."""
    args, options = call.arguments
    named: dict[str, Any] = dict(zip(_CONVOLUTION, args, strict=False)) | options
    return named


def _padding(weight: Any, stride: Any = 1, padding: Any = 0, **others: Any) -> tuple[int, int] | None:
    """Of a convolution that keeps a map's size, which is as far as it reaches, down and across; None: not known."""
    if not isinstance(weight, Tensor) or isinstance(padding, str) or _pair(stride) != (1, 1):
        return None
    return _pair(padding)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def needed_margins(calls: Sequence[Call], ends: Iterable[int]) -> dict[int, int] | None:
    """Cells around those that are asked for, which each tensor must cover for the tensors `ends` to come out as in the whole map.

    None: a call's reach is not known.
    """
    needed = dict.fromkeys(ends, 0)
    for call in reversed(calls):
        reach = reach_of(call)
        if reach is None:
            return None
        for index in call.reads:
            needed[index] = max(needed.get(index, 0), reach + max(needed.get(i, 0) for i in call.outputs))
    return needed


@dataclass(frozen=True)
class Area:
    """Equally many cells for each of n rows. low: (n,2) the first. extent: how many, down and across. grid: the map's size."""

    low: Tensor
    extent: Size
    grid: Size

    def size(self, margin: int) -> Size:
        """Of a crop that covers the cells and a margin."""
        return self.extent[0] + 2 * margin, self.extent[1] + 2 * margin

    def inside(self, margin: int) -> Tensor | None:
        """(n,1,k,l) which cells of the crops lie on the map; None: all."""
        parts = []
        for axis, (extent, side) in enumerate(zip(self.grid, self.size(margin), strict=True)):
            cells = self.low[:, axis, None] - margin + torch.arange(side, device=self.low.device)
            parts.append((cells >= 0) & (cells < extent))
        inside = parts[0][:, None, :, None] & parts[1][:, None, None]
        return None if inside.all() else inside

    def play(
        self, calls: Iterable[Call], root: int, crops: Tensor, needed: Mapping[int, int], ends: Iterable[int]
    ) -> dict[int, Tensor]:
        """What calls make of crops (n,C,k,l) with the margin `needed[root]`: the tensors `ends` (n,channels,s,t), without any."""
        tensors, margins = {root: crops}, {root: needed[root]}
        inside = cache(self.inside)
        for call in calls:
            reach, wanted = reach_of(call) or 0, max(needed.get(index, 0) for index in call.outputs)
            # All but convolutions may stand in one memory with another tensor, of which less is not enough.
            margin = wanted + reach if call.function is torch.conv2d else min(margins[index] for index in call.reads)
            given = {index: _trim(tensors[index], margins[index] - margin) for index in call.reads}
            if reach and (mask := inside(margin)) is not None:
                # What earlier calls made of the cells beyond the map is none of its padding.
                given = {index: values * mask for index, values in given.items()}
            lost = _play_narrower(call, reach, given)
            for index in call.outputs:
                tensors[index], margins[index] = _trim(given[index], reach - lost), margin - reach
                if tuple(tensors[index].shape[2:]) != self.size(margins[index]):
                    raise ValueError(f"expected a cell for a cell, got {tuple(given[index].shape)}")
        return {index: _trim(tensors[index], margins[index]) for index in ends}


def _play_narrower(call: Call, reach: int, tensors: dict[int, Tensor]) -> int:
    """Make a call, and if it can be, without its padding; by how many cells its outputs are then narrower, on each side."""
    lost = 0
    if reach and _padding(**_named(call)) == (reach, reach):
        lost, call = reach, replace(call, arguments=((), _named(call) | {"padding": 0}))
    play([call], tensors)
    return lost


def _trim(crops: Tensor, less: int) -> Tensor:
    """Crops without the outermost cells."""
    return crops[..., less:-less, less:-less] if less else crops
