"""Means over groups, such as classes, with intervals of a bootstrap over images."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whybox.runs.statistics import BLOCK, DRAWS, LEVEL

Floats = NDArray[np.float64]


class GroupMean(NamedTuple):
    """A mean over groups; NaN where it is not defined.

    Attributes:
        mean: The mean over groups of each group's mean.
        low: The lower end of its interval, NaN for a single image.
        high: The upper end.
        error: Its standard error, the standard deviation of the resamples.
    """

    mean: float
    low: float
    high: float
    error: float


def bootstrap_groups(
    values: ArrayLike, images: ArrayLike, groups: ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> GroupMean:
    """The mean over groups of each group's mean, and its percentile interval from a bootstrap that draws whole images.

    A resample averages over the groups that it has. With one group it is the mean of the values.

    Args:
        values: (n,), finite.
        images: (n,) the image of each value, by name or number.
        groups: (n,) its group.
        draws: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the draws.

    Returns:
        The mean and its interval.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return GroupMean(*[math.nan] * 4)
    rows, columns = (np.unique(np.asarray(part), return_inverse=True)[1] for part in (images, groups))
    sums, counts = np.zeros((2, rows.max() + 1, columns.max() + 1))
    np.add.at(sums, (rows, columns), numbers)
    np.add.at(counts, (rows, columns), 1)
    mean = float(_means(sums.sum(0, keepdims=True), counts.sum(0, keepdims=True))[0])
    if len(sums) < 2:
        return GroupMean(mean, math.nan, math.nan, math.nan)
    drawn = _resample(sums, counts, draws, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return GroupMean(mean, float(low), float(high), float(drawn.std(ddof=1)))


def _resample(sums: Floats, counts: Floats, draws: int, seed: int) -> Floats:
    """(draws,) means of resamples of the images, whose sums and counts are (I,G)."""
    generator, images = np.random.default_rng(seed), len(sums)
    step = max(1, BLOCK // images)
    means = []
    for start in range(0, draws, step):
        chosen = generator.integers(images, size=(min(step, draws - start), images))
        times = np.stack([np.bincount(row, minlength=images) for row in chosen]).astype(np.float64)
        means.append(_means(times @ sums, times @ counts))
    return np.concatenate(means)


def _means(sums: Floats, counts: Floats) -> Floats:
    """(n,) the mean over the groups of (n,G) that have a value."""
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    averages: Floats = means.sum(1) / (counts > 0).sum(1)
    return averages
