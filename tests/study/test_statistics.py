"""The statistics against SciPy and statsmodels, by hand, and against the paper's published tests."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.gof import chisquare_effectsize
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import GofChisquarePower, TTestPower

from whybox.ops.corrections import holm
from whybox.study.paper_tables import CHOSEN_COUNTS, CHOSEN_PERCENT, CHOSEN_TEST, CONFIDENCE_COUNTS, RIGHT_COUNTS, STUDY_TABLES
from whybox.study.statistics import (
    chi_square_of_counts,
    chi_square_of_table,
    crossed_means,
    detectable,
    friedman,
    paired_t,
    power_of_chi_square,
    power_of_t,
    smallest,
    wilcoxon,
)

RNG = np.random.default_rng(4)
A = RNG.normal(size=24)
B = A + RNG.normal(0.4, 1, size=24)


def test_chi_square_of_counts_by_hand_and_by_others():
    # (30 - 20)^2 / 20 + (10 - 20)^2 / 20
    test = chi_square_of_counts([30, 10])
    assert (test.statistic, test.freedom, test.count) == (10, 1, 40)
    assert test.p == pytest.approx(math.erfc(math.sqrt(10 / 2)))
    assert test.effect == pytest.approx(chisquare_effectsize([0.5, 0.5], [0.75, 0.25]))
    assert chi_square_of_counts([3, 1, 2]).note == "smallest expected count 2.0: p is approximate"
    assert math.isnan(chi_square_of_counts([0, 0]).p)


def test_chi_square_of_a_table():
    table = [[20, 5, 0], [10, 15, 0], [12, 9, 0]]
    test = chi_square_of_table(table)
    ours = np.array(table)[:, :2]
    expected = np.outer(ours.sum(1), ours.sum(0)) / ours.sum()
    assert test.statistic == pytest.approx(((ours - expected) ** 2 / expected).sum())
    assert test.freedom == 2
    assert test.p == pytest.approx(math.exp(-test.statistic / 2))
    assert test.effect == pytest.approx(stats.contingency.association(ours, method="cramer"))
    assert math.isnan(chi_square_of_table([[3, 4], [0, 0]]).p)


def test_the_paired_t_test():
    test, known = paired_t(A, B), stats.ttest_rel(A, B)
    assert (test.statistic, test.p) == pytest.approx((known.statistic, known.pvalue))
    assert test.effect == pytest.approx(test.statistic / math.sqrt(24))
    with_gap = paired_t([*A, np.nan, 1.0], [*B, 2.0, np.nan])
    assert with_gap == test
    assert paired_t([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]).note == "all differences are the same"
    assert math.isnan(paired_t([1.0], [2.0]).p)


def test_the_signed_rank_test():
    test, known = wilcoxon(A, B), stats.wilcoxon(A, B, method="exact")
    assert (test.statistic, test.p) == pytest.approx((known.statistic, known.pvalue))
    assert wilcoxon([1, 2, 3, 4], [0, 0, 0, 0]).effect == 1
    # Ranks 1, 2, 3 of 1, -2, 3: (4 - 2) / 6.
    assert wilcoxon([1, -2, 3]).effect == pytest.approx(1 / 3)
    assert wilcoxon([1, -2, 3]).p == pytest.approx(0.75)
    tied = [1, 1, -1, 2, 2, 2, 3, -3, 4, 0, 5, 5]
    assert wilcoxon(tied).p == pytest.approx(stats.wilcoxon(tied, method="approx").pvalue)
    assert math.isnan(wilcoxon([1, 1], [1, 1]).p)
    # Equal but for rounding.
    assert math.isnan(wilcoxon([0.1 + 0.2], [0.3]).p)


def test_friedman():
    table = RNG.normal(size=(9, 4)) + [0, 0.5, 1, 0]
    test, known = friedman([*table, [1, 2, np.nan, 4]]), stats.friedmanchisquare(*table.T)
    assert (test.statistic, test.p, test.count) == pytest.approx((known.statistic, known.pvalue, 9))
    assert friedman(np.arange(12).reshape(3, 4)).effect == pytest.approx(1)
    assert math.isnan(friedman(np.ones((4, 3))).p)
    assert math.isnan(friedman(table[:, :2]).p)


def test_holm_against_statsmodels():
    for count in (1, 5, 12):
        p = RNG.uniform(size=count) ** 3
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def made_up_power(effect, people, alpha):
    studies = np.random.default_rng(0).normal(effect, 1, size=(4000, people))
    return float((stats.ttest_1samp(studies, 0, axis=1).pvalue < alpha).mean())


@pytest.mark.parametrize(("effect", "alpha"), [(0.2, 0.05), (0.5, 0.01), (1.5, 0.05 / 6), (4.0, 0.05)])
def test_the_power_of_a_t_test(effect, alpha):
    for people in (4, 12, 60):
        known = TTestPower().power(effect, people, alpha)
        # Far out statsmodels has no number; there, made-up studies.
        expected = pytest.approx(made_up_power(effect, people, alpha), abs=0.01) if math.isnan(known) else pytest.approx(known)
        assert power_of_t(effect, people, alpha) == expected
    people = smallest(lambda count: power_of_t(effect, count, alpha))
    assert power_of_t(effect, people, alpha) >= 0.8 > power_of_t(effect, people - 1, alpha)


def test_the_table_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for effect, *people in rows:
        needed = [smallest(lambda count, a=a, d=float(effect): power_of_t(d, count, 0.05 / a)) for a in (1, 3, 6)]
        assert [int(number) for number in people] == needed


def test_the_power_of_a_chi_square_test():
    for answers in (20, 400):
        known = GofChisquarePower().power(0.15, answers, 0.05, n_bins=4)
        assert power_of_chi_square(0.15, answers, 3) == pytest.approx(known)
    wanted = GofChisquarePower().solve_power(0.15, power=0.8, alpha=0.05, n_bins=2)
    assert smallest(lambda count: power_of_chi_square(0.15, count)) == math.ceil(wanted)


def test_what_can_be_seen_and_what_cannot():
    assert detectable(12) == pytest.approx(TTestPower().solve_power(nobs=12, alpha=0.05, power=0.8), abs=1e-3)
    assert math.isnan(detectable(1))
    assert smallest(lambda count: power_of_t(0.0, count)) is None


def test_intervals_cover_other_people_and_other_items():
    """Of made-up studies with effects of people, items and answers, about 95 % of the intervals hold the true mean. An interval
    over people alone holds it less often: the items' part is missing there."""
    covered = narrow = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        people, items = np.repeat(np.arange(12), 15), np.tile(np.arange(15), 12)
        values = rng.normal(size=12)[people] + rng.normal(size=15)[items] + rng.normal(size=180)
        (estimate,) = crossed_means(values[:, None], people, items, draws=200, seed=seed)
        covered += estimate.low <= 0 <= estimate.high
        error = values.reshape(12, 15).mean(1).std(ddof=1) / math.sqrt(12)
        narrow += abs(estimate.value) <= 1.96 * error
    assert 90 <= covered <= 100
    assert narrow < 85


def test_crossed_means_of_columns_with_gaps():
    values = [[1.0, 5.0], [2.0, np.nan], [3.0, 7.0], [6.0, 9.0]]
    first, second = crossed_means(values, ["a", "a", "b", "b"], [0, 1, 0, 1], draws=400)
    assert (first.value, second.value) == (3, 7)
    assert first.low == 1
    assert first.high == 6
    (alone,) = crossed_means([[1.0], [2.0]], ["a", "a"], [0, 1])
    assert alone.value == 1.5
    assert math.isnan(alone.low)
    assert crossed_means([[1.0], [4.0]], ["a", "b"], [0, 1], seed=3) == crossed_means([[1.0], [4.0]], ["a", "b"], [0, 1], seed=3)


def test_the_papers_test_of_two_detectors():
    test = chi_square_of_counts(CHOSEN_COUNTS[:2])
    assert (round(test.statistic, 2), test.freedom, round(test.p, 3)) == (CHOSEN_TEST[0], 1, CHOSEN_TEST[1])
    shares = [100 * count / sum(CHOSEN_COUNTS) for count in CHOSEN_COUNTS]
    assert shares == pytest.approx(CHOSEN_PERCENT, abs=0.1)
    assert round(shares[0], 1) == CHOSEN_PERCENT[0]


def test_no_other_counts_give_the_papers_test():
    found = []
    for total in range(20, 1301):
        # To within a tenth, because the second share is not rounded as usual.
        for a, b in ((a, b) for a in _near(38.2, total) for b in _near(28.6, total)):
            if round((a - b) ** 2 / (a + b), 2) == 8.10 and round(100 * a / total, 1) == 38.2:
                found.append((a, b, total))
    assert found == [(229, 172, 600)]


def _near(percent, total):
    middle = int(percent * total / 100)
    return [count for count in range(middle - 2, middle + 4) if abs(100 * count / total - percent) < 0.1]


def test_the_counts_of_table_5_give_its_numbers():
    for method, numbers in STUDY_TABLES["odam-table5"].rows.items():
        counts = CONFIDENCE_COUNTS[method]
        total = sum(counts)
        assert [100 * count / total for count in counts] == pytest.approx(numbers[:5], abs=0.0201)
        assert sum(step * count for step, count in enumerate(counts, 1)) / total == pytest.approx(numbers[5], abs=0.00501)
        assert 100 * RIGHT_COUNTS[method] / total == pytest.approx(numbers[6], abs=0.00501)


def test_the_ranks_of_table_4_are_ranks():
    table = STUDY_TABLES["odam-table4"].rows
    for numbers in table.values():
        assert sum(numbers[:4]) == pytest.approx(100, abs=0.2)
        assert sum(rank * share / 100 for rank, share in enumerate(numbers[:4], 1)) == pytest.approx(numbers[4], abs=0.06)
    for place in range(4):
        assert sum(numbers[place] for numbers in table.values()) == pytest.approx(100, abs=0.2)
