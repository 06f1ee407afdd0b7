"""Least squares on answers of people about items, with intervals for other people and other items."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whybox.ops.resampling import crossed_draws, crossed_sums
from whybox.runs.statistics import BLOCK, DRAWS, LEVEL, Estimate

Floats = NDArray[np.float64]


class Line(NamedTuple):
    """A line y = intercept + slope x; NaN where it is not defined.

    Attributes:
        slope: Its slope with the interval.
        correlation: Pearson's r with the interval.
        intercept: Where it crosses x = 0; with groups, of their means.
        rows: Number of answers.
        drawn: (D,2) intercept and slope of each resample.
    """

    slope: Estimate
    correlation: Estimate
    intercept: float
    rows: int
    drawn: Floats


def crossed_line(
    x: ArrayLike,
    y: ArrayLike,
    people: Sequence[Any],
    items: Sequence[Any],
    groups: Sequence[Any] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Line:
    """The least-squares line of answers, with percentile intervals of a bootstrap that draws people and items.

    People and items are drawn independently, and an answer counts as often as its person times as often as its item was drawn:
    the interval is for other people and other items. It tends to be too wide rather than too narrow.

    Source: that of `whybox.ops.resampling`.

    Args:
        x: (n,).
        y: (n,).
        people: The person of each answer.
        items: The item of each answer.
        groups: The group of each answer: all groups share the slope, and each has an intercept of its own, which is fitted
            anew in every resample. None: one group.
        draws: Number of resamples.
        level: Coverage of the intervals.
        seed: Of the draws.

    Returns:
        The line; its intervals are NaN for a single person or item.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not len(first):
        nothing = Estimate(np.nan, np.nan, np.nan)
        return Line(nothing, nothing, np.nan, 0, np.empty((0, 2)))
    # Sums of squares lose digits far from 0; the middle is added to the intercept again.
    middle = float(first.mean()), float(second.mean())
    sums = _sums(first - middle[0], second - middle[1], people, items, groups)
    shape = (sums.shape[2], sums.shape[3])
    ones = [np.ones((1, count)) for count in shape]
    intercept, slope, correlation = (float(part[0]) for part in _fit(sums, ones[0], ones[1], middle))
    if min(shape) < 2:
        known = Estimate(slope, np.nan, np.nan), Estimate(correlation, np.nan, np.nan)
        return Line(*known, intercept, len(first), np.empty((0, 2)))
    times = crossed_draws(*shape, draws, seed)
    step = max(1, BLOCK // (6 * sums.shape[1] * shape[1]))
    parts = [_fit(sums, times[0][at : at + step], times[1][at : at + step], middle) for at in range(0, draws, step)]
    drawn = np.concatenate([np.column_stack(part) for part in parts])
    # A resample of one item drawn over and over may leave no spread to fit a line to.
    drawn = drawn[np.isfinite(drawn).all(1)]
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0) if len(drawn) else np.full((2, 3), np.nan)
    (_, *low), (_, *high) = ends.tolist()
    found = Estimate(slope, low[0], high[0]), Estimate(correlation, low[1], high[1])
    return Line(*found, intercept, len(first), drawn[:, :2])


def _sums(x: Floats, y: Floats, people: Sequence[Any], items: Sequence[Any], groups: Sequence[Any] | None) -> Floats:
    """(6,G,P,I): the sums of 1, x, y, xx, xy and yy over the answers of each group, person and item."""
    kinds = [np.zeros(len(x))] if groups is None else [np.asarray(groups)]
    numbers = [np.unique(names, return_inverse=True)[1] for names in (*kinds, np.asarray(people), np.asarray(items))]
    sums = np.zeros((6, *(int(number.max()) + 1 for number in numbers)))
    for part, values in zip(sums, (np.ones_like(x), x, y, x * x, x * y, y * y), strict=True):
        np.add.at(part, tuple(numbers), values)
    return sums


def _fit(sums: Floats, people: Floats, items: Floats, middle: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Intercept, slope and correlation (D,) of resamples that hold each person (D,P) and each item (D,I) so many times."""
    # (6,G,D): one product of matrices per sum and group.
    count, x, y, xx, xy, yy = crossed_sums(sums, people, items)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Within the groups; one that is not in a resample has no sums.
        share = np.where(count > 0, 1 / count, 0.0)
        spread_x, spread_y = (xx - x * x * share).sum(0), (yy - y * y * share).sum(0)
        together = (xy - x * y * share).sum(0)
        # What rounding leaves of no spread is none.
        flat = spread_x <= 1e-12 * xx.sum(0)
        slope = np.where(flat, np.nan, together / spread_x)
        correlation = np.where(flat, np.nan, together / np.sqrt(spread_x * spread_y))
        mean_x, mean_y = (part.sum(0) / count.sum(0) for part in (x, y))
    return middle[1] + mean_y - slope * (middle[0] + mean_x), slope, correlation


def centered(values: ArrayLike, groups: Sequence[Any]) -> Floats:
    """Values (n,) minus the mean of their group."""
    table, numbers = np.asarray(values, np.float64), np.unique(np.asarray(groups), return_inverse=True)[1]
    means: Floats = np.bincount(numbers, table) / np.bincount(numbers)
    return table - means[numbers]
