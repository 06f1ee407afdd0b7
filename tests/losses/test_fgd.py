"""FGD against plain loops over cells, against numbers worked out by hand, and its limits."""

import math

import pytest
import torch

from whybox.errors import WhyboxError
from whybox.losses import Fgd
from whybox.losses.fgd import (
    CONSTANTS,
    FgdConstants,
    GcBlock,
    box_masks,
    channel_attention,
    constants_of,
    fgd_loss,
    spatial_attention,
)

BOXES = [torch.tensor([[3.0, 5, 30, 40], [10, 10, 14, 13], [50, 2, 64, 47]]).double(), torch.zeros(0, 4).double()]
SIZE = (48, 64)


def levels(seed, channels=4):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(2, channels, *grid, generator=generator).double() for grid in ((6, 8), (3, 4))]


def softmax(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [len(values) * power / sum(powers) for power in powers]


def attentions(feature, temperature):
    """Of one image, as nested lists."""
    count, height, width = len(feature), len(feature[0]), len(feature[0][0])
    cells = [(y, x) for y in range(height) for x in range(width)]
    space = softmax([sum(abs(feature[k][y][x]) for k in range(count)) / count for y, x in cells], temperature)
    channel = softmax([sum(abs(feature[k][y][x]) for y, x in cells) / len(cells) for k in range(count)], temperature)
    return dict(zip(cells, space, strict=True)), channel


def with_context(block, feature):
    """The block's result of one image, cell by cell."""
    weights = {name: value.tolist() for name, value in block.state_dict().items()}
    count, cells = len(feature), [(y, x) for y in range(len(feature[0])) for x in range(len(feature[0][0]))]
    scores = [
        sum(weights["attend.weight"][0][k][0][0] * feature[k][y][x] for k in range(count)) + weights["attend.bias"][0]
        for y, x in cells
    ]
    share = [value / len(cells) for value in softmax(scores, 1)]
    context = [sum(part * feature[k][y][x] for part, (y, x) in zip(share, cells, strict=True)) for k in range(count)]
    hidden = [
        sum(row[k][0][0] * context[k] for k in range(count)) + bias
        for row, bias in zip(weights["narrow.weight"], weights["narrow.bias"], strict=True)
    ]
    mean = sum(hidden) / len(hidden)
    spread = math.sqrt(sum((value - mean) ** 2 for value in hidden) / len(hidden) + 1e-5)
    gain, shift = weights["norm.weight"], weights["norm.bias"]
    hidden = [max(0, (v - mean) / spread * g[0][0] + s[0][0]) for v, g, s in zip(hidden, gain, shift, strict=True)]
    added = [
        sum(row[j][0][0] * hidden[j] for j in range(len(hidden))) + bias
        for row, bias in zip(weights["widen.weight"], weights["widen.bias"], strict=True)
    ]
    return [
        [[feature[k][y][x] + added[k] for x in range(len(feature[0][0]))] for y in range(len(feature[0]))] for k in range(count)
    ]


def plain(student, teacher, boxes, size, blocks, constants):
    total = [0.0, 0.0, 0.0, 0.0]
    for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        for image in range(len(ours)):
            s, t = ours[image].tolist(), theirs[image].tolist()
            space, channel = attentions(t, constants.temperature)
            own_space, own_channel = attentions(s, constants.temperature)
            mask = dict.fromkeys(space, 0.0)
            height, width = len(t[0]), len(t[0][0])
            for x1, y1, x2, y2 in boxes[image].tolist():
                left, right = math.floor(x1 / size[1] * width), math.ceil(x2 / size[1] * width)
                top, bottom = math.floor(y1 / size[0] * height), math.ceil(y2 / size[0] * height)
                for y, x in mask:
                    if top <= y <= bottom and left <= x <= right:
                        mask[y, x] = max(mask[y, x], 1 / ((bottom - top + 1) * (right - left + 1)))
            outside = sum(value == 0 for value in mask.values())
            for (y, x), value in mask.items():
                error = sum(channel[k] * (s[k][y][x] - t[k][y][x]) ** 2 for k in range(len(t))) * space[y, x]
                total[0] += constants.foreground * value * error
                total[1] += constants.background * error / outside if value == 0 else 0
            total[2] += constants.attention * sum(abs(own_space[cell] - space[cell]) for cell in space)
            total[2] += constants.attention * sum(abs(a - b) for a, b in zip(own_channel, channel, strict=True))
            s, t = with_context(blocks[0][level], s), with_context(blocks[1][level], t)
            total[3] += constants.relation * sum((s[k][y][x] - t[k][y][x]) ** 2 for k in range(len(t)) for y, x in space)
    return [value / len(student[0]) for value in total]


def some_blocks(seed=0, channels=4):
    """With random weights, also where a new block has zeros."""
    torch.manual_seed(seed)
    made = tuple([GcBlock(channels).double() for _ in range(2)] for _ in range(2))
    for block in (*made[0], *made[1]):
        for weight in block.parameters():
            torch.nn.init.normal_(weight, std=0.7)
    return made


@pytest.mark.parametrize("detector", CONSTANTS)
def test_it_is_what_plain_loops_give(detector):
    student, teacher, blocks = levels(1), levels(2), some_blocks()
    constants = CONSTANTS[detector]
    terms = fgd_loss(student, teacher, BOXES, SIZE, blocks, **constants._asdict())
    expected = plain(student, teacher, BOXES, SIZE, blocks, constants)
    assert all(value > 0 for value in expected)
    assert torch.allclose(torch.stack(terms), torch.tensor(expected).double(), rtol=1e-9)


def test_masks_by_hand():
    # Cells of 8 pixels: the box ends at 2.5 and 1.25 cells, which are covered to 3 and 2, both included: 4 by 3 cells.
    masks = box_masks([torch.tensor([[4.0, 0, 20, 10]]), torch.zeros(0, 4)], (32, 48), (4, 6))
    expected = torch.zeros(4, 6)
    expected[:3, :4] = 1 / 12
    assert torch.allclose(masks.foreground[0], expected)
    assert torch.allclose(masks.background[0], (expected == 0) / 12)
    assert masks.foreground[1].sum() == 0
    assert torch.allclose(masks.background[1], torch.full((4, 6), 1 / 24))
    whole = box_masks([torch.tensor([[0.0, 0, 48, 32]])], (32, 48), (4, 6))
    assert torch.allclose(whole.foreground, torch.full((1, 4, 6), 1 / 35)), "of the whole box, with what lies outside"
    assert whole.background.sum() == 0


def test_the_smaller_of_two_boxes_counts():
    large, small = torch.tensor([0.0, 0, 30, 30]), torch.tensor([8.0, 8, 15, 15])
    masks = box_masks([torch.stack([large, small])], (32, 32), (4, 4))
    assert masks.foreground[0, 1, 1] == pytest.approx(1 / 4)
    assert masks.foreground[0, 0, 0] == pytest.approx(1 / 25)


def test_attentions_by_hand():
    features = torch.tensor([[[[1.0, -3.0]], [[0.0, 2.0]]]])
    # Means over channels .5 and 2.5, over cells 2 and 1; T is 2.
    share = 1 / (1 + math.exp(-1))
    assert torch.allclose(spatial_attention(features, 2.0), 2 * torch.tensor([[[1 - share, share]]]))
    share = 1 / (1 + math.exp(-0.5))
    assert torch.allclose(channel_attention(features, 2.0), 2 * torch.tensor([[share, 1 - share]]))


def test_a_single_cell_by_hand():
    one = lambda value: [torch.full((1, 1, 1, 1), value)]
    terms = fgd_loss(one(5.0), one(2.0), [torch.tensor([[0.0, 0, 8, 8]])], (8, 8), foreground=0.1, attention=1.0)
    # One cell: attention 1 in both networks; the box counts 2 by 2 cells.
    assert terms.foreground == pytest.approx(0.1 * 9 / 4)
    assert (terms.background, terms.attention, terms.relation) == (0, 0, 0)


def test_gradients():
    student, teacher, blocks = levels(1), levels(2), some_blocks()
    leaves = [level.requires_grad_() for level in student]
    blocks[1][0].widen.weight.requires_grad_()

    def loss(*given):
        return sum(fgd_loss(given, teacher, BOXES, SIZE, blocks, foreground=1.0, background=0.5, attention=0.7, relation=0.1))

    assert torch.autograd.gradcheck(loss, leaves)
    loss(*leaves).backward()
    assert all(weight.grad is not None for part in blocks for block in part for weight in block.parameters())
    assert blocks[1][0].widen.weight.grad.abs().sum() > 0, "the teacher's blocks are trained, too"


def test_the_teacher_gets_no_gradient():
    teacher = [level.requires_grad_() for level in levels(2)]
    sum(fgd_loss([level.requires_grad_() for level in levels(1)], teacher, BOXES, SIZE, some_blocks())).backward()
    assert all(level.grad is None for level in teacher)


def test_a_student_like_its_teacher_has_no_loss():
    student, blocks = levels(1), some_blocks()
    assert sum(fgd_loss(student, levels(1), BOXES, SIZE, (blocks[0], blocks[0]))) == 0
    new = [GcBlock(4).double() for _ in range(4)]
    assert sum(fgd_loss(student, levels(1), BOXES, SIZE, (new[:2], new[2:]))) == 0, "new blocks add nothing"


def test_images_without_objects_are_background():
    none = [torch.zeros(0, 4).double()] * 2
    terms = fgd_loss([level.requires_grad_() for level in levels(1)], levels(2), none, SIZE)
    assert terms.foreground == 0
    assert terms.background > 0
    assert sum(terms).requires_grad


def test_half_precision_is_summed_in_single():
    terms = fgd_loss([level.bfloat16() for level in levels(1)], [level.half() for level in levels(2)], BOXES, SIZE)
    assert all(term.dtype == torch.float64 or term.dtype == torch.float32 for term in terms)
    exact = fgd_loss(levels(1), levels(2), BOXES, SIZE)
    assert sum(terms).item() == pytest.approx(sum(exact).item(), rel=0.02)


def test_constants_of_a_detector_but_for_those_given():
    assert Fgd().constants("faster_rcnn") == CONSTANTS["faster_rcnn"]
    assert Fgd(temperature=1.0, relation=0.0).constants("fcos") == FgdConstants(1.0, 1.6e-3, 8e-4, 8e-4, 0.0)
    with pytest.raises(WhyboxError, match="unknown detector 'fcoz'; did you mean fcos"):
        constants_of("fcoz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"foreground": -1.0}, "foreground must not be negative, got -1.0"),
        ({"weight": -1.0}, "weight must not be negative, got -1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(WhyboxError, match=message):
        Fgd(**options)


def test_shapes_that_differ():
    with pytest.raises(WhyboxError, match="they must have the same shapes"):
        fgd_loss(levels(1), levels(2)[:1], BOXES, SIZE)
    with pytest.raises(WhyboxError, match="they must have the same shapes"):
        fgd_loss([], [], BOXES, SIZE)
