"""From a model's pullbacks to heat maps: the loop that all gradient methods share, and their common operations."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from whybox.class_checks import check_takes
from whybox.errors import GradientError, WhyboxError
from whybox.frame import Size, resize_maps
from whybox.method import Method
from whybox.model import Model
from whybox.pullback import FeatureGradient, PlacedMaps, Pullback
from whybox.types import Detections, HeatMaps, Target, Trace, branch_of, min_max

Draw = Callable[[FeatureGradient, Detections, float], PlacedMaps]
"""(gradient of n rows, their n detections in network pixels, stride) -> n maps with their placement."""

Fusion = Literal["max", "mean", "sum"]


class GradientMethod(Method):
    """A method that draws maps from gradients at one layer. A method whose user can choose layer and route has dataclass fields
    of these names.

    Attributes:
        layer: None for the level that a detection comes from; else one of the model's `layers` or a module's path.
        route: "auto", "fast" or "exact".
    """

    @classmethod
    def check_class(cls) -> None:
        """Refuse a class as `Method` does, or one whose `draw` takes other arguments."""
        super().check_class()
        check_takes(f"method class {cls.__name__}", cls, "draw", "gradient, detections, stride")

    @property
    def layer(self) -> Any:
        """The default, where the method has no field of that name."""
        return None

    @property
    def route(self) -> str:
        """The default, where the method has no field of that name."""
        return "auto"

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target, drawn by `draw` from the gradients at `layer`."""
        return draw_heat_maps(self, model, trace, detections, targets)

    @abstractmethod
    def draw(self, gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
        """Draw the maps of n rows.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.

        Returns:
            `gradient.under(maps)` for maps (n,k,l) that lie where the gradient lies, or `gradient.on_grid(maps)` for maps
            (n,h,w) of the whole layer.
        """


def draw_heat_maps(
    method: GradientMethod, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[HeatMaps]:
    """One HeatMaps per target, drawn by `method` from the gradients at its layer."""
    branches = [branch_of(target) for target in targets]
    drawn: dict[int, HeatMaps] = {}
    for branch in dict.fromkeys(branches):
        own = [i for i, other in enumerate(branches) if other == branch]
        drawn |= zip(own, _draw_branch(method, model, trace, detections, [targets[i] for i in own]), strict=True)
    return [drawn[i] for i in range(len(targets))]


def _draw_branch(
    method: GradientMethod, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[HeatMaps]:
    maps, routes, layers = draw_maps(
        model,
        trace,
        detections,
        targets,
        method.draw,
        layer=method.layer,
        route=method.route,
        frozen_allowed=method.frozen_allowed,
    )
    for row, values in ((row, values) for native in maps for row, values in enumerate(native)):
        # The sum is several times faster, and finite only where all values are.
        if not values.sum().isfinite() and not values.isfinite().all():
            raise WhyboxError(f"method {method.name!r} drew NaN or infinity for detection {row}; expected finite numbers")
    return [
        method.heat_maps(native, trace.frame, target, routes=routes, layers=layers)
        for native, target in zip(maps, targets, strict=True)
    ]


def draw_maps(
    model: Model,
    trace: Trace,
    detections: Detections,
    targets: Sequence[Target],
    draw: Draw,
    *,
    layer: str | None = None,
    route: str = "auto",
    frozen_allowed: bool = True,
) -> tuple[list[tuple[Tensor, ...]], tuple[str, ...], tuple[str, ...]]:
    """Draw maps from the gradients at a layer. Targets share pullbacks: another target costs its backward pass alone.

    Args:
        model: The model to explain.
        trace: The image's trace.
        detections: N detections.
        targets: The scalars to explain, all of one branch of the network.
        draw: Draws maps from a gradient.
        layer: As in `Model.pullbacks`.
        route: As in `Model.pullbacks`.
        frozen_allowed: As in `Model.pullbacks`.

    Returns:
        For every target N maps on their layers' grids; the route of each detection's gradient, and the name of its layer.

    Raises:
        GradientError: A target does not depend on the features, or the model has no pullback for a detection.
    """
    maps: list[dict[int, Tensor]] = [{} for _ in targets]
    routes, layers = [""] * len(detections), [""] * len(detections)
    # It turns gradients on as well, so that the caller's no_grad does not reach the pullbacks.
    with torch.inference_mode(False):
        detections = ordinary(detections)
        branch = branch_of(targets[0]) if targets else ""
        ways = partial(model.branch_pullbacks, branch) if branch else model.pullbacks
        for pullback in ways(trace, detections, layer, route, frozen_allowed=frozen_allowed):
            rows = pullback.rows.tolist()
            boxes = trace.frame.boxes_to_network(detections.boxes[pullback.rows])
            chosen = replace(detections[pullback.rows], boxes=boxes)
            for target, done in zip(targets, maps, strict=True):
                for positions, values in _draw_parts(pullback, target, chosen, draw):
                    for position, value in zip(positions.tolist(), values, strict=True):
                        done[rows[position]] = value
            for row in rows:
                routes[row], layers[row] = pullback.route, pullback.layer
    for done in maps:
        if missing := set(range(len(detections))) - done.keys():
            raise GradientError(f"{model.name} gave no pullback to the features for detection {min(missing)}")
    return [tuple(done[row] for row in range(len(detections))) for done in maps], tuple(routes), tuple(layers)


def ordinary(detections: Detections) -> Detections:
    """The same detections as normal tensors: autograd cannot save inference tensors, their clones it can."""
    return detections.map(Tensor.clone)


def _draw_parts(pullback: Pullback, target: Target, detections: Detections, draw: Draw) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of rows (m,) and their maps (m,h,w)."""
    for positions, gradient in pullback.gradients(target):
        placed = draw(gradient, detections[positions], pullback.stride)
        if not isinstance(placed, PlacedMaps):
            # A bare tensor could be a window or the whole grid: a window would silently end up in the grid's corner.
            raise WhyboxError(
                "draw must return maps with their place, gradient.under(maps) or gradient.on_grid(maps), "
                f"got {type(placed).__name__}"
            )
        yield positions, placed.place()


def fuse_layers(layers: Sequence[HeatMaps], fusion: Fusion, options: Mapping[str, Any]) -> HeatMaps:
    """Fuse the maps of the same N detections from several layers: each is resized (bilinear) to the finest grid among them and
    min-max scaled to 0..1; then their maximum, mean or sum. The rule is whybox's, not from a paper.

    Args:
        layers: One HeatMaps per layer.
        fusion: "max", "mean" or "sum".
        options: The settings to record.
    """
    native = tuple(_fuse(maps, fusion) for maps in zip(*(layer.native for layer in layers), strict=True))
    routes = tuple("+".join(dict.fromkeys(taken)) for taken in zip(*(layer.routes for layer in layers), strict=True))
    names = tuple("+".join(dict.fromkeys(taken)) for taken in zip(*(layer.layers for layer in layers), strict=True))
    return replace(layers[0], native=native, routes=routes, layers=names, options=dict(options))


def _fuse(maps: Sequence[Tensor], fusion: Fusion) -> Tensor:
    """Maps of one detection, each (h,w) on its own grid -> (H,W) on the finest of the grids."""
    finest = max((tuple(values.shape) for values in maps), key=lambda shape: shape[0] * shape[1])
    # Resized before scaled: interpolation lowers a coarse map's peak, and every layer has to reach 1.
    stack = min_max(torch.cat([resize_maps(values[None], (finest[0], finest[1])) for values in maps]))
    if fusion == "max":
        return stack.amax(0)
    return stack.sum(0) if fusion == "sum" else stack.mean(0)


def weigh_channels(features: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k A_k: features (C,h,w) or (n,C,h,w), weights (n,C) -> (n,h,w)."""
    if features.ndim == 3:
        # One matrix product, where all rows share the features; einsum is for windows, which have features of their own.
        return (weights @ features.flatten(1)).reshape(len(weights), *features.shape[-2:])
    return torch.einsum("nchw,nc->nhw", features, weights)


def cells_in_boxes(boxes: Tensor, stride: float, size: Size, origin: Tensor | None = None) -> Tensor:
    """Masks of the cells that boxes touch, at least one cell per box.

    Args:
        boxes: (n,4) xyxy in network pixels.
        stride: Network pixels per cell.
        size: (height, width) of the masks, in cells.
        origin: (n,2) the (row, column) of each mask's top-left cell on the grid; None: the grid's first cell.

    Returns:
        (n,*size), 1 or 0.
    """
    low = (boxes[:, :2] / stride).floor()
    # A box without extent on a line between cells would cover none.
    high = torch.maximum((boxes[:, 2:] / stride).ceil(), low + 1)
    start = boxes.new_zeros((len(boxes), 2)) if origin is None else origin.to(boxes)
    rows = start[:, :1] + torch.arange(size[0], device=boxes.device)
    columns = start[:, 1:] + torch.arange(size[1], device=boxes.device)
    down = (rows >= low[:, 1:]) & (rows < high[:, 1:])
    across = (columns >= low[:, :1]) & (columns < high[:, :1])
    return (down[:, :, None] & across[:, None, :]).to(boxes.dtype)


def split_gradient(gradient: FeatureGradient, size: Size) -> Iterator[tuple[slice, FeatureGradient]]:
    """Slices of the rows, and their gradients, so that a (rows,C,*size) tensor holds at most 2**24 numbers (64 MiB)."""
    count, channels = gradient.gradient.shape[:2]
    step = max(1, 2**24 // (channels * size[0] * size[1]))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        yield rows, gradient[rows]
