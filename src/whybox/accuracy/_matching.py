"""People that were detected against people that are annotated, as CrowdHuman's evaluation compares them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from whybox.errors import WhyboxError
from whybox.ops.arrays import to_array

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

EPSILON = 1e-6
"""Added to every denominator, as in the reference: nothing is divided by zero, and equal boxes stay just below an IoU of 1."""


@dataclass(frozen=True, eq=False)
class CrowdImage:
    """N detections of one image, from the highest score down, beside its P people who count.

    scores (N,). iou (N,P). excused (N,): detections that share more than `overlap` of their own area with one ignored
    region; excused_people (P,): the same of the people.
    """

    scores: Numbers
    iou: Numbers
    excused: Flags
    excused_people: Flags
    overlap: float

    def match_greedily(self) -> Flags:
        """(N,) which detections find a person: each in turn takes the person of highest IoU, above `overlap`, who is left."""
        rows, columns = np.nonzero(self.iou > self.overlap)
        order = np.lexsort((-self.iou[rows, columns], rows))
        hits, taken = np.zeros(len(self.scores), dtype=bool), set()
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if not hits[row] and column not in taken:
                hits[row] = True
                taken.add(column)
        return hits

    def match_heaviest(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the pairs, one to one and above `overlap`, of the first `count` detections whose IoUs have
        the largest sum."""
        weights = np.where(self.iou[:count] > self.overlap, self.iou[:count], 0)
        useful = np.flatnonzero(weights.any(axis=1))
        rows, columns = linear_sum_assignment(weights[useful], maximize=True)
        # The assignment is as large as it can be; its pairs of weight 0 are no pairs.
        paired = weights[useful[rows], columns] > 0
        return useful[rows[paired]], columns[paired]


@dataclass(frozen=True, eq=False)
class CrowdRanking:
    """The K detections of a data set that count, from the highest score down, and whether each finds a person.

    people: how many there are to find. images: in how many images.
    """

    scores: Numbers
    hits: Flags
    people: int
    images: int

    @property
    def recalls(self) -> Numbers:
        """(K,) share of the people found by the detections up to each one; NaN where there is nobody."""
        found: Numbers = np.cumsum(self.hits) / (self.people or np.nan)
        return found


def rank_crowd(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], overlap: float = 0.5
) -> CrowdRanking:
    """Greedy matching image by image (Caltech's rule), then one list; detections that only meet ignored regions are left out.

    The input is that of `compare_crowd`. Equal scores keep the order of the images and of the detections in them.
    """
    scores, hits, people = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for image in compare_crowd(detections, truths, overlap):
        found = image.match_greedily()
        counted = found | ~image.excused
        scores.append(image.scores[counted])
        hits.append(found[counted])
        people += image.iou.shape[1]
    every = np.concatenate(scores)
    order = np.argsort(-every, kind="stable")
    return CrowdRanking(every[order], np.concatenate(hits)[order], people, len(truths))


def compare_crowd(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], overlap: float = 0.5
) -> Iterator[CrowdImage]:
    """Overlaps of the detections with the truth, image by image.

    A detection mapping holds boxes (N,4) xyxy in image pixels and scores (N,); a truth mapping holds boxes (M,4), which
    may reach beyond the image, size (H,W) of the image, and, optionally, ignore (M,) for regions where nothing counts.
    Tensors and arrays are both taken. All boxes are clipped to the image first.

    Source: the evaluation of CrowdHuman (Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd", 2018) as
    published with CrowdDet (Chu et al., CVPR 2020).
    """
    if len(detections) != len(truths):
        raise WhyboxError(f"{len(detections)} images with detections but {len(truths)} with truth; give one for one")
    for number, (found, truth) in enumerate(zip(detections, truths, strict=True)):
        yield _compare(found, truth, f"image {number}", overlap)


def _compare(found: Mapping[str, Any], truth: Mapping[str, Any], where: str, overlap: float) -> CrowdImage:
    if "size" not in truth:
        raise WhyboxError(f"{where}: the truth lacks size, the image's (H, W), to which boxes are clipped")
    size = (int(truth["size"][0]), int(truth["size"][1]))
    boxes, truth_boxes = _clip(_boxes(found, where), size), _clip(_boxes(truth, where), size)
    scores = _column(found, "scores", len(boxes), where)
    ignore = _column(truth, "ignore", len(truth_boxes), where) > 0 if "ignore" in truth else np.zeros(len(truth_boxes), bool)
    order = np.argsort(-scores, kind="stable")
    boxes, people, regions = boxes[order], truth_boxes[~ignore], truth_boxes[ignore]
    shared = _intersections(boxes, people)
    iou = shared / (_areas(boxes)[:, None] + _areas(people) - shared + EPSILON)
    return CrowdImage(scores[order], iou, _inside(boxes, regions, overlap), _inside(people, regions, overlap), overlap)


def _boxes(content: Mapping[str, Any], where: str) -> Numbers:
    boxes = to_array(content["boxes"], np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise WhyboxError(f"{where}: boxes must have the shape (N, 4), xyxy, got {boxes.shape}")
    if not np.isfinite(boxes).all():
        raise WhyboxError(f"{where}: some boxes are not finite; drop them first")
    return boxes.reshape(-1, 4)


def _column(content: Mapping[str, Any], name: str, count: int, where: str) -> Numbers:
    values = to_array(content[name], np.float64)
    if values.shape != (count,):
        raise WhyboxError(f"{where}: {name} must have one entry for each of {count} boxes, got the shape {values.shape}")
    if not np.isfinite(values).all():
        raise WhyboxError(f"{where}: some {name} are not finite; drop those boxes first")
    return values


def _clip(boxes: Numbers, size: tuple[int, int]) -> Numbers:
    """The first corner stays a pixel away from the far edges, so that a box to the right of the image keeps one column."""
    height, width = size
    return boxes.clip(0, [width - 1, height - 1, width, height])


def _areas(boxes: Numbers) -> Numbers:
    areas: Numbers = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    return areas


def _intersections(a: Numbers, b: Numbers) -> Numbers:
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    shared: Numbers = sides.clip(0).prod(axis=2)
    return shared


def _inside(boxes: Numbers, regions: Numbers, overlap: float) -> Flags:
    """(N,) which boxes have more than `overlap` of their own area in one of the regions."""
    share = _intersections(boxes, regions) / (_areas(boxes)[:, None] + EPSILON)
    return np.asarray((share > overlap).any(axis=1))
