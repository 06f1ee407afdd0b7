"""How much of an object a detector still sees in a changed image: one number from its raw candidates."""

from typing import Literal

import torch
from torch import Tensor

from whybox.frame import Size
from whybox.ops.matching import pairwise_iou
from whybox.types import Candidates

Score = Literal["class", "iou_x_probability", "top1", "top5"]
LEADING = {"top1": 1, "top5": 5}
"""Scores that ask for a rank: among so many highest."""


def track_scores(
    candidates: Candidates,
    boxes: Tensor,
    labels: Tensor,
    size: Size,
    *,
    score: Score = "class",
    legacy_iou: bool = False,
    floor: float = 0.0,
    most: int | None = None,
) -> Tensor:
    """The scores (N,) of N objects, boxes (N,4) xyxy and labels (N,), among the raw candidates of one image of `size`.

    "class": the highest score of the class among candidates with IoU > 0.5, 0 where there is none; nothing is suppressed.
    "iou_x_probability": max_j IoU(b_j, b) p_j(c) over all candidates, p the class probability where a detector keeps it
    apart from the score. What lies beyond the image is cut off all boxes before they are compared.
    floor, most: what `counted` keeps. legacy_iou: boxes end on a pixel, as in `pairwise_iou`.
    Source: the reference code of Zhao, Hsiao, Chan, ODAM ("class"); the scores by which visual precision search (VPS) and
    VX-CODE are judged ("iou_x_probability").
    """
    labels = labels.to(candidates.scores.device)
    if not len(candidates) or not len(labels):
        return candidates.scores.new_zeros(len(labels))
    places = candidates.boxes if candidates.boxes.ndim == 2 else candidates.boxes[:, labels].transpose(0, 1)
    shared = overlaps(inside(boxes.to(places), size), inside(places, size), legacy=legacy_iou)
    if score == "class":
        values = torch.where(shared > 0.5, candidates.scores[:, labels].T, 0)
    else:
        values = shared * probabilities(candidates)[:, labels].T
    if floor > 0 or most is not None:
        values = torch.where(counted(candidates, floor, most)[:, labels].T, values, 0)
    return values.amax(1)


def counted(candidates: Candidates, floor: float, most: int | None) -> Tensor:
    """Which pairs of candidate and class count, (M,K): class probability above `floor`, and among them the `most` best scores
    of the image, over all classes (equal ones with the last are kept)."""
    kept = probabilities(candidates) > floor
    best = candidates.scores[kept]
    if most is not None and len(best) > most:
        kept = kept & (candidates.scores >= best.topk(most).values[-1])
    return kept


def probabilities(candidates: Candidates) -> Tensor:
    """(M,K): the "class" factor of the scores where a detector keeps it, else the scores."""
    return candidates.factors.get("class", candidates.scores)


def inside(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (...,4) xyxy cut off at the edges of an image of `size`."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def overlaps(boxes: Tensor, places: Tensor, *, legacy: bool = False) -> Tensor:
    """IoU (N,M) of boxes (N,4) with places, shared (M,4) or for each its own (N,M,4)."""
    if places.ndim == 2:
        return pairwise_iou(boxes, places, legacy)
    return torch.cat([pairwise_iou(box[None], own, legacy) for box, own in zip(boxes, places, strict=True)])


def lead_scores(candidates: Candidates, labels: Tensor, count: int) -> Tensor:
    """Is the column of each label (N,) among the `count` highest of the one candidate's columns? 1 or 0, (N,).

    Columns that tie across the border have the part of them that a random choice would take. NaN where there are no more
    columns than `count`: then every one of them is among the highest.
    Source: zero-shot classification, as Zhao et al., Grad-ECLIP, ICML 2024, follow it through deletion and insertion.
    """
    scores = candidates.scores[0]
    own = scores[labels.to(scores.device)][:, None]
    higher, tied = (scores > own).sum(1), (scores == own).sum(1)
    led = ((count - higher) / tied).clamp(0, 1)
    return led if len(scores) > count else torch.full_like(led, torch.nan)
