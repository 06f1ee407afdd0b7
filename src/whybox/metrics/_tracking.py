"""The score of an object in a changed image, from a model's raw candidates."""

from typing import Literal

import torch
from torch import Tensor

from whybox.frame import Size
from whybox.ops.matching import pairwise_iou
from whybox.types import Candidates

Score = Literal["class", "iou_x_probability", "top1", "top5"]
LEADING = {"top1": 1, "top5": 5}
"""Scores that are ranks: whether a column is among so many highest."""


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
    """The scores of objects among the raw candidates of one image.

    Source: the reference code of Zhao, Hsiao, Chan, ODAM ("class"); the scores by which visual precision search (VPS) and
    VX-CODE are judged ("iou_x_probability").

    Args:
        candidates: The M raw candidates.
        boxes: (N,4) xyxy in the image's pixels; all boxes are clipped to the image before they are compared.
        labels: (N,) score columns.
        size: Of the image, (H, W).
        score: "class": the highest score of the class among candidates with IoU > 0.5, without NMS, and 0 if there is none.
            "iou_x_probability": max_j IoU(b_j, b) p_j(c) over all candidates, where p is the class probability if the
            detector has one beside its score.
        legacy_iou: Boxes include their last pixel, see `pairwise_iou`.
        floor: See `counted`.
        most: See `counted`.

    Returns:
        (N,).
    """
    labels = labels.to(candidates.scores.device)
    if not len(candidates) or not len(labels):
        return candidates.scores.new_zeros(len(labels))
    # Class-specific boxes (M,K,4) become (N,M,4): each object meets those of its class.
    places = candidates.boxes if candidates.boxes.ndim == 2 else candidates.boxes[:, labels].transpose(0, 1)
    shared = overlaps(inside(boxes.to(places), size), inside(places, size), legacy=legacy_iou)
    if score == "class":
        # Strictly above 0.5, and the best of all candidates before NMS, as in the reference code.
        values = torch.where(shared > 0.5, candidates.scores[:, labels].T, 0)
    else:
        values = shared * probabilities(candidates)[:, labels].T
    if floor > 0 or most is not None:
        values = torch.where(counted(candidates, floor, most)[:, labels].T, values, 0)
    return values.amax(1)


def counted(candidates: Candidates, floor: float, most: int | None) -> Tensor:
    """The pairs of candidate and class that count, as in a detector's post-processing.

    Args:
        candidates: M candidates with K classes.
        floor: The class probability must be above it.
        most: Only the pairs with the highest scores over all classes count, and those that tie with the last; None: all.

    Returns:
        (M,K) bool.
    """
    # The class probability, before a centerness or the like is multiplied into the score: so do detectors filter.
    kept = probabilities(candidates) > floor
    best = candidates.scores[kept]
    if most is not None and len(best) > most:
        # By value: ties with the last one stay, and the order of the candidates has no effect.
        kept = kept & (candidates.scores >= best.topk(most).values[-1])
    return kept


def probabilities(candidates: Candidates) -> Tensor:
    """The class probabilities of candidates.

    Args:
        candidates: M candidates with K classes.

    Returns:
        (M,K): the scores' factor "class" if the detector has it, else the scores.
    """
    return candidates.factors.get("class", candidates.scores)


def inside(boxes: Tensor, size: Size) -> Tensor:
    """Clip boxes to the image.

    Args:
        boxes: (...,4) xyxy.
        size: Of the image, (H, W).

    Returns:
        (...,4).
    """
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def overlaps(boxes: Tensor, places: Tensor, *, legacy: bool = False) -> Tensor:
    """IoU of boxes with candidates' boxes.

    Args:
        boxes: (N,4) xyxy.
        places: (M,4) for all boxes, or (N,M,4), those of each box.
        legacy: Boxes include their last pixel.

    Returns:
        (N,M).
    """
    if places.ndim == 2:
        return pairwise_iou(boxes, places, legacy)
    return torch.cat([pairwise_iou(box[None], candidates, legacy) for box, candidates in zip(boxes, places, strict=True)])


def lead_scores(candidates: Candidates, labels: Tensor, count: int) -> Tensor:
    """Whether each label's column is among the highest columns of a whole-image model: its top-k accuracy.

    Source: zero-shot classification, as Zhao et al., Grad-ECLIP, ICML 2024, follow it through deletion and insertion.

    Args:
        candidates: The only candidate, the image.
        labels: (N,) score columns.
        count: k.

    Returns:
        (N,), 1 or 0; where columns tie across rank k, the probability that a random order puts the label's among the first
        k. NaN if there are at most k columns.
    """
    scores = candidates.scores[0]
    own_score = scores[labels.to(scores.device)][:, None]
    # The column ties with itself, so `tied` is at least 1.
    higher, tied = (scores > own_score).sum(1), (scores == own_score).sum(1)
    led = ((count - higher) / tied).clamp(0, 1)
    return led if len(scores) > count else torch.full_like(led, torch.nan)
