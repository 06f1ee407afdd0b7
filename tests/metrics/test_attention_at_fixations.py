"""NSS and AUC-Judd against SciPy's rank statistics and z-scores, and cases worked by hand."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import trapezoid

from metrics.test_attention import FIXATIONS, HEIGHT, WIDTH, case
from whybox.errors import WhyboxError
from whybox.metrics._fixations import fixated_pixels, fixation_map
from whybox.metrics.attention_auc import AttentionAuc, attention_auc
from whybox.metrics.attention_nss import AttentionNss, attention_nss

METRICS = [AttentionNss, AttentionAuc]


@pytest.fixture
def seen():
    """A map of few levels, so that there are ties, and pixels of which one is fixated twice."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(0, 12, (90,), generator=generator).double()
    return values, torch.tensor([3, 17, 17, 40, 41, 88])


def test_nss_is_the_mean_of_scipys_z_scores(seen):
    values, fixated = seen
    assert attention_nss(values, fixated).item() == pytest.approx(stats.zscore(values.numpy())[fixated.numpy()].mean())


def test_nss_by_hand():
    """Mean 2, variance (4 + 0 + 0 + 4) / 4 = 2: the heights are -2, 0, 0, 2 over the root of 2."""
    values = torch.tensor([0.0, 2, 2, 4], dtype=torch.float64)
    assert attention_nss(values, torch.tensor([3])).item() == pytest.approx(2**0.5)
    assert attention_nss(values, torch.tensor([3, 3, 1, 0])).item() == pytest.approx(2**0.5 / 4)


def test_auc_is_the_mann_whitney_statistic(seen):
    values, fixated = seen
    others = np.delete(values.numpy(), np.unique(fixated))
    pairs = stats.mannwhitneyu(values[fixated].numpy(), others).statistic
    assert attention_auc(values, fixated).item() == pytest.approx(pairs / (len(fixated) * len(others)))


def test_auc_is_the_area_under_the_whole_curve(seen):
    """Thresholds at every value of the map; the trapezoids of ties count half."""
    values, fixated = (part.numpy() for part in seen)
    others = np.delete(values, np.unique(fixated))
    at = [np.inf, *sorted(set(values), reverse=True)]
    hits = [(values[fixated] >= level).mean() for level in at]
    alarms = [(others >= level).mean() for level in at]
    assert attention_auc(*seen).item() == pytest.approx(trapezoid(hits, alarms))


def test_auc_by_hand():
    """Fixated 4 and 1, others 0, 1, 3: of 6 pairs, 4 wins three, 1 wins one and ties one."""
    values = torch.tensor([0.0, 1, 3, 4, 1], dtype=torch.float64)
    assert attention_auc(values, torch.tensor([3, 4])).item() == pytest.approx(4.5 / 6)
    assert attention_auc(values, torch.arange(5)).isnan()


def test_a_fixation_lies_on_the_pixel_that_it_is_in():
    points = torch.tensor([[2.99, 1.0, 0.2], [3.0, 0.5, 0.1], [-0.1, 2, 1], [4, 1, 1], [1, 1, 0], [torch.nan, 1, 1]])
    assert fixated_pixels(points, (3, 4)).tolist() == [1 * 4 + 2, 3]


@pytest.mark.parametrize("metric", METRICS)
def test_looking_where_the_map_is_beats_looking_elsewhere(metric):
    attention = fixation_map(FIXATIONS[0], (HEIGHT, WIDTH), 4.0)
    maps = torch.stack([attention, attention.roll((4, 5), (0, 1)), attention.max() - attention])
    best, near, inverted = metric()(maps, case([0, 0, 0])).values.tolist()
    assert best > near > inverted
    assert inverted == pytest.approx(metric.range[1] - best if metric is AttentionAuc else -best)


@pytest.mark.parametrize("metric", METRICS)
def test_raw_maps_of_any_scale_are_judged_alike(metric):
    maps = torch.rand((1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    tiny = metric()(maps * 1e-20 - 3e-21, case([0])).values
    torch.testing.assert_close(tiny, metric()(maps, case([0])).values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_compare_is_nan(metric):
    maps = torch.rand((6, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    maps[4], maps[5, 0, 0] = 0.1, torch.nan
    # Judged; no object; an object nobody looked at; one looked at outside the image; a constant map; a broken one.
    values = metric()(maps, case([0, -1, 1, 2, 0, 0])).values
    assert values.isnan().tolist() == [False, True, True, True, True, True]
    assert metric()(maps[:0], case([])).values.shape == (0,)
    with pytest.raises(WhyboxError, match="human attention needs annotated fixations"):
        metric()(maps[:1], case([-1], ()))
