"""Model randomization: the curve against SciPy, its edge cases, and a model that explains itself by its weights."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.metrics.randomization import Randomization, randomization
from whybox.runs.evaluation.randomization import cascade
from whybox.truth import Metric, MetricInput, Truth
from whybox.types import Detections

SIZE = (16, 20)


def make_case(count, stages=None):
    none = torch.zeros(0, dtype=torch.long)
    found = torch.zeros(count, dtype=torch.long)
    truth = Truth(torch.zeros((0, 4)), none, (), none.bool())
    image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(9))
    detections = Detections(torch.zeros((count, 4)), torch.ones(count), found, found)
    return MetricInput(image, Frame.same(SIZE), detections, truth, found - 1, found, randomized=stages)


@pytest.fixture
def maps():
    return torch.randn((2, *SIZE), generator=torch.Generator().manual_seed(5))


def test_the_curve_is_scipys_rank_correlation_of_sizes(maps):
    stages = [maps + 0.5, -maps, maps.flip(1)]
    curves = randomization(maps, stages)
    for i in range(2):
        first = maps[i].abs().flatten().numpy()
        expected = [abs(stats.spearmanr(first, stage[i].abs().flatten().numpy()).statistic) for stage in stages]
        assert curves[i].tolist() == pytest.approx(expected, abs=2e-4)
    assert curves[:, 1].tolist() == pytest.approx([1.0, 1.0])


def test_the_value_is_the_mean_and_points_are_shares_of_stages(maps):
    stages = [("head", maps), ("neck", maps), ("stem", maps * 0), ("image", torch.full_like(maps, torch.nan))]
    result = Randomization()(maps, make_case(2, lambda: iter(stages)))
    assert result.at.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert result.curves[0, :3].tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert result.curves[:, 3].isnan().all()
    assert result.values.tolist() == pytest.approx([2 / 3, 2 / 3])


def test_a_blank_map_had_nothing_to_lose(maps):
    result = Randomization()(torch.zeros_like(maps), make_case(2, lambda: iter([("head", maps)])))
    assert result.values.isnan().all()


def test_upside_down_is_not_forgotten_by_ranks_and_is_by_structure():
    maps = torch.rand((1, *SIZE), generator=torch.Generator().manual_seed(5))
    assert randomization(maps, [1 - maps]).item() == pytest.approx(1.0)
    assert randomization(maps, [1 - maps], "ssim").item() < 0
    assert Randomization("ssim").range == (-1.0, 1.0)


def test_no_detection_and_no_stage(maps):
    result = Randomization()(maps[:0], make_case(0, lambda: iter([("head", maps[:0])] * 3)))
    assert result.values.shape == (0,)
    assert result.curves.shape == (0, 3)
    with pytest.raises(WhyboxError, match="at least one stage of random weights, got none"):
        Randomization()(maps, make_case(2, lambda: iter([])))
    with pytest.raises(WhyboxError, match="needs maps under random weights"):
        Randomization()(maps, make_case(2))


class Brightness(nn.Module):
    """Two layers; its explanation follows its weights, or, `blind`, the image alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 1, 3, padding=1)

    def explain(self, image, blind):
        return image.mean(0)[None] if blind else self.head(self.stem(image[None]).relu())[0].detach()


def stages_of(model, image, blind):
    with cascade(model) as steps:
        for name in steps:
            yield name, model.explain(image, blind)


def case_of(model, blind=False):
    case = make_case(1)
    return replace(case, randomized=lambda: stages_of(model, case.image, blind))


def test_a_map_of_the_image_alone_is_found_out():
    model, metric = Brightness(), Randomization()
    blind, seeing = (
        metric(model.explain(case.image, hidden), case).values.item()
        for hidden, case in ((True, case_of(model, True)), (False, case_of(model)))
    )
    assert isinstance(metric, Metric)
    assert blind == pytest.approx(1.0)
    assert seeing < 0.8
    assert metric.range[0] <= seeing <= metric.range[1]


def test_the_weights_come_back_when_the_comparison_fails():
    model = Brightness()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError) as kept:
        Randomization()(torch.rand((1, 3, 3)), case_of(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), kept


def test_a_mistaken_option_is_named():
    with pytest.raises(WhyboxError, match="unknown similarity 'pearson'"):
        Randomization(similarity="pearson")
