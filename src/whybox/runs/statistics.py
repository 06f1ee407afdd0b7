"""Intervals and tests: cluster bootstrap, where an image's objects are a cluster, sign flips; paired t over seeds."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

DRAWS = 2000
FLIPS = 20_000
"""More than `DRAWS`: the smallest p is 1 / (1 + FLIPS), and Holm multiplies it by the number of tests."""
LEVEL = 0.95
POWER = 0.8
"""The share of repetitions in which a study is to see a difference."""
BLOCK = 2**22
"""Entries of a matrix of draws x images in memory at once, so that a run of any size fits."""

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean and the ends of its interval; NaN where they are not defined.

    Attributes:
        mean: The mean.
        low: The lower end.
        high: The upper end.
    """

    mean: float
    low: float
    high: float


class Estimates(NamedTuple):
    """P means and the ends of their intervals.

    Attributes:
        mean: The means, (P,).
        low: The lower ends, (P,).
        high: The upper ends, (P,).
    """

    mean: Floats
    low: Floats
    high: Floats


class Difference(NamedTuple):
    """A mean difference, its interval and its p-value.

    Attributes:
        mean: The mean difference.
        low: The lower end of its interval.
        high: The upper end.
        p: Two-sided p-value of the null hypothesis that the sign of an image's differences is random.
    """

    mean: float
    low: float
    high: float
    p: float


class SeedDifference(NamedTuple):
    """How two recipes differ over training seeds; NaN where it is not defined.

    Attributes:
        mean: The mean difference.
        low: The lower end of its interval.
        high: The upper end.
        detectable: The smallest true difference that such a study would see in four of five repetitions.
    """

    mean: float
    low: float
    high: float
    detectable: float


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The mean of values and its percentile interval from a bootstrap that draws whole clusters with replacement.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3; clusters: Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1 (whole clusters, nothing drawn inside one).

    Args:
        values: (n,); NaN values are left out.
        clusters: (n,), the image of each value, by name or number.
        draws: Number of bootstrap samples.
        level: Coverage of the interval, 0 to 1.
        seed: Seed of the draws.

    Returns:
        The mean and its interval, which is NaN for a single cluster.
    """
    column = np.asarray(values, np.float64).reshape(-1, 1)
    estimates = bootstrap_means(column, clusters, draws=draws, level=level, seed=seed)
    return Estimate(*(float(part[0]) for part in estimates))


def bootstrap_means(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Estimates:
    """`bootstrap_mean` of each of P columns, such as the points of curves; all columns share the draws.

    Args:
        values: (n,P); NaN values are left out.
        clusters: (n,), the image of each row, by name or number.
        draws: Number of bootstrap samples.
        level: Coverage of the intervals, 0 to 1.
        seed: Seed of the draws.

    Returns:
        The means and their intervals, which are NaN for a single cluster.
    """
    table = np.asarray(values, np.float64)
    known = ~np.isnan(table)
    used = known.any(1)
    sums, counts = _per_cluster(table[used], known[used], _numbered(clusters, table)[used])
    mean = _ratio(sums.sum(0), counts.sum(0))
    undefined = np.full_like(mean, np.nan)
    # Of one cluster, every sample is the same.
    if len(sums) < 2:
        return Estimates(mean, undefined, undefined.copy())
    # A sample's mean is a ratio of two sums over its clusters, so the values themselves need not be drawn.
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
    """The mean of a - b on the same objects, with a bootstrap interval and a two-sided sign-flip test.

    The test flips the sign of all differences of an image together. If there are at most `flips` combinations, all are
    evaluated and p is exact; otherwise `flips` are drawn, and p = (1 + hits) / (1 + flips), which is never 0.

    Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005, section 3.2 (sign flips of matched
    pairs); Phipson and Smyth, "Permutation P-values Should Never Be Zero", SAGMB 2010, for the drawn p-value.

    Args:
        a: (n,); pairs with a NaN are left out.
        b: (n,), of the same objects.
        clusters: (n,), the image of each pair, by name or number.
        draws: Number of bootstrap samples.
        flips: Maximum number of sign flips.
        level: Coverage of the interval, 0 to 1.
        seed: Seed of the draws and flips.

    Returns:
        The mean difference, its interval and the p-value.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    # The difference of a pair is drawn as one number: a and b of an object never come apart.
    mean, low, high = bootstrap_mean(difference, clusters, draws=draws, level=level, seed=seed)
    known = ~np.isnan(difference)
    return Difference(mean, low, high, sign_flip_p(difference[known], np.asarray(clusters)[known], flips=flips, seed=seed))


def seed_difference(a: ArrayLike, b: ArrayLike, *, level: float = LEVEL, power: float = POWER) -> SeedDifference:
    """The mean of a - b over pairs of trainings that share their seed, with the interval of the paired t-test.

    The smallest difference seen is (t_((1 + level) / 2) + t_power) s / sqrt(n), with the quantiles of n - 1 degrees of freedom
    and the differences' standard deviation s.

    Source: Student, "The Probable Error of a Mean", Biometrika 1908; the smallest difference: Bloom, "Minimum Detectable
    Effects", Evaluation Review 1995.

    Args:
        a: (n,), one value per seed; pairs with a NaN are left out.
        b: (n,), of the same seeds.
        level: Coverage of the interval, 0 to 1.
        power: The share of repetitions in which the smallest difference is seen.

    Returns:
        The mean difference, its interval, which is NaN for a single pair, and the smallest difference seen.
    """
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    differences = differences[~np.isnan(differences)]
    count, undefined = len(differences), float("nan")
    mean = float(differences.mean()) if count else undefined
    if count < 2:
        return SeedDifference(mean, undefined, undefined, undefined)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    wide, also = (float(student_t.ppf(share, count - 1)) for share in ((1 + level) / 2, power))
    return SeedDifference(mean, mean - wide * error, mean + wide * error, (wide + also) * error)


def sign_flip_p(differences: ArrayLike, clusters: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """The two-sided p-value of `paired_difference`.

    Args:
        differences: (n,), without NaN.
        clusters: (n,), the image of each difference, by name or number.
        flips: Maximum number of sign flips.
        seed: Seed of the flips.

    Returns:
        The p-value; NaN without differences.
    """
    numbers = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(numbers, np.asarray(differences, np.float64)).astype(np.float64)
    if not len(sums):
        return float("nan")
    # A sum that differs from the observed one only by rounding is a hit.
    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    if len(sums) <= math.log2(flips):
        # Bit c of i is cluster c's sign in combination i.
        combinations = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float((_flipped(combinations, sums) >= observed).mean())
    hits = sum(int(np.count_nonzero(_flipped(coins, sums) >= observed)) for coins in _coins(len(sums), flips, seed))
    return (1 + hits) / (1 + flips)


def _flipped(coins: NDArray[Any], sums: Floats) -> Floats:
    """The absolute sums (n,) after flipping the signs of the clusters whose coins (n,C) are 0."""
    # sum(s_c x_c) with s = 2 coin - 1.
    flipped: Floats = 2 * (coins.astype(np.float64) @ sums) - sums.sum()
    return np.abs(flipped)


def _coins(clusters: int, flips: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Blocks (block,C) of random zeros and ones, drawn as bits."""
    rng = np.random.default_rng(seed)
    width = math.ceil(clusters / 8)
    for block in _blocks(flips, clusters):
        yield np.unpackbits(rng.integers(0, 256, (block, width), np.uint8), axis=1, count=clusters)


def _numbered(clusters: ArrayLike, values: Floats) -> NDArray[np.intp]:
    """The clusters (n,) as numbers, starting from 0."""
    names = np.asarray(clusters)
    if names.shape != values.shape[:1]:
        raise ValueError(f"expected one cluster per value, {values.shape[:1]}, got {names.shape}")
    return np.unique(names, return_inverse=True)[1]


def _per_cluster(values: Floats, known: NDArray[np.bool_], numbers: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sums and counts (C,P) of the known values of every cluster that has any."""
    # Renumbered: a cluster without a known value must not be drawn.
    present, numbers = np.unique(numbers, return_inverse=True)
    sums, counts = np.zeros((2, len(present), values.shape[1]))
    np.add.at(sums, numbers, np.where(known, values, 0))
    np.add.at(counts, numbers, known)
    return sums, counts


def _times_drawn(clusters: int, draws: int, seed: int) -> Iterator[Floats]:
    """Blocks (block,C): how often each of the C clusters is in each draw of C clusters."""
    rng = np.random.default_rng(seed)
    for block in _blocks(draws, clusters):
        # Each draw counts in a row of bins of its own, so that one bincount serves the block.
        cells = rng.integers(0, clusters, (block, clusters)) + np.arange(block)[:, None] * clusters
        yield np.bincount(cells.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _blocks(draws: int, width: int) -> Iterator[int]:
    step = max(1, BLOCK // width)
    return (min(step, draws - start) for start in range(0, draws, step))


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _ends(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentiles of the draws (draws,P); draws without a value of a column are left out of it."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    known = ~np.isnan(drawn).all(0)
    # nanquantile is many times slower (numpy/numpy#16575), and draws without a value are rare.
    quantiles: Any = np.nanquantile if np.isnan(drawn).any() else np.quantile
    ends[:, known] = quantiles(drawn[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1]
