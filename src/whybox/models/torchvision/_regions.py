"""From what a head of an R-CNN reads, N regions pooled from the feature maps, back to these maps."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whybox.errors import GradientError
from whybox.frame import Size
from whybox.models.torchvision._common import is_stock, level_name
from whybox.models.torchvision._roi_align import align_weights, pool_by_matrices, spread_pooled
from whybox.ops.gradients import gradients_on, recording, root, row_gradients
from whybox.ops.hooks import frozen
from whybox.placement import Windows
from whybox.pullback import DensePullback, FeatureGradient, PooledPullback, Pullback, RegionPullback
from whybox.types import Trace

_WINDOW_BYTES = 2**25


@dataclass(frozen=True)
class Regions:
    """What one head reads of N detections.

    Attributes:
        network: The detector.
        trace: Its pass.
        pool: The head's pooling, a MultiScaleRoIAlign.
        boxes: (N,4) the regions, xyxy in network pixels.
        level: (N,) the feature map that each is pooled from.
        pooled: (N,C,k,k).
        read: Some of the rows (n,) and their pooled features, with a graph -> the trace, narrowed to these rows.
    """

    network: Any
    trace: Trace
    pool: Any
    boxes: Tensor
    level: Tensor
    pooled: Tensor
    read: Callable[[Tensor, Tensor], Trace]

    def pullbacks(self, layer: str | None, route: str) -> Iterator[Pullback]:
        """Regions are independent, so one backward pass serves all rows of a level.

        Args:
            layer: "roi": the pooled features; else the level that they are pooled from.
            route: "exact": through the whole level; else through windows of it, which are exact, too.
        """
        for level in sorted(set(self.level.tolist())):
            rows = torch.nonzero(self.level == level)[:, 0]
            if layer == "roi":
                yield self._at_pooled(rows, level)
            elif route == "exact" or not is_stock(self.pool):
                yield self._whole_level(rows, level)
            else:
                yield self._windows(rows, level)

    def _bins(self, boxes: Tensor, level: int, origin: Tensor, size: Size, grid: Size) -> tuple[Tensor, Tensor]:
        """RoIAlign's two matrices for each region, (n,p,k) and (n,q,l), from a window of `size` at `origin` of the level."""
        box = boxes * self.pool.scales[level]
        high, wide = self.pool.output_size
        down = align_weights(box[:, 1], box[:, 3], high, self.pool.sampling_ratio, grid[0], origin[:, 0], size[0])
        across = align_weights(box[:, 0], box[:, 2], wide, self.pool.sampling_ratio, grid[1], origin[:, 1], size[1])
        return down, across

    def _whole_level(self, rows: Tensor, level: int) -> Pullback:
        trace, boxes, feature = self.trace, self.boxes[rows], self.trace.features[level]
        with frozen(self.network, weights=not trace.differentiable), gradients_on():
            leaf = root(feature.values, trace.differentiable)[None]
            if trace.differentiable and is_stock(self.pool):
                # torchvision's RoIAlign kernel has no double backward (pytorch/vision#1982).
                down, across = self._bins(boxes, level, torch.zeros_like(boxes[:, :2]).long(), feature.grid, feature.grid)
                pooled = pool_by_matrices(leaf[0], down, across)
            else:
                pooled = pool_regions(self.pool, trace, boxes, {feature.name: leaf})
            narrow = self.read(rows, pooled)
        pull = lambda values: row_gradients(values, leaf, name=f"level {feature.name}", create_graph=trace.differentiable)[:, 0]
        return DensePullback(rows, narrow, "exact", feature.stride, feature.values, pull, level_name(feature))

    def _at_pooled(self, rows: Tensor, level: int) -> PooledPullback:
        """At the pooled features; their maps are pasted back over the regions."""
        trace, feature = self.trace, self.trace.features[level]
        with recording(trace.differentiable):
            pooled = self.pooled[rows]
        with frozen(self.network, weights=not trace.differentiable), gradients_on():
            leaf = root(pooled, trace.differentiable)
            narrow = self.read(rows, leaf)
        cells = self.boxes[rows] * self.pool.scales[level]
        backward = lambda values: _joint_gradient(values, leaf, trace.differentiable)
        return PooledPullback(rows, narrow, "exact", feature.stride, pooled, backward, cells, feature.grid, "roi")

    def _windows(self, rows: Tensor, level: int) -> Pullback:
        """One backward pass to the pooled features of all rows, then RoIAlign's transpose to a window around each region.
        Windows are grouped by size, because all windows of a group have the size of the largest."""
        pooled = self._at_pooled(rows, level)
        feature = self.trace.features[level]
        boxes = self.boxes[rows]
        start, size = _reach(boxes * self.pool.scales[level], feature.grid)
        order = size.prod(1).argsort()

        def spread(gradient: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
            """Gradients (n,C,k,k) at the pooled features -> for some rows at a time, theirs in windows of the level's grid."""
            for chunk in _similar(size[order], len(feature.values) * feature.values.element_size()):
                part = order[chunk]
                height, width = size[part].amax(0).tolist()
                # Moved inwards where the largest size of the group would reach beyond the grid.
                origin = torch.minimum(start[part], start.new_tensor(feature.grid) - start.new_tensor([height, width]))
                down, across = self._bins(boxes[part], level, origin, (height, width), feature.grid)
                placement = Windows(origin, (height, width), feature.grid)
                yield part, FeatureGradient(spread_pooled(gradient[part], down, across), feature.values, placement)

        return RegionPullback(
            rows, pooled.trace, "windows", feature.stride, feature.values, pooled.backward, spread, level_name(feature)
        )


def pool_regions(pool: Any, trace: Trace, boxes: Tensor, instead: dict[str, Tensor] | None = None) -> Tensor:
    """Regions pooled as in the pass.

    Args:
        pool: A MultiScaleRoIAlign.
        trace: The pass.
        boxes: (n,4) xyxy in network pixels.
        instead: Feature maps (1,C,h,w) by name, in the place of the trace's.

    Returns:
        (n,C,k,k)
    """
    features = OrderedDict((feature.name, feature.values[None]) for feature in trace.features)
    pooled: Tensor = pool(features | OrderedDict(instead or {}), [boxes], [trace.frame.resized])
    return pooled


def levels_of(pool: Any, boxes: Tensor) -> Tensor:
    """(M,) index of the pyramid level that each region is pooled from, by a pooling that has been called before."""
    if len(pool.scales) == 1:
        return torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    levels: Tensor = pool.map_levels([boxes])
    return levels


def _joint_gradient(values: Tensor, features: Tensor, differentiable: bool) -> Tensor:
    """dY_i/dA_i of independent rows: one backward pass of the sum."""
    if not values.requires_grad:
        raise GradientError("the target does not depend on the candidates through differentiable operations")
    return torch.autograd.grad(values.sum(), features, retain_graph=True, create_graph=differentiable)[0]


def _reach(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """First cell (n,2) and size (n,2), as (rows, columns), of the window that RoIAlign reads for boxes (n,4) in cells; it widens
    a box to at least one cell."""
    limit = torch.tensor(grid, device=boxes.device)
    first, last = boxes[:, [1, 0]], boxes[:, [3, 2]]
    last = torch.maximum(last, first + 1)
    # A sample reads the cell at its floor and the next one; one more on either side leaves rounding some room.
    start = torch.minimum((first.floor().long() - 1).clamp(min=0), limit - 1)
    end = torch.minimum(last.floor().long() + 3, limit)
    return start, (end - start).clamp(min=1)


def _similar(sizes: Tensor, cell_bytes: int) -> Iterator[slice]:
    """Slices of rows, sorted by area, whose windows fit the memory limit at the size of the largest."""
    begin, widest = 0, sizes.new_zeros(2)
    for i, size in enumerate(sizes):
        wider = torch.maximum(widest, size)
        # A single window may be above the limit: it cannot be split.
        if i > begin and int(wider.prod()) * (i + 1 - begin) * cell_bytes > _WINDOW_BYTES:
            yield slice(begin, i)
            begin, wider = i, size
        widest = wider
    if len(sizes):
        yield slice(begin, len(sizes))
