"""Means with intervals and paired tests, where the objects of one image are not independent of one another."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
FLIPS = 20_000
"""More than draws: the smallest p is 1 / (1 + FLIPS), and Holm multiplies it by the number of tests."""
LEVEL = 0.95
BLOCK = 2**22
"""Entries of a matrix of draws x images that are held at once, so that a run of any size fits memory."""

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean and the ends of its interval; NaN where they are not defined."""

    mean: float
    low: float
    high: float


class Estimates(NamedTuple):
    """P means and the ends of their intervals, each (P,)."""

    mean: Floats
    low: Floats
    high: Floats


class Difference(NamedTuple):
    """A mean difference, the ends of its interval, and the p-value of the hypothesis that its sign is chance."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """Mean of values (n,), and the percentile interval from drawing clusters (n,), names of images, with replacement.

    NaN values are left out. One image alone has a mean and no interval.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3; clusters: Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1 (whole clusters, nothing drawn inside one).
    """
    column = np.asarray(values, np.float64).reshape(-1, 1)
    found = bootstrap_means(column, clusters, draws=draws, level=level, seed=seed)
    return Estimate(*(float(part[0]) for part in found))


def bootstrap_means(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Estimates:
    """`bootstrap_mean` of each column of values (n,P), such as the points of curves. All columns share the draws."""
    table = np.asarray(values, np.float64)
    known = ~np.isnan(table)
    used = known.any(1)
    sums, counts = _per_cluster(table[used], known[used], _numbered(clusters, table)[used])
    mean = _ratio(sums.sum(0), counts.sum(0))
    nothing = np.full_like(mean, np.nan)
    if len(sums) < 2:
        return Estimates(mean, nothing, nothing.copy())
    drawn = [_ratio(times @ sums, times @ counts) for times in _times_drawn(len(sums), draws, seed)]
    low, high = _ends(np.concatenate(drawn), level)
    return Estimates(mean, low, high)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike,
    *,
    draws: int = DRAWS,
    flips: int = FLIPS,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Mean of a - b, (n,) each, on the same objects, with a bootstrap interval and a two-sided test; NaN pairs are left out.

    The test flips the sign of all differences of an image together. Where there are at most `flips` ways to do so, all
    are tried and p is exact; else that many are drawn, and p is (1 + hits) / (1 + flips), which is never 0.
    Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005, section 3.2 (sign flips of matched
    pairs); Phipson and Smyth, "Permutation P-values Should Never Be Zero", SAGMB 2010, for the drawn p-value.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    mean, low, high = bootstrap_mean(difference, clusters, draws=draws, level=level, seed=seed)
    known = ~np.isnan(difference)
    return Difference(mean, low, high, sign_flip_p(difference[known], np.asarray(clusters)[known], flips=flips, seed=seed))


def sign_flip_p(differences: ArrayLike, clusters: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """The test of `paired_difference` for differences (n,), none of them NaN: its two-sided p-value."""
    number = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(number, np.asarray(differences, np.float64)).astype(np.float64)
    if not len(sums):
        return float("nan")
    # Sums that are equal but for rounding are hits.
    bar = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    if len(sums) <= math.log2(flips):
        every = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float((_flipped(every, sums) >= bar).mean())
    hits = sum(int(np.count_nonzero(_flipped(some, sums) >= bar)) for some in _coins(len(sums), flips, seed))
    return (1 + hits) / (1 + flips)


def _flipped(coins: NDArray[Any], sums: Floats) -> Floats:
    """How far from 0 the sum is, (n,), where coins (n,C) of 0 turn the signs."""
    flipped: Floats = 2 * (coins.astype(np.float64) @ sums) - sums.sum()
    return np.abs(flipped)


def _coins(clusters: int, flips: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """(block, C) at a time of zeros and ones: one random bit each."""
    rng = np.random.default_rng(seed)
    width = math.ceil(clusters / 8)
    for block in _blocks(flips, clusters):
        yield np.unpackbits(rng.integers(0, 256, (block, width), np.uint8), axis=1, count=clusters)


def holm(p_values: ArrayLike) -> Floats:
    """p-values (m,) corrected for looking at m of them: Holm's step-down. NaN stays NaN and is not counted.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.
    """
    given = np.asarray(p_values, np.float64)
    corrected = np.full_like(given, np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def _numbered(clusters: ArrayLike, values: Floats) -> NDArray[np.intp]:
    """The clusters (n,) as numbers from 0 on."""
    names = np.asarray(clusters)
    if names.shape != values.shape[:1]:
        raise ValueError(f"expected one cluster a value, {values.shape[:1]}, got {names.shape}")
    return np.unique(names, return_inverse=True)[1]


def _per_cluster(values: Floats, known: NDArray[np.bool_], number: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sums and counts (C,P) of the known values of every cluster that has any."""
    present, number = np.unique(number, return_inverse=True)
    sums, counts = np.zeros((2, len(present), values.shape[1]))
    np.add.at(sums, number, np.where(known, values, 0))
    np.add.at(counts, number, known)
    return sums, counts


def _times_drawn(clusters: int, draws: int, seed: int) -> Iterator[Floats]:
    """(block, C) at a time: how often each cluster is in each draw of C of them."""
    rng = np.random.default_rng(seed)
    for block in _blocks(draws, clusters):
        cells = rng.integers(0, clusters, (block, clusters)) + np.arange(block)[:, None] * clusters
        yield np.bincount(cells.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _blocks(draws: int, width: int) -> Iterator[int]:
    step = max(1, BLOCK // width)
    return (min(step, draws - start) for start in range(0, draws, step))


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _ends(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentiles of the draws (draws,P); a draw that has no value of a column says nothing about it."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    known = ~np.isnan(drawn).all(0)
    quantiles: Any = np.nanquantile if np.isnan(drawn).any() else np.quantile
    ends[:, known] = quantiles(drawn[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1]
