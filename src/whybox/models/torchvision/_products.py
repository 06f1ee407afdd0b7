"""Sums over the channels of features times gradient, for many cells of a convolutional head at once, without the gradients.

The gradient g of an output at the features is needed only to be multiplied with the features A. The tower's layers split in two:
J, the lower part's derivative, and g', the gradient at its output. In each cell x

    sum_c A_c(x) (J^T g')_c(x) = sum_y g'(y) . (J A|x)(y)

where A|x are the features with all cells but x set to zero. J A|x does not depend on the output, so that all outputs of a level
share it; the windows that a gradient passes through are largest in the lower part, and are not computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, max_pool2d

from whybox.models.torchvision._conv_heads import (
    Branch,
    Tape,
    pull_windows,
    push_cells,
    radius_of,
    small_backward,
    small_forward,
    window_multiplications,
)
from whybox.models.torchvision._small_windows import SmallWindows

_TABLE_BYTES = 2**26
_PART_BYTES = 2**22


@dataclass(frozen=True)
class Split:
    """A branch in two.

    Attributes:
        lower: The tower's first layers, up to a convolution.
        upper: The rest.
    """

    lower: tuple[nn.Module, ...]
    upper: Branch

    @property
    def channels(self) -> int:
        """Channels between the parts."""
        last = self.lower[-1]
        assert isinstance(last, nn.Conv2d)
        return last.out_channels

    @property
    def reach(self) -> int:
        """Cells (2r+1)^2 that a cell of the features reaches through the lower part."""
        return int(2 * radius_of(self.lower) + 1) ** 2

    def multiplications(self, outputs: int, cells: int) -> int:
        """What the sums of so many outputs cost, over so many cells of the features."""
        meeting = (2 * self.upper.radius + 1) ** 2 * self.reach * self.channels
        pulling = pull_multiplications(self.upper, small=outputs) + meeting
        return outputs * pulling + cells * window_multiplications(self.lower, small=cells)


def pull_multiplications(branch: Branch, *, small: int = 0) -> int:
    """Multiplications of `pull_windows` for one of `small` cells, without the predictors'; 0: without `SmallWindows`."""
    return window_multiplications(branch.tower[::-1], branch.radius - radius_of(branch.tower), small=small)


def splits_of(branch: Branch) -> Iterator[Split]:
    for i, layer in enumerate(branch.tower, 1):
        if isinstance(layer, nn.Conv2d):
            yield Split(branch.tower[:i], replace(branch, tower=branch.tower[i:]))


def cheapest_split(branch: Branch, outputs: Tensor, features: Tensor) -> Split | None:
    """Where to split a branch, by multiplications and a limit on memory; None where gradients cost least.

    Args:
        branch: The branch.
        outputs: (n,2) the cells of all outputs whose sums are needed, as (row, column).
        features: (C,h,w).
    """
    cells = int(_seen(outputs, branch.radius, features).sum())
    grid = features.shape[-2] * features.shape[-1]
    fitting = [s for s in splits_of(branch) if grid * s.reach * s.channels * features.element_size() <= _TABLE_BYTES]
    best = min(fitting, key=lambda split: split.multiplications(len(outputs), cells), default=None)
    if best is None:
        return None
    return best if best.multiplications(len(outputs), cells) < len(outputs) * pull_multiplications(branch) else None


def _seen(outputs: Tensor, radius: int, features: Tensor) -> Tensor:
    """(h,w) bool: the cells within a radius of some output."""
    marks = features.new_zeros((1, *features.shape[-2:]))
    marks[0, outputs[:, 0], outputs[:, 1]] = 1
    return max_pool2d(marks, 2 * radius + 1, 1, radius)[0] > 0


@dataclass(frozen=True)
class SharedProducts:
    """Sums of features times gradient for outputs of one branch at one level.

    Attributes:
        branch: The branch.
        split: Where it is split.
        tape: The recordings of its forward pass.
        call: Which of the tower's recorded calls.
        features: (C,h,w), the branch's input.
        outputs: (m,2) the cells of all outputs that will be asked for.
    """

    branch: Branch
    split: Split
    tape: Tape
    call: int
    features: Tensor
    outputs: Tensor

    def __call__(self, seeds: Mapping[str, Tensor], cells: Tensor) -> Tensor:
        """As `pull_windows`: (n,2r+1,2r+1), the gradients' sums with the features over the channels."""
        gradient = pull_windows(self.split.upper, self.tape, self.call, seeds, cells, self._grid, small=self._backward)
        sums = self._meet(gradient, cells)
        width = 2 * radius_of(self.split.lower) + 1
        return fold(sums, (2 * self.branch.radius + 1,) * 2, width)[:, 0]

    def _meet(self, gradient: Tensor, cells: Tensor) -> Tensor:
        """Gradients (n,channels,k,k) at the lower part's output -> their products with what meets them, (n,reach,k*k)."""
        count, channels, size, _ = gradient.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, channels).to(self._table)
        place = self._place(cells, size // 2).flatten()
        products = rows.new_zeros((len(rows), self.split.reach))
        # All gradients at one cell meet the same: a product of matrices a cell, which reads the table once.
        inside = (place < self._rows[-1]).nonzero()[:, 0]
        if not len(inside):
            return products.reshape(count, size * size, self.split.reach).mT
        order = inside[place[inside].argsort()]
        met, counts = torch.unique_consecutive(place[order], return_counts=True)
        start = counts.cumsum(0) - counts
        # Cells with about as many gradients together: their matrices are as large as the largest.
        by_count = counts.argsort(descending=True)
        for group in torch.split(by_count, max(1, _PART_BYTES // (self._table[0].numel() * self._table.element_size()))):
            turn = torch.arange(int(counts[group[0]]), device=order.device)
            there = turn < counts[group, None]
            chosen = order[(start[group, None] + turn).clamp(max=len(order) - 1)]
            products[chosen[there]] = (rows[chosen] @ self._table[met[group]].mT)[there]
        return products.reshape(count, size * size, self.split.reach).mT

    @cached_property
    def _backward(self) -> SmallWindows:
        return small_backward()

    @cached_property
    def _table(self) -> Tensor:
        """(rows+1,reach,channels): for the cells y around outputs and the cells x around each, (J A|x)(y). The last row is for
        all other cells y."""
        seen = _seen(self.outputs, self.branch.radius, self.features).nonzero()
        radius = radius_of(self.split.lower)
        reach, channels = self.split.reach, self.split.channels
        table = self.features.new_zeros(((int(self._rows[-1]) + 1) * reach, channels))
        # Seen from y, the cell x lies on the opposite side.
        around = torch.arange(reach - 1, -1, -1, device=seen.device)
        forward = small_forward()
        for cells in torch.split(seen, max(1, _PART_BYTES // (reach * channels * table.element_size()))):
            pushed = push_cells(self.split.lower, self.tape, self.call, self.features, cells, self._grid, forward)
            rows = self._place(cells, radius) * reach + around
            table.index_copy_(0, rows.flatten(), pushed.permute(0, 2, 3, 1).reshape(-1, channels).to(table))
        table[-reach:] = 0
        return table.reshape(-1, reach, channels)

    @cached_property
    def _rows(self) -> Tensor:
        """(h*w+1,): the table's row of each cell of the grid; the last is that of cells beyond it, and of all without a row."""
        there = _seen(self.outputs, self.split.upper.radius, self.features).flatten()
        rows = torch.full((len(there) + 1,), int(there.sum()), device=there.device)
        rows[:-1][there] = torch.arange(int(there.sum()), device=there.device)
        return rows

    def _place(self, cells: Tensor, radius: int) -> Tensor:
        """(n,(2r+1)^2): the table's rows of the cells around each."""
        height, width = self._grid
        reach = torch.arange(-radius, radius + 1, device=cells.device)
        rows, columns = (cells[:, :1] + reach)[:, :, None], (cells[:, 1:] + reach)[:, None, :]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return self._rows[torch.where(inside, rows * width + columns, height * width).flatten(1)]

    @property
    def _grid(self) -> tuple[int, int]:
        return self.features.shape[-2], self.features.shape[-1]


def shared_products(
    branches: Sequence[Branch], tape: Tape, call: int, features: Tensor, outputs: Tensor
) -> list[SharedProducts | None]:
    """The cheaper way to products for each branch; None where it is through the gradients.

    Args:
        branches: The branches of a level.
        tape: The recordings of their forward pass.
        call: Which of the towers' recorded calls.
        features: (C,h,w), their input.
        outputs: (m,2) the cells of all outputs that will be asked for.
    """
    splits = [cheapest_split(branch, outputs, features) for branch in branches]
    return [
        None if split is None else SharedProducts(branch, split, tape, call, features, outputs)
        for branch, split in zip(branches, splits, strict=True)
    ]
