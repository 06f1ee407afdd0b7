"""TIDE: a detector's errors by type, and the AP50 that each type costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whybox.ops.matching import pairwise_iou
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
"""The types of error, with what each means."""


@dataclass(frozen=True)
class Sorted:
    """The N detections of one image, classified by comparison with its G objects.

    Attributes:
        kinds: N types, "correct", "ignored" or one of `KINDS`.
        objects: (N,) rows of the objects that the detections are about, -1 for none.
        ious: (N,) IoUs with these objects; the largest IoU with any object if there is none.
        rivals: (N,) rows of the other detections that are matched with these objects, -1 for none.
        missed: Rows of the missed objects.
        scores: (N,) of the detections.
        labels: (N,) of the detections.
        object_labels: (G,) of the objects, -1 for ignored regions.
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
    """Classify one image's detections by type of error, and find the missed objects.

    Detections are matched with objects of their class as in COCO: by descending score, each with the free object of the
    highest IoU, at least `foreground`. For the others the first rule that fits counts: "localization" if the best IoU with the
    class is between `background` and `foreground`; "classification" if an object of another class reaches `foreground`;
    "duplicate" if one of the class does, but is matched; "both" if any object reaches `background`; else "background". An
    object is missed if it is neither matched nor the object of a localization or classification error. An unmatched detection
    that lies at least half inside an ignored region of its class is ignored.

    Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, section 2.2.

    Args:
        found: N detections.
        truth: G annotated objects and ignored regions.
        foreground: IoU threshold of a match.
        background: IoU threshold below which a detection is about no object.

    Returns:
        The classified detections.
    """
    device = found.boxes.device
    truth = replace(truth, boxes=truth.boxes.to(device), labels=truth.labels.to(device), ignore=truth.ignore.to(device))
    # Two boxes without area have the IoU 0 / 0.
    iou = pairwise_iou(found.boxes, truth.boxes.to(found.boxes.dtype)) * ~truth.ignore
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
    same_class, other_class, nearest = _best(iou * same), _best(iou * ~same), _best(iou)
    none = torch.full_like(matched, -1)
    rules = (
        (CORRECT, matched >= 0, matched),
        (IGNORED, ignored, none),
        (LOCALIZATION, (same_class[0] >= background) & (same_class[0] < foreground), same_class[1]),
        (CLASSIFICATION, other_class[0] >= foreground, other_class[1]),
        (DUPLICATE, same_class[0] >= foreground, same_class[1]),
        (BOTH, nearest[0] >= background, nearest[1]),
        (BACKGROUND, torch.ones_like(ignored), none),
    )
    # argmax of a boolean column is its first True: the first rule that fits.
    which = torch.stack([fits for _, fits, _ in rules]).int().argmax(0)
    objects = torch.stack([rows for _, _, rows in rules]).gather(0, which[None])[0]
    return tuple(rules[i][0] for i in which.tolist()), objects


def _match(scores: Tensor, iou: Tensor, least: float) -> Tensor:
    """The object (N,) that each detection is matched with, -1 for none."""
    taken: list[int] = [-1] * len(scores)
    free = iou.clone()
    for i in scores.argsort(descending=True, stable=True).tolist() if iou.shape[1] else ():
        best = int(free[i].argmax())
        if free[i, best] >= least:
            taken[i] = best
            free[:, best] = 0
    return torch.tensor(taken, dtype=torch.long, device=scores.device)


def _best(iou: Tensor) -> tuple[Tensor, Tensor]:
    """The largest IoU of each row (N,), and its column (N,), -1 without columns."""
    if not iou.shape[1]:
        return iou.new_zeros(len(iou)), torch.full((len(iou),), -1, device=iou.device)
    best = iou.max(1)
    return best.values, best.indices


def _share_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """The share (N,G) of each box inside each region, COCO's overlap with crowd regions."""
    low = torch.maximum(boxes[:, None, :2], regions.to(boxes)[:, :2])
    high = torch.minimum(boxes[:, None, 2:], regions.to(boxes)[:, 2:])
    # COCO's denominator is the detection's area alone, not the union.
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(2) / area.clamp(min=1e-6)[:, None]


def _rivals(matched: Tensor, objects: Tensor) -> Tensor:
    """The other detection (N,) that is matched with each detection's object, -1 for none."""
    holds = (matched[None] == objects[:, None]) & (objects[:, None] >= 0)
    holds.fill_diagonal_(False)
    # As integers: argmax takes no booleans.
    return torch.where(holds.any(1), holds.int().argmax(1), -1) if len(matched) else matched


def _missed(kinds: Sequence[str], objects: Tensor, ignore: Tensor) -> Tensor:
    """Rows of the objects that no correct detection, localization or classification error is about."""
    covers = torch.tensor([kind in (CORRECT, LOCALIZATION, CLASSIFICATION) for kind in kinds], dtype=torch.bool)
    missed = ~ignore
    missed[objects[covers.to(objects.device)]] = False
    return missed.nonzero()[:, 0]


def ap50(images: Sequence[Sorted], fixed: str = "") -> float:
    """COCO's average precision at the `foreground` IoU, averaged over the classes that occur.

    With `fixed`, an oracle first fixes all errors of one type. A localization or classification error becomes a correct
    detection of its object, or is removed if the object is matched already or another error with a higher score was fixed onto
    it; duplicates, background errors and "both" are removed; missed objects no longer count.

    Source: Bolya et al., ECCV 2020, section 2.3. For an object that is matched already the paper keeps the detection with the
    higher score; here, as in the authors' code, it stays with the matched one.

    Args:
        images: The classified detections of all images.
        fixed: One of `KINDS`; "" fixes nothing.

    Returns:
        0 to 1; NaN without objects.
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
    """dAP50: the gain in AP50 if all errors of a type were fixed.

    Args:
        images: The classified detections of all images.

    Returns:
        The gain, 0 to 1, for each of `KINDS`.
    """
    now = ap50(images)
    return {kind: ap50(images, kind) - now for kind in KINDS}


def _points(image: Sorted, fixed: str) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores, labels and hits of the detections that count, after fixing one type of error."""
    labels = image.labels.tolist()
    hits = [kind == CORRECT for kind in image.kinds]
    removed = {i for i, kind in enumerate(image.kinds) if kind in (IGNORED, fixed)}
    if fixed in (LOCALIZATION, CLASSIFICATION):
        claimed: set[int] = set()
        for i in image.scores.argsort(descending=True, stable=True).tolist():
            target = int(image.objects[i])
            # By score, so that of several errors about one object the surest is fixed and the others are removed.
            if image.kinds[i] == fixed and image.rivals[i] < 0 and target not in claimed:
                claimed.add(target)
                removed.remove(i)
                labels[i], hits[i] = int(image.object_labels[target]), True
    kept = [i for i in range(len(labels)) if i not in removed]
    scores = image.scores.detach().cpu().double().numpy()
    return scores[kept], np.asarray(labels, np.int64)[kept], np.asarray(hits, bool)[kept]


def _wanted(image: Sorted, fixed: str) -> NDArray[np.int64]:
    """The labels of the objects that count for recall."""
    labels = image.object_labels.clone()
    if fixed == MISSED:
        labels[image.missed] = -1
    return labels[labels >= 0].cpu().numpy()


def _average_precision(scores: NDArray[np.float64], hits: NDArray[np.bool_], wanted: int) -> float:
    """COCO's AP: interpolated precision averaged at 101 recalls from 0 to 1; 0 beyond the highest recall."""
    order = np.argsort(-scores, kind="stable")
    true_positives = np.cumsum(hits[order])
    # Interpolated: at each recall the highest precision at this or any higher recall.
    precision = np.maximum.accumulate((true_positives / np.arange(1, len(true_positives) + 1))[::-1])[::-1]
    # Recalls beyond the last point come out at its end: there the 0 stands that is appended below.
    at = np.searchsorted(true_positives / wanted, np.linspace(0, 1, 101))
    return float(np.append(precision, 0.0)[at].mean())
