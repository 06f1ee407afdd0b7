"""Intervals and tests held to scipy, to every way of drawing or flipping, and to numbers worked by hand."""

from inspect import signature
from itertools import product
from statistics import mean

import numpy as np
import pytest
from scipy import stats

from whybox.ops.corrections import holm
from whybox.runs import statistics
from whybox.runs.statistics import bootstrap_mean, bootstrap_means, paired_difference, seed_difference, sign_flip_p

RANDOM = "rng" if "rng" in signature(stats.bootstrap).parameters else "random_state"
"""What scipy calls its generator; before 1.15 otherwise."""


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def clustered(rng, images=80, spread=1.0):
    """Values of objects in images of different sizes, where the objects of an image are alike."""
    sizes = rng.integers(1, 9, images)
    names = np.repeat([f"{i:03}.jpg" for i in range(images)], sizes)
    return np.repeat(rng.normal(0.4, spread, images), sizes) + rng.normal(0, 0.1, len(names)), names


def test_one_object_an_image_is_scipys_bootstrap(rng):
    values = rng.exponential(1.0, 300)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", **{RANDOM: rng}).confidence_interval
    found = bootstrap_mean(values, np.arange(300), draws=20_000)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_images_are_drawn_whole():
    """Two images with the values 0, 0, 0 and 4: a draw is 0, 1 or 4, with the chances 1/4, 1/2, 1/4."""
    values, images = [0.0, 0.0, 0.0, 4.0], ["a", "a", "a", "b"]
    found = bootstrap_mean(values, images)
    assert found == (1.0, 0.0, 4.0)
    assert bootstrap_mean(values, images, level=0.4) == (1.0, 1.0, 1.0)


def test_the_interval_is_that_of_every_possible_draw(rng):
    values, images = rng.normal(size=9), np.array([0, 0, 1, 2, 2, 2, 3, 3, 4])
    every = [mean(np.concatenate([values[images == i] for i in draw]).tolist()) for draw in product(range(5), repeat=5)]
    low, high = np.quantile(every, [0.1, 0.9])
    found = bootstrap_mean(values, images, draws=40_000, level=0.8)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_likeness_inside_images_widens_the_interval(rng):
    values, images = clustered(rng)
    whole, apart = bootstrap_mean(values, images), bootstrap_mean(values, np.arange(len(values)))
    assert whole.high - whole.low > 1.5 * (apart.high - apart.low)


def test_intervals_hold_the_truth_about_as_often_as_they_say(rng):
    """200 samples of a mean of 0.4: 95 % of 200 is 190, the standard deviation of that count 3."""
    held = 0
    for _ in range(200):
        found = bootstrap_mean(*clustered(rng), draws=400)
        held += found.low <= 0.4 <= found.high
    assert 178 <= held <= 199


def test_the_same_seed_gives_the_same_interval_and_another_does_not(rng):
    values, images = clustered(rng)
    assert bootstrap_mean(values, images, seed=3) == bootstrap_mean(values, images, seed=3)
    assert bootstrap_mean(values, images, seed=3).low != bootstrap_mean(values, images, seed=4).low


def test_small_blocks_change_nothing_but_the_draws(rng, monkeypatch):
    values, images = clustered(rng)
    whole, p = bootstrap_mean(values, images, draws=20_000), sign_flip_p(values - 0.1, images)
    monkeypatch.setattr(statistics, "BLOCK", 1000)
    assert bootstrap_mean(values, images, draws=20_000) == pytest.approx(whole, abs=0.02)
    assert sign_flip_p(values - 0.1, images) == pytest.approx(p, abs=0.01)


def test_values_that_are_not_there_are_left_out(rng):
    values, images = clustered(rng)
    holes = np.insert(values, [0, 7, 7], np.nan)
    wider = np.insert(images, [0, 7, 7], ["no value here", images[7], images[7]])
    assert bootstrap_mean(holes, wider) == bootstrap_mean(values, images)


def test_nothing_to_go_by():
    assert np.isnan(bootstrap_mean([], [])).all()
    assert np.isnan(bootstrap_mean([np.nan, np.nan], ["a", "b"])).all()
    alone = bootstrap_mean([1.0, 3.0], ["a", "a"])
    assert alone.mean == 2
    assert np.isnan([alone.low, alone.high]).all()
    assert np.isnan(paired_difference([], [], [])).all()


def test_columns_are_the_same_as_one_by_one_where_all_have_values(rng):
    values, images = clustered(rng)
    table = np.stack([values, values**2, np.ones_like(values)], 1)
    found = bootstrap_means(table, images)
    for i in range(3):
        assert bootstrap_mean(table[:, i], images) == pytest.approx((found.mean[i], found.low[i], found.high[i]))
    assert (found.mean[2], found.low[2], found.high[2]) == pytest.approx((1, 1, 1))


def test_a_column_with_few_values_among_full_ones():
    """The second column is known in one of three images: draws without it say nothing about it."""
    table = [[1.0, np.nan, np.nan], [2.0, 5.0, np.nan], [3.0, np.nan, np.nan]]
    found = bootstrap_means(table, ["a", "b", "c"])
    assert (found.mean[1], found.low[1], found.high[1]) == (5, 5, 5)
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()
    assert found.low[0] < found.mean[0] == 2 < found.high[0]


def test_clusters_must_be_as_many_as_values():
    with pytest.raises(ValueError, match="one cluster per value"):
        bootstrap_mean([1.0, 2.0], ["a"])


def test_few_images_get_the_exact_p_of_all_flips(rng):
    differences, images = rng.normal(0.5, 1, 12), np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 6])
    sums = [differences[images == i].sum() for i in range(7)]
    every = [abs(sum(sign * one for sign, one in zip(signs, sums, strict=True))) for signs in product((-1, 1), repeat=7)]
    expected = mean(int(one >= abs(sum(sums)) - 1e-9) for one in every)
    assert sign_flip_p(differences, images) == expected
    assert sign_flip_p(differences, images, flips=100) == pytest.approx(expected, abs=0.15), "drawn, as 2**7 > 100"


def test_all_differences_alike_in_sign_is_the_smallest_p():
    assert sign_flip_p([1.0, 2.0, 3.0], [0, 1, 2]) == 2 / 2**3
    assert sign_flip_p([1.0, 2.0, 3.0], [0, 0, 0]) == 1, "one image is one witness"
    assert sign_flip_p([0.0, 0.0], [0, 1]) == 1
    assert sign_flip_p(np.ones(40), np.arange(40), flips=999) == 1 / 1000


def test_one_object_an_image_is_scipys_permutation_test(rng):
    differences = rng.normal(0.2, 1, 60)
    theirs = stats.permutation_test(
        (differences, np.zeros(60)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=20_000, **{RANDOM: rng}
    )
    assert sign_flip_p(differences, np.arange(60)) == pytest.approx(theirs.pvalue, abs=0.015)


def test_p_values_of_no_difference_are_spread_evenly(rng):
    """Ignoring the images would put far more than a tenth of them below 0.1."""
    found = []
    for _ in range(200):
        values, images = clustered(rng)
        found.append(sign_flip_p(values - 0.4, images, flips=400))
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert 6 <= sum(p < 0.1 for p in found) <= 36


def test_a_difference_has_the_interval_of_its_pairs(rng):
    values, images = clustered(rng)
    other = values + rng.normal(-0.3, 0.2, len(values))
    other[5] = np.nan
    found = paired_difference(values, other, images)
    assert found[:3] == bootstrap_mean(values - other, images)
    assert found.p == sign_flip_p(np.delete(values - other, 5), np.delete(images, 5))
    assert found.low > 0.2
    assert found.p == 1 / (1 + statistics.FLIPS)
    turned = paired_difference(other, values, images)
    assert (turned.mean, turned.p) == pytest.approx((-found.mean, found.p))


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.6."""
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.5, 0.7, 0.6]) == pytest.approx([1, 1, 1])
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([]).shape == (0,)


def test_holm_never_lets_a_later_p_fall_below_an_earlier_one():
    """0.010 * 3 = 0.030; 0.011 * 2 = 0.022, raised to 0.030; 0.04 * 1 stays."""
    assert holm([0.010, 0.011, 0.04]) == pytest.approx([0.030, 0.030, 0.04])


def test_holm_does_not_count_what_could_not_be_tested():
    assert holm([np.nan, 0.02, np.nan, 0.03]) == pytest.approx([np.nan, 0.04, np.nan, 0.04], nan_ok=True)


def test_seed_differences_are_scipys_paired_t(rng):
    first, second = rng.normal(1, 2, 5), rng.normal(0, 2, 5)
    for level in (0.95, 0.8):
        theirs = stats.ttest_rel(first, second).confidence_interval(level)
        found = seed_difference(first, second, level=level)
        assert found.mean == pytest.approx((first - second).mean())
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_the_smallest_difference_is_seen_in_four_of_five_studies(rng):
    """Five seeds, standard deviation 1: (2.776 + .941) / sqrt(5) = 1.66 from the table of t; the power at that truth is .8."""
    standard = np.array([-1, -1, 0, 1, 1]) / np.std([-1, -1, 0, 1, 1], ddof=1)
    smallest = seed_difference(standard, np.zeros(5)).detectable
    assert smallest == pytest.approx((2.776 + 0.941) / np.sqrt(5), abs=0.001)
    studies = rng.normal(smallest, 1, (4000, 5))
    seen = np.mean([stats.ttest_1samp(study, 0).pvalue < 0.05 for study in studies])
    assert seen == pytest.approx(0.8, abs=0.05), "exact is the non-central t; the formula is near to it"


def test_few_seeds_have_no_interval():
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert seed_difference([2.0], [0.5]) == (1.5, nan, nan, nan)
    assert seed_difference([], []) == (nan, nan, nan, nan)
    assert seed_difference([1, 2, np.nan], [0, 0, 5]) == seed_difference([1, 2], [0, 0])
