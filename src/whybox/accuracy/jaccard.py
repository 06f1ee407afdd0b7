"""CrowdHuman's Jaccard index (JI) of a person detector: agreement of its set of boxes with the annotated set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import EPSILON, CrowdImage, compare_crowd

THRESHOLDS = tuple(step / 10 for step in range(10))
"""Score thresholds, of which the best counts."""


@dataclass(frozen=True, eq=False)
class JaccardIndex:
    """The Jaccard index at the best score threshold.

    Attributes:
        index: The highest of `indices`, 0 to 1; NaN if all are.
        threshold: Its score threshold; NaN if all indices are.
        indices: (10,), the means over the images at each of `THRESHOLDS`; NaN if no image has a person or a detection that
            counts.
    """

    index: float
    threshold: float
    indices: NDArray[np.float64]


def jaccard_index(
    detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5
) -> JaccardIndex:
    """CrowdHuman's JI = k / (n + m - k + 1e-6), averaged over the images.

    k is the number of pairs of the one-to-one matching with the largest sum of IoUs, each above `overlap`; n detections and
    m people, without the unmatched ones of which more than `overlap` lies in an ignored region.

    Source: the evaluation published with CrowdDet (Chu et al., CVPR 2020). Unlike it, boxes and scores are not rounded.

    Args:
        detections: One mapping per image, as for `crowd_ap`.
        truths: One mapping per image, as for `crowd_ap`.
        overlap: IoU threshold of a pair.

    Returns:
        The index at the best of `THRESHOLDS`.
    """
    rows = [[agreement(image, threshold) for threshold in THRESHOLDS] for image in compare_crowd(detections, truths, overlap)]
    table = np.array(rows).reshape(-1, len(THRESHOLDS))
    counted = (~np.isnan(table)).sum(axis=0)
    indices = np.full(len(THRESHOLDS), np.nan)
    # Not nanmean, which warns where no image counts.
    np.divide(np.nansum(table, axis=0), counted, out=indices, where=counted > 0)
    if np.isnan(indices).all():
        return JaccardIndex(float("nan"), float("nan"), indices)
    best = int(np.nanargmax(indices))
    return JaccardIndex(float(indices[best]), THRESHOLDS[best], indices)


def agreement(image: CrowdImage, threshold: float) -> float:
    """JI of one image's detections above a score, NaN where neither a detection nor a person counts."""
    # Scores come in descending order, so that those above the threshold are the first ones.
    count = int((image.scores > threshold).sum())
    rows, columns = image.match_heaviest(count)
    unmatched, missed = np.ones(count, dtype=bool), np.ones(len(image.excused_people), dtype=bool)
    unmatched[rows], missed[columns] = False, False
    counted = count - int((unmatched & image.excused[:count]).sum())
    people = len(missed) - int((missed & image.excused_people).sum())
    if not counted and not people:
        return float("nan")
    return len(rows) / (counted + people - len(rows) + EPSILON)
