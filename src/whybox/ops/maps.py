"""From a model's pullbacks to heat maps: the loop that every gradient method shares."""

from collections.abc import Callable, Sequence

from torch import Tensor

from whybox.types import Detections, FeatureGradient, Model, Pullback, Target, Trace

Draw = Callable[[FeatureGradient, Detections, float], Tensor]
"""(gradient of n rows, their n detections in network pixels, stride) -> maps (n,k,l) under the gradients or (n,h,w)."""


def draw_maps(
    model: Model,
    trace: Trace,
    detections: Detections,
    targets: Sequence[Target],
    draw: Draw,
    *,
    layer: str | None = None,
    route: str = "auto",
) -> tuple[list[tuple[Tensor, ...]], tuple[str, ...]]:
    """For every target, N maps on their layers' own grids; and the route that each detection's gradient took.

    Targets share a pullback, so a second target costs its own backward pass and nothing else.
    """
    maps: list[list[Tensor]] = [[trace.image] * len(detections) for _ in targets]
    routes = [""] * len(detections)
    for pullback in model.pullbacks(trace, detections, layer, route):
        rows = pullback.rows.tolist()
        boxes = trace.frame.boxes_to_network(detections.boxes[pullback.rows])
        chosen = Detections(boxes, *(getattr(detections, name)[pullback.rows] for name in ("scores", "labels", "source")))
        for target, done in zip(targets, maps, strict=True):
            values = _draw_one(pullback, target, chosen, draw)
            for row, value in zip(rows, values, strict=True):
                done[row] = value
        for row in rows:
            routes[row] = pullback.route
    return [tuple(done) for done in maps], tuple(routes)


def _draw_one(pullback: Pullback, target: Target, detections: Detections, draw: Draw) -> Tensor:
    gradient = pullback.gradient(target)
    values = draw(gradient, detections, pullback.stride)
    if values.shape[-2:] != gradient.grid:
        values = gradient.paste(values)
    return values if pullback.place is None else pullback.place(values)
