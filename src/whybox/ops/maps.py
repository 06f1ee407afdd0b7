"""From a model's pullbacks to heat maps: the loop that every gradient method shares, and what it draws with."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from whybox.errors import GradientError, WhyboxError
from whybox.frame import Size, resize_maps
from whybox.method import Method
from whybox.model import Model
from whybox.pullback import FeatureGradient, PlacedMaps, Pullback
from whybox.types import Detections, HeatMaps, Target, Trace, min_max

Draw = Callable[[FeatureGradient, Detections, float], PlacedMaps]
"""(gradient of n rows, their n detections in network pixels, stride) -> n maps with their places."""

Fusion = Literal["max", "mean", "sum"]


class GradientMethod(Method):
    """A method that draws maps from gradients at one layer.

    layer: None for the level that a detection comes from; else one of the model's `layers` or a module's path.
    route: "auto", "fast" or "exact". A method that lets its user choose them has fields of these names.
    """

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
        """Maps of n rows, with their place: `gradient.under(maps)` for maps (n,k,l) that lie where the gradient lies,
        `gradient.on_grid(maps)` for maps (n,h,w) of the whole layer. The caller puts them on the level's grid.

        Args:
            gradient: Of n rows, on the whole layer or on windows of it.
            detections: The n rows' detections, boxes in network pixels.
            stride: Network pixels per cell of the layer.
        """


def draw_heat_maps(
    method: GradientMethod, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[HeatMaps]:
    """One HeatMaps per target, drawn by `method` from the gradients at its layer."""
    maps, routes = draw_maps(
        model,
        trace,
        detections,
        targets,
        method.draw,
        layer=method.layer,
        route=method.route,
        frozen_allowed=method.frozen_allowed,
    )
    return [method.heat_maps(native, trace.frame, target, routes=routes) for native, target in zip(maps, targets, strict=True)]


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
) -> tuple[list[tuple[Tensor, ...]], tuple[str, ...]]:
    """For every target, N maps on their layers' own grids; and the route that each detection's gradient took.

    Targets share a pullback, so a second target costs its own backward pass and nothing else.
    """
    maps: list[dict[int, Tensor]] = [{} for _ in targets]
    routes = [""] * len(detections)
    with torch.inference_mode(False):
        detections = ordinary(detections)
        for pullback in model.pullbacks(trace, detections, layer, route, frozen_allowed=frozen_allowed):
            rows = pullback.rows.tolist()
            boxes = trace.frame.boxes_to_network(detections.boxes[pullback.rows])
            chosen = replace(detections[pullback.rows], boxes=boxes)
            for target, done in zip(targets, maps, strict=True):
                for positions, values in _draw_parts(pullback, target, chosen, draw):
                    for position, value in zip(positions.tolist(), values, strict=True):
                        done[rows[position]] = value
            for row in rows:
                routes[row] = pullback.route
    for done in maps:
        if missing := set(range(len(detections))) - done.keys():
            raise GradientError(f"{model.name} gave no way back to the features for detection {min(missing)}")
    return [tuple(done[row] for row in range(len(detections))) for done in maps], tuple(routes)


def ordinary(detections: Detections) -> Detections:
    """The same detections in tensors that autograd may keep, also where the caller made them under inference_mode."""
    return Detections(*(value.clone() for value in vars(detections).values()))


def _draw_parts(pullback: Pullback, target: Target, detections: Detections, draw: Draw) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of rows (m,) and their maps (m,h,w)."""
    for positions, gradient in pullback.gradients(target):
        placed = draw(gradient, detections[positions], pullback.stride)
        if not isinstance(placed, PlacedMaps):
            # Maps without a place cannot be told from maps of the whole grid, and would come out in its corner.
            raise WhyboxError(
                "draw must return maps with their place, gradient.under(maps) or gradient.on_grid(maps), "
                f"got {type(placed).__name__}"
            )
        yield positions, placed.place()


def fuse_layers(layers: Sequence[HeatMaps], fusion: Fusion, options: Mapping[str, Any]) -> HeatMaps:
    """The same N detections' maps from several layers, made one: each brought to the finest grid among its layers'
    (bilinear), scaled to run from 0 to 1, then their maximum, mean or sum. No paper gives this rule: it is ours."""
    native = tuple(_fuse(maps, fusion) for maps in zip(*(layer.native for layer in layers), strict=True))
    routes = tuple("+".join(dict.fromkeys(taken)) for taken in zip(*(layer.routes for layer in layers), strict=True))
    return replace(layers[0], native=native, routes=routes, options=dict(options))


def _fuse(maps: Sequence[Tensor], fusion: Fusion) -> Tensor:
    """Maps of one detection, each (h,w) on a grid of its own -> (H,W) on the finest of them."""
    finest = max((tuple(values.shape) for values in maps), key=lambda shape: shape[0] * shape[1])
    stack = min_max(torch.cat([resize_maps(values[None], (finest[0], finest[1])) for values in maps]))
    if fusion == "max":
        return stack.amax(0)
    return stack.sum(0) if fusion == "sum" else stack.mean(0)


def sum_products(features: Tensor, factors: Tensor) -> Tensor:
    """sum_k F_k o A_k, cell by cell: features (C,h,w) or (n,C,h,w), factors (n,C,h,w) -> (n,h,w).

    The product is formed in slices of 16 MiB: on one core, 8 whole maps of (256,100,167) take 16 ms so and 82 ms at
    once (einsum 123 ms); 100 windows of (256,11,11) fit one slice and take 1.4 ms (einsum 7.4 ms).
    """
    if features.ndim == 3:
        features = features.expand_as(factors)
    step = max(1, 2**22 // max(1, factors[:1].numel()))
    parts = [(a * f).sum(1) for a, f in zip(torch.split(features, step), torch.split(factors, step), strict=True)]
    return torch.cat(parts)


def weigh_channels(features: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k A_k: features (C,h,w) or (n,C,h,w), weights (n,C) -> (n,h,w)."""
    if features.ndim == 3:
        return (weights @ features.flatten(1)).reshape(len(weights), *features.shape[-2:])
    return torch.einsum("nchw,nc->nhw", features, weights)


def cells_in_boxes(boxes: Tensor, stride: float, size: Size, origin: Tensor | None = None) -> Tensor:
    """Which cells of a grid the boxes (n,4) xyxy, in network pixels, touch: 1 or 0, (n,*size); at least one each.

    origin: (n,2) cell (row, column) of the top-left corner of each detection's own view; None: the grid's own corner.
    """
    low = (boxes[:, :2] / stride).floor()
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
