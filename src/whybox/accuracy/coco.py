"""COCO's average precision and average recall of a detector's boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from whybox.errors import WhyboxError
from whybox.ops.arrays import to_array

SUMMARY = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("recall1", "recall10", "recall", "recall_small", "recall_medium", "recall_large"),
)
"""COCO's twelve measures in the order of pycocotools."""
AREAS = (32.0**2, 96.0**2)
"""Square pixels up to which an object is small, and from which on it is large."""


@dataclass(frozen=True)
class CocoAP:
    """COCO's measures of a detector, 0 to 1; NaN where there is nothing to find.

    Attributes:
        ap: AP averaged over IoU .50:.05:.95 and over the classes that occur.
        ap50: AP at IoU .50.
        ap75: AP at IoU .75.
        ap_small: AP of objects with an area below 32 x 32 pixels, or the limit that was given.
        ap_medium: AP of objects between small and large.
        ap_large: AP of objects with an area above 96 x 96 pixels, or the limit that was given.
        recall1: Mean recall over IoU .50:.05:.95 with the highest detection per image and class.
        recall10: The same with the 10 highest detections.
        recall: The same with the 100 highest detections.
        recall_small: `recall` of small objects.
        recall_medium: `recall` of medium objects.
        recall_large: `recall` of large objects.
        threshold: The score threshold with the highest F1 at IoU .50 over all classes together.
        f1: F1 at that threshold.
        ap50_per_class: AP50 by class name, of the classes that occur.
        images: Number of images.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall1: float
    recall10: float
    recall: float
    recall_small: float
    recall_medium: float
    recall_large: float
    threshold: float
    f1: float
    ap50_per_class: dict[str, float]
    images: int

    def as_dict(self, digits: int = 4) -> dict[str, Any]:
        """The measures as plain numbers.

        Args:
            digits: Decimals to round to.

        Returns:
            A dict ready for JSON; what is not defined is None.
        """

        def rounded(value: float) -> float | None:
            return round(value, digits) if np.isfinite(value) else None

        numbers = {key: rounded(value) for key, value in asdict(self).items() if isinstance(value, float)}
        per_class = {name: rounded(value) for name, value in self.ap50_per_class.items()}
        return {**numbers, "ap50_per_class": per_class, "images": self.images}


def coco_ap(
    detections: Sequence[Mapping[str, Any]],
    truths: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    areas: tuple[float, float] = AREAS,
) -> CocoAP:
    """COCO's box AP and recall, computed by pycocotools.

    Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.

    Args:
        detections: One mapping per image: boxes (N,4) xyxy in pixels, scores (N,) and labels (N,), as tensors or arrays.
        truths: One mapping per image in the same order: boxes (M,4), labels (M,) and, optionally, iscrowd (M,) for regions
            where detections are neither right nor wrong, and area (M,) in pixels. COCO's is that of the mask; without it, the
            box's area is used.
        classes: Class names; label 0 is the first.
        areas: Square pixels up to which an object is small, and from which on it is large.

    Returns:
        The measures.

    Raises:
        WhyboxError: The numbers of images differ, an object's label has no class name, or the areas do not rise.
    """
    if len(detections) != len(truths):
        raise WhyboxError(f"{len(detections)} images with detections but {len(truths)} with truth; expected as many")
    if not 0 < areas[0] <= areas[1]:
        raise WhyboxError(
            f"areas are two limits in square pixels that rise, such as 1024 and 9216, got {areas[0]:g} and {areas[1]:g}"
        )
    _check_labels(truths, len(classes))
    # Imported here: reading the fields of a result needs no pycocotools.
    from pycocotools import coco, cocoeval

    # Detections are indexed as the truth is, not by COCO.loadRes, which fails where there is none (cocodataset/cocoapi#450).
    def index(rows: list[dict[str, Any]]) -> Any:
        table = _silent(coco.COCO)()
        table.dataset = {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "annotations": rows,
            "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
        }
        table.createIndex()
        return table

    evaluation = _silent(cocoeval.COCOeval)(index(_rows(truths)), index(_rows(detections)), "bbox")
    # All, small, medium, large, in the order of areaRngLbl; the first and last limits are COCO's own.
    evaluation.params.areaRng = [[0, 1e10], [0, areas[0]], list(areas), [areas[1], 1e10]]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return _summary(evaluation, classes, len(truths))


@cache
def _silent(kind: type) -> Any:
    """A class of pycocotools, whose methods print their progress and summary, without the printing."""
    # The same code with another `print`: sys.stdout and pycocotools belong to the other threads as well.
    silent = {
        name: FunctionType(part.__code__, {**part.__globals__, "print": _ignore}, name, part.__defaults__, part.__closure__)
        for name, part in vars(kind).items()
        if isinstance(part, FunctionType)
    }
    return type(kind.__name__, (kind,), silent)


def _ignore(*words: Any, **options: Any) -> None:
    pass


def _check_labels(truths: Sequence[Mapping[str, Any]], count: int) -> None:
    """Refuse objects without a class name, which pycocotools would leave out in silence."""
    labels = np.concatenate([to_array(content["labels"]).reshape(-1) for content in truths] or [np.zeros(0)])
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise WhyboxError(
            f"labels of the truth run from {int(labels.min())} to {int(labels.max())}, and there are {count} class names, of "
            "which label 0 is the first"
        )


def _summary(evaluation: Any, classes: Sequence[str], images: int) -> CocoAP:
    """COCO's twelve measures, the best threshold and AP50 per class."""
    numbers = {name: _mean(value) for name, value in zip(SUMMARY, evaluation.stats, strict=True)}
    threshold, f1 = _best_threshold(evaluation)
    # precision (IoU, recall, class, area, limit): IoU .50, all areas, 100 detections.
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    per_class = {name: _mean(precision[:, index]) for index, name in enumerate(classes)}
    return CocoAP(
        **numbers,
        threshold=threshold,
        f1=f1,
        ap50_per_class={name: value for name, value in per_class.items() if np.isfinite(value)},
        images=images,
    )


def _best_threshold(evaluation: Any) -> tuple[float, float]:
    """The score threshold with the highest F1 at IoU .50, and that F1."""
    # evalImgs has a cell per class, area range and image, None where an image has neither objects nor detections of the class.
    all_areas = evaluation.params.areaRng[0]
    cells = [cell for cell in evaluation.evalImgs if cell is not None and cell["aRng"] == all_areas]
    objects = sum(int((np.asarray(cell["gtIgnore"]) == 0).sum()) for cell in cells)
    # [0] is IoU .50. What lies on a crowd region is neither right nor wrong.
    counted = [~np.asarray(cell["dtIgnore"][0], dtype=bool) for cell in cells]
    scores = np.concatenate([np.asarray(cell["dtScores"])[use] for cell, use in zip(cells, counted, strict=True)] or [[]])
    hits = np.concatenate([cell["dtMatches"][0][use] > 0 for cell, use in zip(cells, counted, strict=True)] or [[]])
    if not objects or not scores.size:
        return float("nan"), float("nan")
    order = np.argsort(-scores, kind="stable")
    # F1 = 2 TP / (TP + FP + TP + FN) = 2 TP / (detections + objects).
    f1 = 2 * np.cumsum(hits[order]) / (np.arange(1, len(order) + 1) + objects)
    # The first of equal ones: the highest threshold.
    best = int(f1.argmax())
    return float(scores[order[best]]), float(f1[best])


def _mean(values: Any) -> float:
    # pycocotools marks undefined values by -1.
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _rows(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """COCO's annotation rows, of the truth or of detections."""
    rows: list[dict[str, Any]] = []
    for image, content in enumerate(images, start=1):
        columns = {"category_id": content["labels"], "score": content.get("scores")}
        columns |= {name: content.get(name) for name in ("iscrowd", "area")}
        lists = {name: to_array(values).tolist() for name, values in columns.items() if values is not None}
        for place, box in enumerate(_xywh(content["boxes"])):
            # Ids from 1 on: pycocotools takes a match with id 0 for none (cocodataset/cocoapi#332).
            row = {"id": len(rows) + 1, "image_id": image, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            # The columns override what is filled in above: a given area or crowd flag counts.
            rows.append(row | {name: values[place] for name, values in lists.items()})
    return rows


def _xywh(boxes: Any) -> list[list[float]]:
    corners = to_array(boxes, np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return rows
