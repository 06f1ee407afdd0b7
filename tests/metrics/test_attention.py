"""Comparison with human attention against SciPy, a linear programme, and cases worked by hand."""

import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linprog
from scipy.spatial.distance import jensenshannon

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.metrics._fixations import fixation_map
from whybox.metrics.attention_correlation import AttentionCorrelation, attention_correlation
from whybox.metrics.attention_cosine import AttentionCosine, attention_cosine
from whybox.metrics.attention_distance import AttentionDistance, attention_distance, cell_distances
from whybox.metrics.attention_divergence import AttentionDivergence, attention_divergence
from whybox.truth import Metric, MetricInput, Truth
from whybox.types import Detections

HEIGHT, WIDTH = 30, 40
METRICS = [AttentionCosine, AttentionCorrelation, AttentionDistance, AttentionDivergence]
FIXATIONS = (torch.tensor([[10.0, 8.0, 200.0], [14.0, 12.0, 350.0]]), None, torch.tensor([[-5.0, 3.0, 100.0]]))


def case(matched, fixations=FIXATIONS):
    count, objects = len(matched), len(fixations)
    boxes = torch.tensor([[0.0, 0, 20, 20]])
    none = torch.zeros(count, dtype=torch.long)
    names = tuple(str(i) for i in range(objects))
    labels = torch.zeros(objects, dtype=torch.long)
    truth = Truth(boxes.expand(objects, 4), labels, names, torch.zeros(objects, dtype=torch.bool), fixations=fixations)
    found = Detections(boxes.expand(count, 4), torch.ones(count), none, none)
    image = torch.zeros((3, HEIGHT, WIDTH))
    return MetricInput(image, Frame.same((HEIGHT, WIDTH)), found, truth, torch.tensor(matched, dtype=torch.long), none)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(6)
    maps = torch.rand((2, 6, 8), generator=generator, dtype=torch.float64)
    return maps, torch.rand((2, 6, 8), generator=generator, dtype=torch.float64).square()


def vectors(pair):
    return zip(*(maps.flatten(1).numpy() for maps in pair), strict=True)


def test_cosine_by_hand():
    maps = torch.tensor([[[3.0, 0.0, 4.0]]])
    attention = torch.tensor([[[4.0, 2.0, 4.0]]])
    assert attention_cosine(maps, attention).item() == pytest.approx(28 / 30)
    # Two are subtracted from what lies on a floor of two; below zero nothing counts.
    assert attention_cosine(maps + 2, attention).item() == pytest.approx(28 / 30)
    assert attention_cosine(maps + 2, attention, "zero").item() == pytest.approx(48 / (65**0.5 * 6))
    assert attention_cosine(maps - 3, attention).item() == pytest.approx(4 / 6)


def test_correlation_is_scipys(pair):
    expected = [stats.pearsonr(a, b).statistic for a, b in vectors(pair)]
    assert attention_correlation(*pair).tolist() == pytest.approx(expected)


def test_covariance_of_maps_with_mean_one(pair):
    expected = []
    for a, b in vectors(pair):
        a = a - a.min()
        expected.append(np.cov(a / a.mean(), b / b.mean(), bias=True)[0, 1])
    assert attention_correlation(*pair, "covariance").tolist() == pytest.approx(expected)
    finer = [maps.repeat_interleave(3, 1).repeat_interleave(3, 2) for maps in pair]
    assert attention_correlation(*finer, "covariance").tolist() == pytest.approx(expected)


@pytest.mark.parametrize("base", [2, "2", "e"])
def test_divergence_is_scipys_distance_squared(pair, base):
    number = np.e if base == "e" else 2
    expected = [jensenshannon(a, b, base=number) ** 2 for a, b in vectors(pair)]
    assert attention_divergence(*pair, base, "zero").tolist() == pytest.approx(expected)
    raised = [jensenshannon(a - a.min(), b, base=number) ** 2 for a, b in vectors(pair)]
    assert attention_divergence(*pair, base).tolist() == pytest.approx(raised)


def test_divergence_runs_from_equal_to_apart():
    left, right = torch.zeros((1, 2, 2)), torch.zeros((1, 2, 2))
    left[0, 0], right[0, 1] = 0.3, 7.0
    assert attention_divergence(left, left * 5).item() == 0
    assert attention_divergence(left, right).item() == pytest.approx(AttentionDivergence().range[1]) == 1
    assert attention_divergence(left, right, "e").item() == pytest.approx(np.log(2))
    assert AttentionDivergence("e").range[1] == pytest.approx(np.log(2))


def work_by_linear_programme(p, q, cost):
    """The transport plan T >= 0 with the margins p and q of the least sum T * cost."""
    count = len(p)
    down = np.kron(np.eye(count), np.ones(count))
    across = np.kron(np.ones(count), np.eye(count))
    return linprog(cost.ravel(), A_eq=np.vstack([down, across]), b_eq=np.concatenate([p, q])).fun


def test_distance_is_the_linear_programmes(pair):
    rows, columns = np.mgrid[0:6, 0:8] + 0.5
    centers = np.stack([rows.ravel(), columns.ravel()], 1)
    cost = np.linalg.norm(centers[:, None] - centers, axis=-1) / 10
    np.testing.assert_allclose(cell_distances((6, 8), (6, 8)).numpy(), cost)
    expected = [work_by_linear_programme(a / a.sum(), b / b.sum(), cost) for a, b in vectors(pair)]
    assert attention_distance(*pair, floor="zero").tolist() == pytest.approx(expected)
    raised = [work_by_linear_programme((a - a.min()) / (a - a.min()).sum(), b / b.sum(), cost) for a, b in vectors(pair)]
    assert attention_distance(*pair).tolist() == pytest.approx(raised)


def test_distance_on_a_coarse_grid(pair):
    coarse = [maps.reshape(2, 3, 2, 4, 2).sum((2, 4)) for maps in pair]
    cost = cell_distances((6, 8), (3, 4)).numpy()
    assert cost[0, 1] == pytest.approx(0.2)
    expected = [work_by_linear_programme(a / a.sum(), b / b.sum(), cost) for a, b in vectors(coarse)]
    assert attention_distance(*pair, grid=4, floor="zero").tolist() == pytest.approx(expected)


def test_distance_of_a_shift_is_its_length():
    here, there = torch.zeros((1, HEIGHT, WIDTH)), torch.zeros((1, HEIGHT, WIDTH))
    here[0, 4, 5], there[0, 28, 37] = 2.0, 0.1
    assert attention_distance(here, there, grid=40).item() == pytest.approx(40 / 50)
    assert attention_distance(here, here * 3, grid=40).item() == pytest.approx(0, abs=1e-12)


def test_without_the_package_a_line_says_what_to_install(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(WhyboxError, match=r"needs the package POT; pip install 'whybox\[attention\]'"):
        attention_distance(*pair)


@pytest.mark.parametrize("metric", METRICS)
def test_looking_where_the_map_is_beats_looking_elsewhere(metric):
    judge = metric(sigma_pixels=4.0)
    attention = fixation_map(FIXATIONS[0], (HEIGHT, WIDTH), 4.0)
    maps = torch.stack([attention, attention.roll((4, 5), (0, 1)), attention.max() - attention])
    best, near, inverted = judge(maps, case([0, 0, 0])).values.tolist()
    assert isinstance(judge, Metric)
    assert best == pytest.approx(1.0 if judge.higher_is_better else 0.0, abs=1e-6)
    assert best > near > inverted if judge.higher_is_better else best < near < inverted
    assert all(judge.range[0] <= value <= judge.range[1] + 1e-6 for value in (best, near, inverted))


@pytest.mark.parametrize("metric", METRICS)
def test_raw_maps_of_any_scale_are_judged_alike(metric):
    judge = metric(sigma_pixels=4.0)
    maps = torch.rand((1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    tiny = judge(maps * 1e-20, case([0])).values
    torch.testing.assert_close(tiny, judge(maps, case([0])).values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_compare_is_nan(metric):
    judge = metric(sigma_pixels=4.0)
    maps = torch.rand((6, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    maps[4], maps[5, 0, 0] = 0, torch.nan
    # Judged; no object; an object nobody looked at; one looked at outside the image; a blank map; a broken one.
    values = judge(maps, case([0, -1, 1, 2, 0, 0])).values
    assert values.isnan().tolist() == [False, True, True, True, True, True]
    assert judge(maps[:0], case([])).values.shape == (0,)
    with pytest.raises(WhyboxError, match="human attention needs annotated fixations"):
        judge(maps[:1], case([-1], ()))


def test_the_covariances_title_and_range_are_its_own():
    metric = AttentionCorrelation(scale="covariance")
    assert (metric.title, metric.range[1]) == ("Attention, covariance", np.inf)
    assert AttentionCorrelation().title == "Attention, correlation"


def test_mistaken_options_are_named():
    with pytest.raises(WhyboxError, match="unknown base '10'; known: 2, e"):
        AttentionDivergence(base=10)
    with pytest.raises(WhyboxError, match="unknown scale 'covarianc'; did you mean covariance"):
        AttentionCorrelation(scale="covarianc")
    with pytest.raises(WhyboxError, match="grid must be at least 2"):
        AttentionDistance(grid=1)
    with pytest.raises(WhyboxError, match="sigma_pixels must be positive"):
        AttentionCosine(sigma_pixels=-1.0)
