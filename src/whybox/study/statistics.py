"""Tests, effect sizes, intervals over people and items, and the number of people that a next study needs."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from whybox.ops.resampling import crossed_draws, crossed_sums

DRAWS = 2000
LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
"""The share of repetitions in which a study is to see a difference."""
MOST = 100_000
"""A study of more people than this is not planned."""
FEW = 5.0
"""Below this expected count the chi-square distribution is a poor approximation."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """A test; NaN where it is not defined.

    Attributes:
        name: The test, such as "Wilcoxon signed-rank".
        statistic: Its statistic.
        freedom: Degrees of freedom; NaN: it has none.
        p: The two-sided p-value.
        effect: The size of the effect.
        measure: What the effect is, such as "Cohen's d".
        count: The number of answers or of people.
        note: What limits the test; "" for nothing.
    """

    name: str
    statistic: float
    freedom: float
    p: float
    effect: float
    measure: str
    count: int
    note: str = ""


class Estimate(NamedTuple):
    """A number with its interval; NaN where it is not defined.

    Attributes:
        value: The number.
        low: The lower end.
        high: The upper end.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def chi_square_of_counts(counts: ArrayLike) -> Tested:
    """Pearson's chi-square test that all counts are equal but for chance.

    The effect is Cohen's w = sqrt(chi2 / n). The test takes answers as independent, which several of one person are not.

    Source: Pearson, Philosophical Magazine 1900; Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, 7.2.

    Args:
        counts: (k,) answers by category.

    Returns:
        The test.
    """
    seen = np.asarray(counts, np.float64)
    total, freedom = float(seen.sum()), len(seen) - 1
    if total == 0 or freedom < 1:
        return Tested("chi-square", math.nan, freedom, math.nan, math.nan, "Cohen's w", int(total))
    found = stats.chisquare(seen)
    note = _few(total / len(seen))
    effect = math.sqrt(found.statistic / total)
    return Tested("chi-square", float(found.statistic), freedom, float(found.pvalue), effect, "Cohen's w", int(total), note)


def chi_square_of_table(counts: ArrayLike) -> Tested:
    """Pearson's chi-square test that rows and columns are independent, without a correction for continuity.

    The effect is Cramer's V = sqrt(chi2 / (n (min(r, c) - 1))). The test takes answers as independent, which several of one
    person are not.

    Source: Pearson, as above; Cramer, "Mathematical Methods of Statistics", 1946, 21.9.

    Args:
        counts: (r,c) answers by condition and category. Empty rows and columns are left out.

    Returns:
        The test.
    """
    seen = np.asarray(counts, np.float64)
    seen = seen[seen.sum(1) > 0][:, seen.sum(0) > 0]
    total = int(seen.sum())
    if min(seen.shape, default=0) < 2:
        return Tested("chi-square", math.nan, math.nan, math.nan, math.nan, "Cramér's V", total)
    found = stats.chi2_contingency(seen, correction=False)
    effect = math.sqrt(found.statistic / (total * (min(seen.shape) - 1)))
    note = _few(float(found.expected_freq.min()))
    return Tested("chi-square", float(found.statistic), int(found.dof), float(found.pvalue), effect, "Cramér's V", total, note)


def _few(expected: float) -> str:
    return f"smallest expected count {expected:.1f}: p is approximate" if expected < FEW else ""


def paired_t(a: ArrayLike, b: ArrayLike | float = 0.0) -> Tested:
    """Student's t test of the differences a - b of the same people.

    The effect is Cohen's d of differences, their mean divided by their standard deviation (d_z).

    Source: Student, Biometrika 1908; Lakens, "Calculating and reporting effect sizes", Frontiers in Psychology 2013, equation 6.

    Args:
        a: (n,) a number per person; pairs with a NaN are left out.
        b: (n,) of the same people, or one number.

    Returns:
        The test, NaN where all differences are the same.
    """
    differences = _differences(a, b)
    count = len(differences)
    spread = float(differences.std(ddof=1)) if count > 1 else math.nan
    # All the same but for rounding.
    if not spread > 1e-12 * max(1.0, float(np.abs(differences).max(initial=0))):
        return Tested("paired t", math.nan, count - 1, math.nan, math.nan, "Cohen's d", count, "all differences are the same")
    found = stats.ttest_1samp(differences, 0.0)
    effect = float(differences.mean()) / spread
    return Tested("paired t", float(found.statistic), count - 1, float(found.pvalue), effect, "Cohen's d", count)


def wilcoxon(a: ArrayLike, b: ArrayLike | float = 0.0) -> Tested:
    """Wilcoxon's signed-rank test of the differences a - b of the same people; differences of zero are left out.

    The p-value is exact for at most 50 people without ties, else of the normal approximation without a correction for continuity.
    The effect is the matched-pairs rank-biserial correlation, (W+ - W-) / (W+ + W-).

    Source: Wilcoxon, Biometrics Bulletin 1945; Kerby, "The simple difference formula", Comprehensive Psychology 2014.

    Args:
        a: (n,) a number per person; pairs with a NaN are left out.
        b: (n,) of the same people, or one number.

    Returns:
        The test, whose statistic is the smaller of both rank sums; NaN where all differences are zero.
    """
    differences = _differences(a, b)
    # Two means of ranks that are the same may differ by rounding, and would be no tie then.
    differences = np.round(differences, 12)
    moved = differences[differences != 0]
    if not len(moved):
        name = "Wilcoxon signed-rank"
        return Tested(name, math.nan, math.nan, math.nan, math.nan, "rank-biserial r", len(differences), "no differences")
    ranks = stats.rankdata(np.abs(moved))
    up, down = float(ranks[moved > 0].sum()), float(ranks[moved < 0].sum())
    ties = len(set(ranks.tolist())) < len(ranks)
    exact = len(moved) <= 50 and not ties
    with warnings.catch_warnings():
        # Older releases of SciPy warn of small samples.
        warnings.simplefilter("ignore")
        found = stats.wilcoxon(moved, method="exact" if exact else "approx")
    effect = (up - down) / (up + down)
    count, note = len(differences), "" if exact or len(moved) >= 10 else "few people with ties: p is approximate"
    return Tested("Wilcoxon signed-rank", min(up, down), math.nan, float(found.pvalue), effect, "rank-biserial r", count, note)


def friedman(values: ArrayLike) -> Tested:
    """Friedman's test that all conditions are ranked alike by the same people.

    The effect is Kendall's W = chi2 / (n (k - 1)), the agreement between people: 0 for none, 1 for the same order by all.

    Source: Friedman, JASA 1937; Kendall and Babington Smith, Annals of Mathematical Statistics 1939.

    Args:
        values: (n,k), a person's number for each condition; people with a NaN are left out.

    Returns:
        The test.
    """
    table = np.round(np.asarray(values, np.float64), 12)
    table = table[~np.isnan(table).any(1)]
    people, conditions = table.shape
    # SciPy asks for three; of two, it is the sign test.
    if people < 2 or conditions < 3 or (table == table[:, :1]).all():
        return Tested("Friedman", math.nan, conditions - 1, math.nan, math.nan, "Kendall's W", people)
    found = stats.friedmanchisquare(*table.T)
    effect = float(found.statistic) / (people * (conditions - 1))
    return Tested("Friedman", float(found.statistic), conditions - 1, float(found.pvalue), effect, "Kendall's W", people)


def _differences(a: ArrayLike, b: ArrayLike | float) -> Floats:
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    known: Floats = differences[~np.isnan(differences)]
    return known


def crossed_means(
    values: ArrayLike,
    people: Sequence[Any],
    items: Sequence[Any],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Estimate]:
    """Means of columns, with percentile intervals of a bootstrap that draws people and, independently, items.

    An answer counts as often as its person was drawn, times as often as its item was (the pigeonhole bootstrap): the interval is
    for other people *and* other objects. It tends to be too wide rather than too narrow.

    Source: that of `whybox.ops.resampling`.

    Args:
        values: (n,P); NaN values are left out of their column.
        people: The person of each row.
        items: The item of each row.
        draws: Number of resamples.
        level: Coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        P means with intervals, which are NaN for a single person or item.
    """
    table = np.asarray(values, np.float64)
    known = ~np.isnan(table)
    rows, columns = (np.unique(np.asarray(names), return_inverse=True)[1] for names in (people, items))
    shape = (table.shape[1], rows.max(initial=-1) + 1, columns.max(initial=-1) + 1)
    sums, counts = np.zeros((2, *shape))
    for j in range(shape[0]):
        np.add.at(sums[j], (rows, columns), np.where(known[:, j], table[:, j], 0))
        np.add.at(counts[j], (rows, columns), known[:, j])
    chosen = crossed_draws(*shape[1:], draws, seed) if min(shape[1:]) > 1 else None
    estimates = []
    for j in range(shape[0]):
        total = counts[j].sum()
        mean = float(sums[j].sum() / total) if total else math.nan
        if chosen is None or not total:
            estimates.append(Estimate(mean))
            continue
        above, below = (crossed_sums(part, *chosen) for part in (sums[j], counts[j]))
        drawn = above[below > 0] / below[below > 0]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        estimates.append(Estimate(mean, float(low), float(high)))
    return estimates


def power_of_t(effect: float, people: int, alpha: float = ALPHA) -> float:
    """The power of a two-sided paired t test.

    Source: the noncentral t distribution with n - 1 degrees of freedom and noncentrality d sqrt(n); Cohen, 1988, chapter 2.

    Args:
        effect: Cohen's d of differences.
        people: Their number.
        alpha: The level of the test.

    Returns:
        The share of studies that see the effect.
    """
    if people < 2:
        return 0.0
    bound, shift = stats.t.ppf(1 - alpha / 2, people - 1), abs(effect) * math.sqrt(people)
    # Far out SciPy's noncentral t is not a number; of the lower tail, that is 0, and of the upper one, 1.
    with np.errstate(all="ignore"):
        upper, lower = stats.nct.sf(bound, people - 1, shift), stats.nct.cdf(-bound, people - 1, shift)
    return float(np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower, nan=0.0))


def power_of_chi_square(effect: float, answers: int, freedom: int = 1, alpha: float = ALPHA) -> float:
    """The power of a chi-square test.

    Source: the noncentral chi-square distribution with noncentrality n w^2; Cohen, 1988, chapter 7.

    Args:
        effect: Cohen's w.
        answers: Their number.
        freedom: Degrees of freedom.
        alpha: The level of the test.

    Returns:
        The share of studies that see the effect.
    """
    bound = stats.chi2.ppf(1 - alpha, freedom)
    return float(stats.ncx2.sf(bound, freedom, answers * effect**2))


def smallest(power: Callable[[int], float], wanted: float = POWER, least: int = 2) -> int | None:
    """The smallest number for which a power is reached; power grows with the number.

    Args:
        power: Of a number of people or answers.
        wanted: The power.
        least: The smallest number that is tried.

    Returns:
        The number; None: more than `MOST`.
    """
    if not power(MOST) >= wanted:
        return None
    low, high = least - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


def detectable(people: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The smallest effect that a two-sided paired t test of so many people sees with the wanted power.

    Args:
        people: Their number.
        alpha: The level of the test.
        wanted: The power.

    Returns:
        Cohen's d of differences, to a thousandth; NaN for fewer than two people.
    """
    if people < 2:
        return math.nan
    steps = smallest(lambda thousandths: power_of_t(thousandths / 1000, people, alpha), wanted, least=1)
    return math.nan if steps is None else steps / 1000
