"""ODAM-Train's two terms against values worked out by hand, and in their corners: zero maps, lone objects, many pairs."""

import math

import pytest
import torch

from whybox.errors import WhyboxError
from whybox.losses import OdamTrain
from whybox.losses.odam_train import odam_train_loss

MAPS = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[5.0, 12.0]], [[1.0, 0.0]]], dtype=torch.float64)
"""Cosines of the first with the others: 0.96, 63/65, 0.6."""
BOXES = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9], [8, 8, 20, 20], [30, 30, 40, 40]], dtype=torch.float64)
IOU = torch.tensor([0.8, 0.4, 0.9, 0.5], dtype=torch.float64)
OWNER = torch.tensor([0, 0, 1, 2])


def both(**options):
    given = {"maps": MAPS, "boxes": BOXES, "truth_iou": IOU, "owner": OWNER} | options
    return odam_train_loss(**given)


def log(value):
    return -math.log(value)


def test_the_papers_form_by_hand():
    """Three objects whose best predictions are 0, 2, 3: one pair of the same object, three times separated from the rest."""
    found = both(form="paper")
    # Cosines of 2 with 1 and 3, and of 3 with 1.
    apart = [63 / 65, 0.6, 63 / 65, 56 / 65, 5 / 13, 0.6, 0.8, 5 / 13]
    assert found.consistency.item() == pytest.approx(log(0.96) / 9, rel=1e-3)
    assert found.separation.item() == pytest.approx(sum(log(1 - value) for value in apart) / 9, rel=2e-3)


def test_the_reference_codes_form_by_hand():
    """Boxes 0 and 2, 1 and 2 overlap; the pair of each best prediction with itself counts, at the clamp's bound."""
    found = both(form="reference")
    alone = log(1 - 1e-4)
    pairs = 4 + 3  # (0,0), (0,1), (2,2), (3,3); 0 with 2, 2 with 0 and 1
    assert found.consistency.item() == pytest.approx((log(0.96) + 3 * alone) / pairs, rel=1e-9)
    apart = [63 / 65, 63 / 65, 56 / 65]
    assert found.separation.item() == pytest.approx(sum(log(1 - value) for value in apart) / pairs, rel=1e-9)
    weighted = both(form="reference", two_stage=True)
    assert weighted.consistency.item() == pytest.approx((0.5 * log(0.96) + 3 * alone) / pairs, rel=1e-9)


def test_boxes_that_share_the_border_pixel_overlap_in_the_reference():
    """Its pixels are counted from x1 to x2, both included."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [9.5, 0, 20, 9]])
    maps = torch.tensor([[1.0, 1], [1, 2]])
    iou, owner = torch.tensor([0.5, 0.5]), torch.tensor([0, 1])
    assert odam_train_loss(maps, boxes, iou, owner).separation > 0
    assert odam_train_loss(maps, boxes + torch.tensor([[0.0] * 4, [1, 0, 1, 0]]), iou, owner).separation == 0


def test_objects_whose_best_iou_is_zero_are_left_out_of_the_reference():
    iou = torch.tensor([0.0, 0.0, 0.9, 0.0], dtype=torch.float64)
    found = both(truth_iou=iou)
    assert found.separation.item() == pytest.approx((log(1 - 63 / 65) + log(1 - 56 / 65)) / 3)
    assert not both(truth_iou=torch.zeros(4, dtype=torch.float64)).consistency


@pytest.mark.parametrize("form", ["paper", "reference"])
@pytest.mark.parametrize("two_stage", [False, True])
def test_gradients_are_those_of_differences(form, two_stage):
    torch.manual_seed(1)
    maps = torch.rand(6, 2, 3, dtype=torch.float64, requires_grad=True)
    boxes, iou = torch.tensor([0.0, 0, 5, 5], dtype=torch.float64).expand(6, 4), torch.rand(6, dtype=torch.float64)
    owner, image = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 1])
    run = lambda maps: sum(odam_train_loss(maps, boxes, iou, owner, image, form=form, two_stage=two_stage))
    assert torch.autograd.gradcheck(run, maps)
    assert torch.autograd.gradgradcheck(run, maps)


@pytest.mark.parametrize("form", ["paper", "reference"])
@pytest.mark.parametrize("dead", [[0], [1], [0, 1, 2, 3]])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_zero_maps_and_tiny_ones_give_no_nan(form, dead, scale):
    maps = scale * MAPS.float()
    maps[dead] = 0
    maps.requires_grad_()
    loss = sum(both(maps=maps, form=form))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[dead].any()


def test_the_scale_of_a_map_does_not_matter():
    maps = MAPS * torch.tensor([1, 1e-20, 1e10, 3.0], dtype=torch.float64)[:, None, None]
    for one, other in zip(both(), both(maps=maps), strict=True):
        torch.testing.assert_close(one, other)


def test_orthogonal_maps_still_learn_in_the_papers_form():
    """Cosine 0 in a pair that should agree: the clamp of the reference stops the gradient, the paper's form does not."""
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    given = {"boxes": BOXES[:2], "truth_iou": IOU[:2], "owner": torch.zeros(2, dtype=torch.long)}
    for form, learns in (("paper", True), ("reference", False)):
        (gradient,) = torch.autograd.grad(odam_train_loss(maps, **given, form=form).consistency, maps)
        assert gradient.any() == learns


@pytest.mark.parametrize("form", ["paper", "reference"])
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare_is_zero_with_a_graph(form, count):
    maps = MAPS[:count].clone().requires_grad_()
    found = both(maps=maps, boxes=BOXES[:count], truth_iou=IOU[:count], owner=OWNER[:count], form=form)
    assert sum(found).item() == pytest.approx(count * (log(1 - 1e-4) if form == "reference" else 0))
    assert not torch.autograd.grad(sum(found), maps)[0].any()


TWO = {"owner": torch.tensor([0, 0, 1, 2]), "image": torch.tensor([0, 0, 1, 1])}


def test_a_batch_is_its_images_together():
    """The reference adds one-stage losses of images and averages two-stage ones over all pairs; nothing crosses images."""
    parts = [both(**{name: value[rows] for name, value in given().items()}) for rows in ([0, 1], [2, 3])]
    whole = both(**TWO)
    for i in range(2):
        assert whole[i].item() == pytest.approx(parts[0][i].item() + parts[1][i].item())
    for form, pairs in (("paper", [1, 2]), ("reference", [2, 2])):
        options = {"form": form, "two_stage": form == "reference"}
        parts = [both(**{name: value[rows] for name, value in given().items()}, **options) for rows in ([0, 1], [2, 3])]
        whole = both(**TWO, **options)
        for i in range(2):
            mean = (pairs[0] * parts[0][i].item() + pairs[1] * parts[1][i].item()) / sum(pairs)
            assert whole[i].item() == pytest.approx(mean)


def given():
    return {"maps": MAPS, "boxes": BOXES, "truth_iou": IOU, **TWO}


def test_the_number_of_pairs_has_a_limit():
    torch.manual_seed(0)
    maps, boxes = torch.rand(60, 20), torch.tensor([0.0, 0, 5, 5]).expand(60, 4)
    iou, owner = torch.rand(60), torch.arange(60) % 12
    run = lambda most, seed: sum(
        odam_train_loss(maps, boxes, iou, owner, form="paper", most_pairs=most, generator=torch.Generator().manual_seed(seed))
    ).item()
    every = run(None, 0)
    assert run(12 * 59, 1) == every
    some = [run(100, seed) for seed in range(30)]
    assert run(100, 3) == some[3]
    assert len(set(some)) == 30
    assert sum(some) / 30 == pytest.approx(every, rel=0.05), "a part is an unbiased estimate"


def test_options_are_checked_in_one_line():
    for wrong, message in (
        ({"form": "papr"}, "unknown form 'papr'; did you mean paper"),
        ({"order": "third"}, "unknown order 'third'"),
        ({"weight": -1.0}, "weight must not be negative, got -1"),
        ({"warmup": -1}, "warmup must not be negative"),
        ({"every": 0}, "every must be at least 1, got 0"),
    ):
        with pytest.raises(WhyboxError, match=message) as caught:
            OdamTrain(**wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(WhyboxError, match="unknown form"):
        both(form="mine")


def test_the_factor_follows_form_detector_and_step():
    assert [OdamTrain().factor(0, two_stage=two) for two in (False, True)] == [0.5, 0.2]
    assert [OdamTrain().factor(0, two_stage=False, images=count) for count in (1, 2, 8)] == [1, 0.5, 0.125]
    assert OdamTrain().factor(0, two_stage=True, images=8) == 0.2
    assert OdamTrain(form="paper").factor(0, two_stage=False, images=8) == 1
    assert [OdamTrain(form="paper").factor(0, two_stage=two) for two in (False, True)] == [1, 1]
    assert [OdamTrain(weight=4.0, warmup=3).factor(step, two_stage=True) for step in range(5)] == [1, 2, 3, 4, 4]
    assert [OdamTrain(every=3).due(step) for step in range(4)] == [True, False, False, True]
