"""What is wrong with a detector's boxes, by kind, and what each kind costs in average precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from whybox.truth import Truth
from whybox.types import Detections

CORRECT, IGNORED = "correct", "ignored"
LOCALIZATION, CLASSIFICATION, BOTH = "localization", "classification", "both"
DUPLICATE, BACKGROUND, MISSED = "duplicate", "background", "missed"

KINDS: Mapping[str, str] = {
    CLASSIFICATION: "the box fits an object of another class",
    LOCALIZATION: "the class is right, the box fits badly",
    BOTH: "another class, and the box fits badly",
    DUPLICATE: "the object has a surer detection already",
    BACKGROUND: "there is no object",
    MISSED: "an object that no detection, right or nearly right, is about",
}
"""The kinds of error, with what each is."""


@dataclass(frozen=True)
class Sorted:
    """N detections of one image sorted against its G objects.

    kinds: N names, "correct", "ignored" or one of KINDS. objects (N,): row of the object that each is about, -1 for none.
    ious (N,): its overlap with that object; where there is none, the largest with any. rivals (N,): the detection that has
    found the object, where that is another one, else -1. missed: rows of the missed objects. scores, labels (N,): the
    detections'; object_labels (G,): the objects', -1 for a region that is ignored.
    """

    kinds: tuple[str, ...]
    objects: Tensor
    ious: Tensor
    rivals: Tensor
    missed: Tensor
    scores: Tensor
    labels: Tensor
    object_labels: Tensor


def sort_errors(found: Detections, truth: Truth, *, foreground: float = 0.5, background: float = 0.1) -> Sorted:
    """Sort one image's detections into correct ones and kinds of error, and find the missed objects.

    Detections take the objects of their class as in COCO: surest first, each the best one left with an IoU of at
    least `foreground`. The others: "localization" where the best IoU with the own class lies between `background` and
    `foreground`; "classification" where an object of another class has `foreground`; "duplicate" where one of the own class has
    it, but is taken; "both" where another class has `background`; else "background". Where several fit, the first in this
    order counts. Missed is an object that is neither found nor what a localization or classification error is about. A
    detection that found nothing and lies at least half inside an ignored region of its class is ignored.

    Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, section 2.2.
    """
    iou = box_iou(found.boxes, truth.boxes.to(found.boxes)).nan_to_num() * ~truth.ignore
    same = found.labels[:, None] == truth.labels
    matched = _match(found.scores, iou * same, foreground)
    ignored = (_share_inside(found.boxes, truth.boxes) * (same & truth.ignore) >= foreground).any(1)
    kinds, objects = _sort(iou, same, matched, ignored, (background, foreground))
    nearest, _ = _best(iou)
    overlap = iou.gather(1, objects.clamp(min=0)[:, None])[:, 0] if len(truth) else nearest
    return Sorted(
        kinds,
        objects,
        torch.where(objects >= 0, overlap, nearest),
        _rivals(matched, objects),
        _missed(kinds, objects, truth.ignore),
        found.scores,
        found.labels,
        truth.labels.where(~truth.ignore, -1),
    )


def _sort(
    iou: Tensor, same: Tensor, matched: Tensor, ignored: Tensor, ends: tuple[float, float]
) -> tuple[tuple[str, ...], Tensor]:
    """The kind of each detection, by the first rule that fits, and the object (N,) that it is about."""
    background, foreground = ends
    own, other, nearest = _best(iou * same), _best(iou * ~same), _best(iou)
    none = torch.full_like(matched, -1)
    rules = (
        (CORRECT, matched >= 0, matched),
        (IGNORED, ignored, none),
        (LOCALIZATION, (own[0] >= background) & (own[0] < foreground), own[1]),
        (CLASSIFICATION, other[0] >= foreground, other[1]),
        (DUPLICATE, own[0] >= foreground, own[1]),
        (BOTH, nearest[0] >= background, nearest[1]),
        (BACKGROUND, torch.ones_like(ignored), none),
    )
    which = torch.stack([fits for _, fits, _ in rules]).int().argmax(0)
    objects = torch.stack([rows for _, _, rows in rules]).gather(0, which[None])[0]
    return tuple(rules[i][0] for i in which.tolist()), objects


def _match(scores: Tensor, iou: Tensor, least: float) -> Tensor:
    """(N,) the object that each detection takes, -1 for none."""
    taken: list[int] = [-1] * len(scores)
    free = iou.clone()
    for i in scores.argsort(descending=True, stable=True).tolist() if iou.shape[1] else ():
        best = int(free[i].argmax())
        if free[i, best] >= least:
            taken[i] = best
            free[:, best] = 0
    return torch.tensor(taken, dtype=torch.long, device=scores.device)


def _best(iou: Tensor) -> tuple[Tensor, Tensor]:
    """The largest overlap of each row (N,), and with what (N,)."""
    if not iou.shape[1]:
        return iou.new_zeros(len(iou)), torch.full((len(iou),), -1, device=iou.device)
    best = iou.max(1)
    return best.values, best.indices


def _share_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """(N,G) how much of each box lies inside each region: COCO's overlap with a crowd."""
    low = torch.maximum(boxes[:, None, :2], regions.to(boxes)[:, :2])
    high = torch.minimum(boxes[:, None, 2:], regions.to(boxes)[:, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(2) / area.clamp(min=1e-6)[:, None]


def _rivals(matched: Tensor, objects: Tensor) -> Tensor:
    """(N,) the other detection that took the object which each one is about, -1 for none."""
    holds = (matched[None] == objects[:, None]) & (objects[:, None] >= 0)
    holds.fill_diagonal_(False)
    return torch.where(holds.any(1), holds.int().argmax(1), -1) if len(matched) else matched


def _missed(kinds: Sequence[str], objects: Tensor, ignore: Tensor) -> Tensor:
    covers = torch.tensor([kind in (CORRECT, LOCALIZATION, CLASSIFICATION) for kind in kinds], dtype=torch.bool)
    left = ~ignore
    left[objects[covers.to(objects.device)]] = False
    return left.nonzero()[:, 0]


def ap50(images: Sequence[Sorted], fixed: str = "") -> float:
    """COCO's average precision at the `foreground` IoU, 0 to 1, a mean over the classes that occur; NaN without objects.

    fixed: a kind of error that an oracle has mended first. A localization or classification error becomes a correct detection
    of its object, or goes where that object is found already or a surer one is mended onto it; duplicates, background
    and "both" go; missed objects are not asked for.

    Source: Bolya et al., ECCV 2020, section 2.3. For an object that is found already the paper keeps the surer of the two;
    here, as in the authors' code, it stays with the detection that found it.
    """
    points = [_points(image, fixed) for image in images]
    wanted = np.concatenate([_wanted(image, fixed) for image in images] or [np.zeros(0, np.int64)])
    scores, labels, hits = (np.concatenate(part) for part in zip(*points, strict=True)) if points else ((),) * 3
    precisions = []
    for label in np.unique(wanted):
        of_class = labels == label
        precisions.append(_average_precision(scores[of_class], hits[of_class], int((wanted == label).sum())))
    return float(np.mean(precisions)) if precisions else float("nan")


def ap50_gains(images: Sequence[Sorted]) -> dict[str, float]:
    """dAP50: by how much AP50 would rise if all errors of a kind were mended, for each of KINDS."""
    now = ap50(images)
    return {kind: ap50(images, kind) - now for kind in KINDS}


def _points(image: Sorted, fixed: str) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores, labels and hits of the detections that count, after mending."""
    labels = image.labels.tolist()
    hits = [kind == CORRECT for kind in image.kinds]
    gone = {i for i, kind in enumerate(image.kinds) if kind in (IGNORED, fixed)}
    if fixed in (LOCALIZATION, CLASSIFICATION):
        claimed: set[int] = set()
        for i in image.scores.argsort(descending=True, stable=True).tolist():
            target = int(image.objects[i])
            if image.kinds[i] == fixed and image.rivals[i] < 0 and target not in claimed:
                claimed.add(target)
                gone.remove(i)
                labels[i], hits[i] = int(image.object_labels[target]), True
    kept = [i for i in range(len(labels)) if i not in gone]
    scores = image.scores.detach().cpu().double().numpy()
    return scores[kept], np.asarray(labels, np.int64)[kept], np.asarray(hits, bool)[kept]


def _wanted(image: Sorted, fixed: str) -> NDArray[np.int64]:
    """The labels of the objects that are to be found."""
    labels = image.object_labels.clone()
    if fixed == MISSED:
        labels[image.missed] = -1
    return labels[labels >= 0].cpu().numpy()


def _average_precision(scores: NDArray[np.float64], hits: NDArray[np.bool_], wanted: int) -> float:
    """Precision, made monotone, averaged at 101 recalls from 0 to 1; 0 beyond the highest that is reached."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    precision = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    at = np.searchsorted(found / wanted, np.linspace(0, 1, 101))
    return float(np.append(precision, 0.0)[at].mean())
