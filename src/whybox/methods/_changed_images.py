"""A detection's maps, averaged over perturbed versions of its image."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.model import Model
from whybox.ops.maps import Draw, draw_maps
from whybox.ops.matching import pairwise_iou
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
    """sum_j weight_j * map_j at the network's input, over perturbed images. Each image costs a forward pass and the backward
    passes of `draw_maps`.

    Args:
        model: The model to explain.
        trace: The trace of the original image.
        detections: N detections of the original image.
        targets: The scalars to explain.
        images: Weights and images (3,H,W).
        draw: Draws maps from the gradient at the input.
        route: How gradients are taken.

    Returns:
        For every target N maps on the network's pixels, and the N routes.
    """
    sums: list[tuple[Tensor, ...]] = [() for _ in targets]
    routes: tuple[str, ...] = ()
    if not len(detections):
        return sums, routes
    # Tensors made in the caller's inference mode could not be saved for a backward pass.
    with torch.inference_mode(False):
        for weight, image in images:
            changed = model.trace(image)
            moved = follow(detections, trace.candidates, changed.candidates, fixed_rows=model.fixed_rows)
            maps, routes, _ = draw_maps(model, changed, moved, targets, draw, layer="input", route=route)
            # Summed at once, so that the maps of one image are in memory, however many images there are.
            sums = [_add(total, weight, new) for total, new in zip(sums, maps, strict=True)]
    return sums, routes


def _add(total: tuple[Tensor, ...], weight: float, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weighted = [weight * values for values in new]
    return tuple(weighted) if not total else tuple(a + b for a, b in zip(total, weighted, strict=True))


def follow(detections: Detections, before: Candidates, now: Candidates, *, fixed_rows: bool = True) -> Detections:
    """The same detections among the candidates of a perturbed image.

    Where the rows are the same positions in every image (dense detectors, learned queries, whole images) a detection keeps
    its row. Proposals differ from image to image, which shows in their number or in class-specific boxes; there it becomes the
    candidate whose box of the detection's class has the highest IoU with its box. Queries that the image chooses are as many in
    every image: of these the one with the highest product of IoU and score of the class is taken.

    Args:
        detections: N detections of the original image.
        before: The candidates of the original image.
        now: The candidates of the perturbed image.
        fixed_rows: Whether equally many candidates are the same ones; see `Model.fixed_rows`.

    Returns:
        The detections with `source` set to their rows among `now`.

    Raises:
        WhyboxError: The perturbed image has no candidates.
    """
    # Class-specific boxes are of proposals, which are often cut off at the same number in every image.
    if fixed_rows and len(now) == len(before) and now.boxes.ndim == 2:
        return detections
    if not len(now):
        raise WhyboxError("the model gives no candidates for a changed version of the image, so no detection can be followed")
    places = torch.arange(len(now), device=now.scores.device)
    rows = []
    for box, label in zip(detections.boxes, detections.labels.to(places), strict=True):
        fit = pairwise_iou(box[None].to(now.boxes), now.boxes_of(places, label.expand(len(now))))[0]
        rows.append((fit if fixed_rows else fit * now.scores[:, label].detach()).argmax())
    return replace(detections, source=torch.stack(rows).to(detections.source))
