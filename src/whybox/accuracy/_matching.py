"""Matching of detected with annotated people, as in CrowdHuman's evaluation."""

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
"""Added to every denominator, as in the reference code, so that the IoU of equal boxes is just below 1."""


@dataclass(frozen=True, eq=False)
class CrowdImage:
    """The N detections of one image, in descending order of score, and its P annotated people who are not ignored.

    Attributes:
        scores: (N,).
        iou: (N,P).
        excused: (N,), detections with more than `overlap` of their area in an ignored region.
        excused_people: (P,), the same of the people.
        overlap: IoU threshold of a match.
    """

    scores: Numbers
    iou: Numbers
    excused: Flags
    excused_people: Flags
    overlap: float

    def match_greedily(self) -> Flags:
        """Match each detection in turn with the free person of the highest IoU above `overlap`.

        Returns:
            (N,), whether each detection is matched.
        """
        rows, columns = np.nonzero(self.iou > self.overlap)
        # By detection, and for each by descending IoU: lexsort's last key is the first.
        order = np.lexsort((-self.iou[rows, columns], rows))
        hits, taken = np.zeros(len(self.scores), dtype=bool), set()
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if not hits[row] and column not in taken:
                hits[row] = True
                taken.add(column)
        return hits

    def match_heaviest(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Find the one-to-one matching with the largest sum of IoUs, each above `overlap`.

        Args:
            count: Match only the first `count` detections.

        Returns:
            The rows and columns of the pairs.
        """
        # Pairs below the threshold weigh nothing, so that none of them is taken at the cost of a match.
        weights = np.where(self.iou[:count] > self.overlap, self.iou[:count], 0)
        # Only detections that overlap somebody: the assignment takes cubic time.
        useful = np.flatnonzero(weights.any(axis=1))
        rows, columns = linear_sum_assignment(weights[useful], maximize=True)
        # The assignment always pairs as many as possible; pairs of weight 0 are not matches.
        paired = weights[useful[rows], columns] > 0
        return useful[rows[paired]], columns[paired]


@dataclass(frozen=True, eq=False)
class CrowdRanking:
    """The K detections of a data set that count, in descending order of score.

    Attributes:
        scores: (K,).
        hits: (K,), whether each is matched with a person.
        people: Number of annotated people.
        images: Number of images.
    """

    scores: Numbers
    hits: Flags
    people: int
    images: int

    @property
    def recalls(self) -> Numbers:
        """The recall (K,) of the detections up to each one; NaN without annotated people."""
        recalls: Numbers = np.cumsum(self.hits) / (self.people or np.nan)
        return recalls


def rank_crowd(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], overlap: float = 0.5
) -> CrowdRanking:
    """Match detections greedily in each image (Caltech's rule), and rank those of all images.

    Args:
        detections: As for `compare_crowd`.
        truths: As for `compare_crowd`.
        overlap: IoU threshold of a match.

    Returns:
        The detections without unmatched ones in ignored regions; equal scores keep their order.
    """
    scores, hits, people = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for image in compare_crowd(detections, truths, overlap):
        matched = image.match_greedily()
        counted = matched | ~image.excused
        scores.append(image.scores[counted])
        hits.append(matched[counted])
        people += image.iou.shape[1]
    all_scores = np.concatenate(scores)
    # Stable, so that ties do not depend on numpy's sorting algorithm.
    order = np.argsort(-all_scores, kind="stable")
    return CrowdRanking(all_scores[order], np.concatenate(hits)[order], people, len(truths))


def compare_crowd(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], overlap: float = 0.5
) -> Iterator[CrowdImage]:
    """Compute the overlaps of detections with annotated people, image by image. All boxes are clipped to the image.

    Source: the evaluation of CrowdHuman (Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd", 2018) as
    published with CrowdDet (Chu et al., CVPR 2020).

    Args:
        detections: One mapping per image: boxes (N,4) xyxy in image pixels and scores (N,), as tensors or arrays.
        truths: One mapping per image in the same order: boxes (M,4), which may reach beyond the image, size, the image's
            (H, W), and, optionally, ignore (M,) for regions where nothing counts.
        overlap: IoU threshold of a match, and share of a box in an ignored region from which on it is excused.

    Yields:
        The overlaps of each image.

    Raises:
        WhyboxError: The numbers of images differ, or an image's entries are missing or invalid.
    """
    if len(detections) != len(truths):
        raise WhyboxError(f"{len(detections)} images with detections but {len(truths)} with truth; expected as many")
    for number, (detected, truth) in enumerate(zip(detections, truths, strict=True)):
        yield _compare(detected, truth, f"image {number}", overlap)


def _compare(detected: Mapping[str, Any], truth: Mapping[str, Any], where: str, overlap: float) -> CrowdImage:
    if "size" not in truth:
        raise WhyboxError(f"{where}: the truth lacks size, the image's (H, W), to which boxes are clipped")
    size = (int(truth["size"][0]), int(truth["size"][1]))
    boxes, truth_boxes = _clip(_boxes(detected, where), size), _clip(_boxes(truth, where), size)
    scores = _column(detected, "scores", len(boxes), where)
    ignore = _column(truth, "ignore", len(truth_boxes), where) > 0 if "ignore" in truth else np.zeros(len(truth_boxes), bool)
    # The scores negated, because a reversed order would turn ties around, too.
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
    """Clip as the reference code does: a box beyond the far edges keeps one row or column of the image."""
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
    """Whether each box has more than `overlap` of its area in one of the regions, (N,)."""
    share = _intersections(boxes, regions) / (_areas(boxes)[:, None] + EPSILON)
    return np.asarray((share > overlap).any(axis=1))
