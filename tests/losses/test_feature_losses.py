"""Feature imitation, PKD and MGD: by hand, against plain loops and other definitions, and their limits."""

import pytest
import torch

from losses.test_fgd import levels
from whybox.errors import WhyboxError
from whybox.losses import FeatureImitation, Mgd, Pkd
from whybox.losses.feature_imitation import feature_imitation_loss
from whybox.losses.mgd import GenerationBlock, mgd_loss, random_masks
from whybox.losses.pkd import pkd_loss


def same(features):
    return features


def blocks(channels=4):
    torch.manual_seed(0)
    return [GenerationBlock(channels).double() for _ in range(2)]


def masks(seed=0):
    return random_masks(levels(1), 0.5, torch.Generator().manual_seed(seed))


LOSSES = {
    "feature_imitation": feature_imitation_loss,
    "pkd": pkd_loss,
    "mgd": lambda student, teacher: mgd_loss(student, teacher, blocks(), masks()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_the_student_alone(name):
    student, teacher = ([level.requires_grad_() for level in levels(seed)] for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda *given: LOSSES[name](given, teacher), student)
    LOSSES[name](student, teacher).backward()
    assert all(level.grad is None for level in teacher)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_differ(name):
    with pytest.raises(WhyboxError, match="they must have the same shapes"):
        LOSSES[name](levels(1), levels(2, channels=3))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_summed_in_single(name):
    if name != "mgd":
        assert LOSSES[name]([level.half() for level in levels(1)], levels(2)).dtype == torch.float64
        assert LOSSES[name](*([level.half() for level in levels(seed)] for seed in (1, 2))).dtype == torch.float32


def test_imitation_by_hand():
    student = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0]]]])]
    teacher = [torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[2.0]]]])]
    assert feature_imitation_loss(student, teacher) == (0.5 + 9) / 2
    assert feature_imitation_loss(teacher, teacher) == 0


def test_pkd_is_one_minus_the_correlation():
    student, teacher = levels(1), levels(2)
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        rows = [
            torch.stack([a.flatten(), b.flatten()]) for a, b in zip(ours.transpose(0, 1), theirs.transpose(0, 1), strict=True)
        ]
        expected += sum(1 - float(torch.corrcoef(row)[0, 1]) for row in rows) / len(rows)
    assert pkd_loss(student, teacher).item() == pytest.approx(expected)


def test_pkd_does_not_see_scale_and_shift():
    student, teacher = levels(1), levels(2)
    assert torch.allclose(pkd_loss([3 * level + 1 for level in student], teacher), pkd_loss(student, teacher))
    assert pkd_loss([3 * level + 1 for level in teacher], teacher).abs() < 1e-12
    assert pkd_loss(teacher, teacher) == 0


def test_pkd_of_constant_channels():
    student = [torch.ones(1, 2, 1, 1, requires_grad=True)]
    loss = pkd_loss(student, [torch.zeros(1, 2, 1, 1)])
    assert loss == 0
    loss.backward()
    assert student[0].grad.isfinite().all()


def test_mgd_by_hand():
    student, teacher = [torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])], [torch.zeros(2, 1, 1, 2)]
    mask = [torch.tensor([[[True, False]], [[True, True]]])]
    assert mgd_loss(student, teacher, [same], mask) == (1 + 9 + 16) / 2
    assert mgd_loss(student, student, [same], [torch.ones(2, 1, 2)]) == 0


def test_mgd_sees_nothing_of_what_is_masked():
    student = [level.requires_grad_() for level in levels(1)]
    mgd_loss(student, levels(2), blocks(), masks()).backward()
    for level, mask in zip(student, masks(), strict=True):
        assert (level.grad.abs().sum(1) > 0).equal(mask)


def test_masks_are_drawn_with_their_share():
    drawn = random_masks([torch.zeros(4, 8, 50, 50)], 0.65, torch.Generator().manual_seed(0))[0]
    assert drawn.shape == (4, 50, 50)
    assert drawn.float().mean().item() == pytest.approx(0.35, abs=0.02)
    assert random_masks([torch.zeros(1, 1, 9, 9)], 0.0)[0].all()
    assert not random_masks([torch.zeros(1, 1, 9, 9)], 1.0)[0].any()


def test_constants_of_mgd():
    assert Mgd().factors(two_stage=False) == (2e-5, 0.65)
    assert Mgd(masked=0.0).factors(two_stage=True) == (5e-7, 0.0)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (FeatureImitation, {"weight": -1.0}, "weight must not be negative, got -1.0"),
        (Pkd, {"weight": -1.0}, "weight must not be negative, got -1.0"),
        (Mgd, {"weight": -1.0}, "weight must not be negative, got -1.0"),
        (Mgd, {"masked": 1.5}, r"masked must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options(made, options, message):
    with pytest.raises(WhyboxError, match=message):
        made(**options)
