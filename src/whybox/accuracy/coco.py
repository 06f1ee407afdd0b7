"""COCO's average precision and recall of a detector's boxes."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from whybox.errors import WhyboxError
from whybox.ops.arrays import to_array

SUMMARY = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("recall1", "recall10", "recall", "recall_small", "recall_medium", "recall_large"),
)
"""COCO's twelve numbers in the order of pycocotools."""


@dataclass(frozen=True)
class CocoAP:
    """Average precisions from 0 to 1, higher is better; NaN where there is nothing to find.

    The first twelve are COCO's summary. ap is averaged over IoU .50:.05:.95, ap50 and ap75 are at one IoU; all are means
    over the classes that occur, which ap50_per_class lists by name. recall1, recall10 and recall are mean recalls over
    .50:.05:.95 with the 1, 10 and 100 highest detections of an image and class. small objects have an area up to 32 x 32
    pixels, large ones from 96 x 96 on. threshold is the score from which on detections, all classes together, have the
    highest F1 at IoU .50, and f1 is that F1.
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
        """Rounded numbers, ready for JSON; what does not exist is None."""

        def rounded(value: float) -> float | None:
            return round(value, digits) if np.isfinite(value) else None

        numbers = {key: rounded(value) for key, value in asdict(self).items() if isinstance(value, float)}
        per_class = {name: rounded(value) for name, value in self.ap50_per_class.items()}
        return {**numbers, "ap50_per_class": per_class, "images": self.images}


def coco_ap(detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> CocoAP:
    """COCO's box AP of `detections` against `truths`, one mapping an image in the same order.

    A detection mapping holds boxes (N,4) xyxy in pixels, scores (N,) and labels (N,); a truth mapping holds boxes
    (M,4), labels (M,) and, optionally, iscrowd (M,) for regions where detections count neither way, and area (M,) in
    pixels, COCO's being that of the mask; without it an object has its box's size. Label 0 is the first of `classes`.
    Tensors and arrays are both taken.

    Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; computed by pycocotools.
    """
    if len(detections) != len(truths):
        raise WhyboxError(f"{len(detections)} images with detections but {len(truths)} with truth; give one for one")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(rows: list[dict[str, Any]]) -> Any:
        table = COCO()
        table.dataset = {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "annotations": rows,
            "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
        }
        table.createIndex()
        return table

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(_rows(truths)), index(_rows(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _summary(evaluation, classes, len(truths))


def _summary(evaluation: Any, classes: Sequence[str], images: int) -> CocoAP:
    """COCO's twelve numbers, and ours; pycocotools says -1 for "none"."""
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
    """The score that cuts the detections where F1 at IoU .50 peaks, and the F1 there."""
    whole = evaluation.params.areaRng[0]
    cells = [cell for cell in evaluation.evalImgs if cell is not None and cell["aRng"] == whole]
    wanted = sum(int((np.asarray(cell["gtIgnore"]) == 0).sum()) for cell in cells)
    counted = [~np.asarray(cell["dtIgnore"][0], dtype=bool) for cell in cells]
    scores = np.concatenate([np.asarray(cell["dtScores"])[use] for cell, use in zip(cells, counted, strict=True)] or [[]])
    hits = np.concatenate([cell["dtMatches"][0][use] > 0 for cell, use in zip(cells, counted, strict=True)] or [[]])
    if not wanted or not scores.size:
        return float("nan"), float("nan")
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(hits[order]) / (np.arange(1, len(order) + 1) + wanted)
    best = int(f1.argmax())
    return float(scores[order[best]]), float(f1[best])


def _mean(values: Any) -> float:
    found = values[values > -1]
    return float(found.mean()) if found.size else float("nan")


def _rows(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """COCO's annotation rows, of the truth or of detections; the number of each row is its id."""
    rows: list[dict[str, Any]] = []
    for image, content in enumerate(images, start=1):
        columns = {"category_id": content["labels"], "score": content.get("scores")}
        columns |= {name: content.get(name) for name in ("iscrowd", "area")}
        lists = {name: to_array(values).tolist() for name, values in columns.items() if values is not None}
        for place, box in enumerate(_xywh(content["boxes"])):
            row = {"id": len(rows) + 1, "image_id": image, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            rows.append(row | {name: values[place] for name, values in lists.items()})
    return rows


def _xywh(boxes: Any) -> list[list[float]]:
    corners = to_array(boxes, np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return rows
