"""A detection's maps, averaged over images that are changed versions of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox.errors import WhyboxError
from whybox.model import Model
from whybox.ops.maps import Draw, draw_maps
from whybox.types import Candidates, Detections, Target, Trace


def average_maps(
    model: Model,
    trace: Trace,
    detections: Detections,
    targets: Sequence[Target],
    images: Iterable[tuple[float, Tensor]],
    draw: Draw,
    route: str,
) -> tuple[list[tuple[Tensor, ...]], tuple[str, ...]]:
    """sum_j weight_j * map_j at the network's input, for weights and images (3,H,W): for every target N maps on the network's
    pixels; and the routes. An image costs a forward pass, and what `draw_maps` costs."""
    sums: list[tuple[Tensor, ...]] = [() for _ in targets]
    routes: tuple[str, ...] = ()
    if not len(detections):
        return sums, routes
    with torch.inference_mode(False):
        for weight, image in images:
            changed = model.trace(image)
            moved = follow(detections, trace.candidates, changed.candidates)
            maps, routes = draw_maps(model, changed, moved, targets, draw, layer="input", route=route)
            sums = [_add(total, weight, new) for total, new in zip(sums, maps, strict=True)]
    return sums, routes


def _add(total: tuple[Tensor, ...], weight: float, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weighed = [weight * one for one in new]
    return tuple(weighed) if not total else tuple(a + b for a, b in zip(total, weighed, strict=True))


def follow(detections: Detections, before: Candidates, now: Candidates) -> Detections:
    """The same detections among the candidates of a changed image.

    Where the rows stand for the same places in every image (dense detectors, learned queries, whole images) a detection keeps
    its row. Proposals differ from image to image: they come in another number, or with a box for every class; there it is the
    candidate whose box of the detection's class overlaps its box most.
    """
    if len(now) == len(before) and now.boxes.ndim == 2:
        return detections
    if not len(now):
        raise WhyboxError("the model gives no candidates for a changed version of the image, so no detection can be followed")
    places = torch.arange(len(now), device=now.scores.device)
    rows = [
        box_iou(box[None].to(now.boxes), now.boxes_of(places, label.to(places).expand(len(now)))).argmax()
        for box, label in zip(detections.boxes, detections.labels, strict=True)
    ]
    return replace(detections, source=torch.stack(rows).to(detections.source))
