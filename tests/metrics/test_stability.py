"""Stability: what noise the image gets, and what is made of the maps."""

import pytest
import torch
from scipy import stats

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.metrics.stability import Stability, stability
from whybox.truth import Metric, MetricInput, Truth
from whybox.types import Detections

SIZE = (16, 20)


def make_case(redraw, count=2, seed=3):
    none = torch.zeros(0, dtype=torch.long)
    found = torch.zeros(count, dtype=torch.long)
    truth = Truth(torch.zeros((0, 4)), none, (), none.bool())
    image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(9))
    detections = Detections(torch.zeros((count, 4)), torch.ones(count), found, found)
    return MetricInput(image, Frame.same(SIZE), detections, truth, found - 1, torch.arange(count) + seed, redraw=redraw)


def two_maps(image):
    """One map that follows the image, one that noise changes completely."""
    return torch.stack([image.mean(0), (image[0] * 1e4).sin()])


def test_the_noise_is_small_clipped_and_of_the_stated_width():
    seen = []
    image = torch.full((3, 60, 60), 0.5)
    image[0] = 0.0
    stability(torch.rand((1, 60, 60)), image, lambda x: seen.append(x) or x[:1], torch.Generator(), draws=3, sigma=0.1)
    changed = torch.stack(seen)
    assert changed.shape == (3, 3, 60, 60)
    assert (changed[:, 1:] - 0.5).std() == pytest.approx(0.1, rel=0.03)
    assert changed.min() == 0.0
    assert (changed[:, 0] == 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(changed[0], changed[1])


def test_the_value_is_scipys_rank_correlation_averaged_over_draws():
    drawn = []

    def redraw(image):
        drawn.append(two_maps(image))
        return drawn[-1]

    case = make_case(redraw)
    maps = two_maps(case.image)
    result = Stability(draws=3)(maps, case)
    for i in range(2):
        first = maps[i].flatten().numpy()
        alike = [stats.spearmanr(first, one[i].flatten().numpy()).statistic for one in drawn]
        assert result.values[i].item() == pytest.approx(sum(alike) / 3, abs=2e-4)
    assert len(drawn) == 3
    assert result.values[0] > 0.95 > 0.2 > abs(result.values[1])


def test_a_map_that_noise_cannot_change_is_stable_and_its_opposite_is_not():
    maps = torch.rand((2, *SIZE), generator=torch.Generator().manual_seed(1))
    metric = Stability()
    assert isinstance(metric, Metric)
    assert metric(maps, make_case(lambda image: maps)).values.tolist() == pytest.approx([1.0, 1.0])
    assert metric(maps, make_case(lambda image: -maps)).values.tolist() == pytest.approx([-1.0, -1.0])
    assert Stability(similarity="ssim")(maps, make_case(lambda image: maps)).values.tolist() == pytest.approx([1.0, 1.0])


def test_the_first_detections_seed_decides():
    case, same, other = make_case(two_maps), make_case(two_maps), make_case(two_maps, seed=4)
    maps = two_maps(case.image)
    assert torch.equal(Stability()(maps, case).values, Stability()(maps, same).values)
    assert not torch.equal(Stability()(maps, case).values, Stability()(maps, other).values)


def test_blank_lost_and_broken_maps():
    maps = torch.rand((4, *SIZE), generator=torch.Generator().manual_seed(1))
    redrawn = maps.clone()
    maps[0], redrawn[1], redrawn[2, 0, 0] = 0, 0.4, torch.nan
    values = Stability(draws=2)(maps, make_case(lambda image: redrawn, count=4)).values
    assert values.isnan().tolist() == [True, False, True, False]
    assert values[1] == 0


def test_no_detection_draws_nothing():
    drawn = []
    result = Stability()(torch.zeros((0, *SIZE)), make_case(drawn.append, count=0))
    assert result.values.shape == (0,)
    assert drawn == []


def test_inputs_that_cannot_draw_again_is_refused():
    with pytest.raises(WhyboxError, match="stability needs inputs that can draw the maps again"):
        Stability()(torch.zeros((2, *SIZE)), make_case(None))


def test_mistaken_options_are_named():
    with pytest.raises(WhyboxError, match="draws of 1 or more and a positive sigma, got 0 and"):
        Stability(draws=0)
    with pytest.raises(WhyboxError, match="positive sigma, got 4 and 0"):
        Stability(sigma=0)
    with pytest.raises(WhyboxError, match="unknown similarity 'rank'"):
        Stability(similarity="rank")
