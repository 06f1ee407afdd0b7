"""ODAM-KD: the choice of predictions and its attentions by hand and against plain loops, and its limits."""

import math

import pytest
import torch

from losses.test_fgd import BOXES, SIZE, levels, some_blocks
from whybox.errors import WhyboxError
from whybox.losses import OdamKd
from whybox.losses.fgd import CONSTANTS, GcBlock, channel_attention, fgd_loss, spatial_attention
from whybox.losses.odam_kd import key_predictions, odam_kd_loss, top_down_attention, top_down_map


def places(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(count, generator=generator)
    owner = torch.randint(-1, 4, (count,), generator=generator)
    return draw(), draw(), draw() / 3, owner, torch.randint(0, 3, (count,), generator=generator)


def chosen_plainly(teacher_iou, student_iou, score, owner, level, most):
    chosen = set()
    rows = range(len(owner))
    for item in set(owner.tolist()) - {-1}:
        for floor in set(level.tolist()):
            of_item = [i for i in rows if owner[i] == item and level[i] == floor and teacher_iou[i] > 0.5]
            chosen |= set(sorted(of_item, key=lambda i: -teacher_iou[i])[:most])
    return chosen | {i for i in rows if score[i] > 0.1 and student_iou[i] < 0.5}


@pytest.mark.parametrize("most", [1, 2, 10])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_plain_loops(most, seed):
    given = places(seed=seed)
    found = key_predictions(*given, most=most)
    assert set(found.nonzero()[:, 0].tolist()) == chosen_plainly(*given, most)


def test_the_choice_by_hand():
    teacher_iou = torch.tensor([0.9, 0.8, 0.7, 0.4, 0.9, 0.0, 0.0])
    student_iou = torch.tensor([0.9, 0.6, 0.9, 0.9, 0.9, 0.2, 0.2])
    score = torch.tensor([0.9, 0.9, 0.0, 0.9, 0.0, 0.2, 0.05])
    owner, level = torch.tensor([0, 0, 0, 0, 1, -1, -1]), torch.tensor([0, 0, 1, 0, 0, 0, 0])
    # The best of object 0 on each level, that of object 1, and a confident prediction in the background.
    assert key_predictions(teacher_iou, student_iou, score, owner, level, most=1).tolist() == [
        *(True, False, True, False),
        *(True, True, False),
    ]


def test_nothing_to_choose_from():
    none, integers = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert key_predictions(none, none, none, integers, integers).shape == (0,)
    given = torch.zeros(3), torch.zeros(3), torch.zeros(3), -torch.ones(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    assert not key_predictions(*given).any()


def test_maps_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[-1.0, 3.0]]]])
    gradient = torch.tensor([[[[2.0, 0.0]], [[1.0, -1.0]]]])
    # Cells: 1*2 - 1*1 = 1 and 2*0 - 3*1 = -3; with the gradient's means 1 and 0: 1 and 2.
    assert top_down_map(features, gradient).tolist() == [[[1.0, 0.0]]]
    assert top_down_map(features, gradient, "gradcam").tolist() == [[[1.0, 2.0]]]


def test_attention_by_hand():
    teacher, student = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 4.0]], [[0.0, 0.0]]])
    low = 1 / (1 + math.exp((1 - 0.25) / 2))
    both = top_down_attention([teacher, student])
    assert torch.allclose(both[0], 2 * torch.tensor([[low, 1 - low]]))
    assert torch.equal(both[1], torch.ones(1, 2)), "a map of zeros says nothing"
    alone = top_down_attention([teacher], temperature=1.0, scale="mean")
    assert torch.allclose(alone[0, 0, 0] / alone[0, 0, 1], torch.tensor(2.0).exp())
    raw = top_down_attention([teacher], temperature=1.0, scale="none")
    assert torch.allclose(raw[0, 0, 0] / raw[0, 0, 1], torch.tensor(1.0).exp())
    tiny = top_down_attention([1e-30 * teacher, 1e-30 * student])
    assert torch.allclose(tiny, both)


def attention(seed=3):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(2, *grid, generator=generator).double() for grid in ((6, 8), (3, 4))]
    return [top_down_attention([level]) for level in maps]


def test_with_an_even_attention_and_all_objects_it_is_fgd():
    student, teacher, blocks = levels(1), levels(2), some_blocks()
    even = [torch.ones_like(level[:, 0]) for level in teacher]
    constants = CONSTANTS["fcos"]._asdict()
    assert torch.allclose(
        torch.stack(odam_kd_loss(student, teacher, even, [BOXES] * 2, SIZE, blocks, **constants)),
        torch.stack(fgd_loss(student, teacher, BOXES, SIZE, blocks, **constants)),
    )


@pytest.mark.parametrize("elsewhere", ["combined", "bottom_up"])
@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("distance", ["squared", "plain"])
def test_features_are_weighted_as_in_plain_loops(elsewhere, channels, distance):
    student, teacher, top_down = levels(1), levels(2), attention()
    focused = [BOXES, [BOXES[1], BOXES[0][:1]]]
    terms = odam_kd_loss(
        *(student, teacher, top_down, focused, SIZE),
        **{"background_attention": elsewhere, "channels": channels, "distance": distance},
    )
    inside = outside = 0.0
    for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        bottom_up, weight = spatial_attention(theirs, 0.5), channel_attention(theirs, 0.5)
        height, width = theirs.shape[2:]
        for image in range(2):
            mask = torch.zeros(height, width).double()
            for x1, y1, x2, y2 in focused[level][image].tolist():
                left, right = math.floor(x1 / 64 * width), math.ceil(x2 / 64 * width)
                top, bottom = math.floor(y1 / 48 * height), math.ceil(y2 / 48 * height)
                part = mask[top : bottom + 1, left : right + 1]
                part.clamp_(min=1 / ((bottom - top + 1) * (right - left + 1)))
            empty = int((mask == 0).sum())
            for y in range(height):
                for x in range(width):
                    gap = (ours - theirs)[image, :, y, x] ** 2
                    error = float((gap * weight[image]).sum() if channels else gap.sum())
                    error = math.sqrt(error) if distance == "plain" else error
                    low, high = float(bottom_up[image, y, x]), float(top_down[level][image, y, x])
                    inside += float(mask[y, x]) * low * high * error
                    if mask[y, x] == 0:
                        outside += low * (high if elsewhere == "combined" else 1) * error / empty
    assert terms.foreground.item() == pytest.approx(1e-3 * inside / 2)
    assert terms.background.item() == pytest.approx(5e-4 * outside / 2)


def test_images_that_are_left_out():
    given = levels(1), levels(2), attention(), [BOXES] * 2, SIZE
    none = odam_kd_loss(*given, used=[torch.zeros(2)] * 2)
    assert none.foreground == none.background == 0
    assert none.attention > 0
    first, second = (odam_kd_loss(*given, used=[torch.eye(2)[image]] * 2) for image in range(2))
    assert torch.allclose(first.background + second.background, odam_kd_loss(*given).background)


@pytest.mark.parametrize("distance", ["squared", "plain"])
def test_gradients(distance):
    student, teacher, blocks = [level.requires_grad_() for level in levels(1)], levels(2), some_blocks()

    def loss(*given):
        constants = {"foreground": 1.0, "background": 0.5, "attention": 0.7, "relation": 0.1}
        return sum(odam_kd_loss(given, teacher, attention(), [BOXES] * 2, SIZE, blocks, **constants, distance=distance))

    assert torch.autograd.gradcheck(loss, student)


@pytest.mark.parametrize("distance", ["squared", "plain"])
def test_a_student_like_its_teacher_has_no_loss_and_a_finite_gradient(distance):
    student = [level.requires_grad_() for level in levels(1)]
    new = [GcBlock(4).double() for _ in range(4)]
    loss = sum(odam_kd_loss(student, levels(1), attention(), [BOXES] * 2, SIZE, (new[:2], new[2:]), distance=distance))
    assert loss == 0
    loss.backward()
    assert all(level.grad.isfinite().all() for level in student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "grad"}, "unknown form 'grad'; did you mean"),
        ({"scale": "peek"}, "unknown scale 'peek'; did you mean peak"),
        ({"empty": "nothing"}, "unknown empty 'nothing'"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"sharpness": 0.0}, "sharpness must be positive, got 0.0"),
        ({"least_iou": 1.0}, r"least_iou must be in \[0, 1\), got 1.0"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"weight": -1.0}, "weight must not be negative, got -1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(WhyboxError, match=message):
        OdamKd(**options)
