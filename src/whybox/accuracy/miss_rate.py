"""Log-average miss rate (MR^-2) of a person detector."""

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
    """The log-average miss rate and its curve; the k-th point is that of the k highest of the K detections that count.

    Attributes:
        log_average: The geometric mean of `sampled`, 0 to 1, lower is better; NaN without annotated people.
        sampled: (9,), the miss rates at `FALSE_ALARMS`.
        false_alarms: (K,), false positives per image.
        misses: (K,), miss rates.
        people: Number of annotated people.
        images: Number of images.
    """

    log_average: float
    sampled: NDArray[np.float64]
    false_alarms: NDArray[np.float64]
    misses: NDArray[np.float64]
    people: int
    images: int


def miss_rate(detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5) -> MissRate:
    """MR^-2, the geometric mean of nine miss rates.

    Each miss rate is read at the first point of the curve whose false positives per image reach one of `FALSE_ALARMS`, or at
    the last point. A miss rate of 0 makes the geometric mean 0; toolboxes that clip it at 1e-10 give a small number instead.
    All images count, also those without people.

    Source: Dollar et al., "Pedestrian Detection: An Evaluation of the State of the Art", PAMI 2012, in the form
    published with CrowdDet (Chu et al., CVPR 2020). Unlike it, boxes and scores are not rounded first.

    Args:
        detections: One mapping per image, as for `crowd_ap`.
        truths: One mapping per image, as for `crowd_ap`.
        overlap: A detection is right if its IoU is above this.

    Returns:
        The miss rate and its curve.
    """
    ranking = rank_crowd(detections, truths, overlap)
    alarms = np.cumsum(~ranking.hits) / ranking.images if ranking.images else np.zeros(0)
    misses = 1 - ranking.recalls
    sampled = _sample(alarms, misses) if ranking.people else np.full(len(FALSE_ALARMS), np.nan)
    return MissRate(_geometric_mean(sampled), sampled, alarms, misses, ranking.people, ranking.images)


def log_average(alarms: NDArray[np.float64], misses: NDArray[np.float64]) -> float:
    """MR^-2 of a curve: false positives per image (K,) and miss rates (K,) of the k highest detections."""
    return _geometric_mean(_sample(alarms, misses))


def _geometric_mean(sampled: NDArray[np.float64]) -> float:
    # By the product, not by logarithms: a miss rate of 0 makes the mean 0 without a warning.
    return float(sampled.prod() ** (1 / len(sampled)))


def _sample(alarms: NDArray[np.float64], misses: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(misses):
        return np.ones(len(FALSE_ALARMS))
    # The false alarms never decrease along the curve, so that it can be searched as it is.
    first = np.searchsorted(alarms, FALSE_ALARMS, side="left")
    return misses[np.minimum(first, len(misses) - 1)]
