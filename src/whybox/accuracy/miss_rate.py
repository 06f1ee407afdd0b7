"""Log-average miss rate of a detector of people: how many it misses while it raises few false alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import rank_crowd

FALSE_ALARMS = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""False positives per image at which the miss rate is read, evenly spaced in their logarithm."""


@dataclass(frozen=True, eq=False)
class MissRate:
    """log_average from 0 to 1, lower is better; NaN where there is nobody to find, 1 where nothing is found.

    sampled (9,): the miss rates at FALSE_ALARMS, whose geometric mean log_average is. false_alarms and misses (K,) are
    the curve: false positives per image and the share of people missed by the k highest detections that count.
    """

    log_average: float
    sampled: NDArray[np.float64]
    false_alarms: NDArray[np.float64]
    misses: NDArray[np.float64]
    people: int
    images: int


def miss_rate(detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5) -> MissRate:
    """MR^-2 of `detections` against `truths`, which are those of `crowd_ap`.

    The miss rate is read at the first point of the curve whose false positives per image reach each of FALSE_ALARMS, or
    at the last point where they never do. One of the nine that is 0 makes the geometric mean 0; toolboxes that put a
    floor of 1e-10 under it instead give a small number. All images count, also those without people.

    Source: Dollar et al., "Pedestrian Detection: An Evaluation of the State of the Art", PAMI 2012, in the form
    published with CrowdDet (Chu et al., CVPR 2020). Unlike it, boxes and scores are not rounded first.
    """
    ranking = rank_crowd(detections, truths, overlap)
    alarms = np.cumsum(~ranking.hits) / ranking.images if ranking.images else np.zeros(0)
    misses = 1 - ranking.recalls
    sampled = _sample(alarms, misses) if ranking.people else np.full(len(FALSE_ALARMS), np.nan)
    mean = float(sampled.prod() ** (1 / len(sampled)))
    return MissRate(mean, sampled, alarms, misses, ranking.people, ranking.images)


def _sample(alarms: NDArray[np.float64], misses: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(misses):
        return np.ones(len(FALSE_ALARMS))
    first = np.searchsorted(alarms, FALSE_ALARMS, side="left")
    return misses[np.minimum(first, len(misses) - 1)]
