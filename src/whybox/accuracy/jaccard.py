"""Jaccard index of a detector of people: how far its set of boxes agrees with the annotated set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import EPSILON, CrowdImage, compare_crowd

THRESHOLDS = tuple(step / 10 for step in range(10))
"""Scores above which detections are kept."""


@dataclass(frozen=True, eq=False)
class JaccardIndex:
    """index from 0 to 1, higher is better: the best of `indices` (10,), the means over the images at each of THRESHOLDS.

    threshold is where it was reached. A mean is NaN where no image holds a person or a kept detection; index and threshold
    are NaN where all are.
    """

    index: float
    threshold: float
    indices: NDArray[np.float64]


def jaccard_index(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5
) -> JaccardIndex:
    """CrowdHuman's JI of `detections` against `truths`, which are those of `crowd_ap`.

    JI = k / (n + m - k + 1e-6) of an image: k pairs of the one-to-one matching with the largest sum of IoUs, each above
    `overlap`; n detections and m people, without the unpaired ones of which more than `overlap` lies in an ignored region.
    Source: the evaluation published with CrowdDet (Chu et al., CVPR 2020). Unlike it, boxes and scores are not rounded.
    """
    rows = [[_agreement(image, threshold) for threshold in THRESHOLDS] for image in compare_crowd(detections, truths, overlap)]
    table = np.array(rows).reshape(-1, len(THRESHOLDS))
    counted = (~np.isnan(table)).sum(axis=0)
    indices = np.full(len(THRESHOLDS), np.nan)
    np.divide(np.nansum(table, axis=0), counted, out=indices, where=counted > 0)
    if np.isnan(indices).all():
        return JaccardIndex(float("nan"), float("nan"), indices)
    best = int(np.nanargmax(indices))
    return JaccardIndex(float(indices[best]), THRESHOLDS[best], indices)


def _agreement(image: CrowdImage, threshold: float) -> float:
    """JI of one image, NaN where neither a detection nor a person counts."""
    count = int((image.scores > threshold).sum())
    rows, columns = image.match_heaviest(count)
    unpaired, lost = np.ones(count, dtype=bool), np.ones(len(image.excused_people), dtype=bool)
    unpaired[rows], lost[columns] = False, False
    found = count - int((unpaired & image.excused[:count]).sum())
    people = len(lost) - int((lost & image.excused_people).sum())
    if not found and not people:
        return float("nan")
    return len(rows) / (found + people - len(rows) + EPSILON)
