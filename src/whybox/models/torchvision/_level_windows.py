"""The backward pass of a one-stage head from some rows of a level, on windows around the rows' cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from whybox.errors import GradientError
from whybox.frame import Size
from whybox.models.torchvision._conv_heads import Branch, Tape, pull_windows
from whybox.models.torchvision._onestage_heads import Raw
from whybox.models.torchvision._products import SharedProducts
from whybox.placement import Windows
from whybox.pullback import FeatureGradient, Pending
from whybox.types import FeatureMap


@dataclass(frozen=True)
class Seeds:
    """Targets (n,) -> their gradients at the predictors' outputs.

    Attributes:
        raw: The head's outputs at the n rows, roots of the targets' graph.
        anchor: (n,) which of its cell's anchors each row is.
        anchors: How many a cell has.
        rectified: The outputs that pass no gradient where they are 0.
        differentiable: Whether the gradients keep a graph.
    """

    raw: Raw
    anchor: Tensor
    anchors: int
    rectified: frozenset[str]
    differentiable: bool

    def __call__(self, values: Tensor) -> Raw:
        """dY/d(predictor output) of every row, at its anchor's channels: (n, anchors * columns). Outputs that Y does not depend
        on are omitted."""
        if not values.requires_grad:
            raise GradientError("the target does not depend on the candidates through differentiable operations")
        # Rows are independent, so one backward pass of the sum gives every row's gradient.
        result = torch.autograd.grad(
            values.sum(), list(self.raw.values()), retain_graph=True, create_graph=self.differentiable, allow_unused=True
        )
        gradients = cast(Sequence[Tensor | None], result)
        seeds: Raw = {}
        for (name, value), gradient in zip(self.raw.items(), gradients, strict=True):
            if gradient is None:
                continue
            gated = gradient * (value > 0) if name in self.rectified else gradient
            seed = value.new_zeros((len(value), self.anchors, value.shape[1]))
            seed[torch.arange(len(value), device=value.device), self.anchor] = gated
            seeds[name] = seed.flatten(1)
        return seeds


@dataclass(frozen=True)
class LevelWindows:
    """From n targets to their gradients at a level's features, or to the sums of products with them.

    Attributes:
        branches: The head's towers at this level.
        tape: Their recorded gates.
        call: Which of a tower's calls was the level's.
        feature: The level.
        cells: (n,2) row and column of each target's cell.
        seeds: Targets -> their gradients at the predictors' outputs.
        shared: For each branch a way to products that costs less than gradients; None: none.
    """

    branches: Sequence[Branch]
    tape: Tape
    call: int
    feature: FeatureMap
    cells: Tensor
    seeds: Seeds
    shared: Sequence[SharedProducts | None]

    @property
    def radius(self) -> int:
        """Of the widest branch's windows."""
        return max(branch.radius for branch in self.branches)

    @property
    def route(self) -> str:
        """Whether normalization is held fixed."""
        return "frozen" if any(branch.frozen for branch in self.branches) else "windows"

    def gradients(self, values: Tensor) -> Tensor:
        """Targets (n,) -> (n,C,k,k)."""
        return self._gradients(self.seeds(values))

    def defer(self, values: Tensor) -> tuple[Pending, Size]:
        """Targets (n,) -> their gradients or products, whichever will be asked for, and the windows' size."""
        seeds = self.seeds(values)
        return Pending(lambda: self._gradients(seeds), lambda: self._total(seeds, [], self._products)), self._size

    @property
    def _size(self) -> Size:
        return (2 * self.radius + 1,) * 2

    def _gradients(self, seeds: Raw) -> Tensor:
        return self._total(seeds, [len(self.feature.values)], lambda _, branch, used: self._of_branch(branch, used))

    def _total(self, seeds: Raw, channels: Sequence[int], of: Callable[[int, Branch, Raw], Tensor]) -> Tensor:
        """Sum over the branches that have seeds, in windows around each row's cell of the head's radius."""
        result = self.feature.values.new_zeros((len(self.cells), *channels, *self._size))
        for i, branch in enumerate(self.branches):
            used = {name: seeds[name] for name in branch.predictors if name in seeds}
            if used:
                # Windows of a branch that sees less far lie in the middle of the widest.
                result = result + nn.functional.pad(of(i, branch, used), [self.radius - branch.radius] * 4)
        return result

    def _of_branch(self, branch: Branch, used: Raw) -> Tensor:
        return pull_windows(
            branch, self.tape, self.call, used, self.cells, self.feature.grid, differentiable=self.seeds.differentiable
        )

    def _products(self, index: int, branch: Branch, used: Raw) -> Tensor:
        """A branch's part of the sums over the channels, (n,k,k)."""
        if (way := self.shared[index]) is not None:
            return way(used, self.cells)
        placement = Windows(self.cells - branch.radius, (2 * branch.radius + 1,) * 2, self.feature.grid)
        return FeatureGradient(self._of_branch(branch, used), self.feature.values, placement).products()
