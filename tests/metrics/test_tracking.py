"""What is left of an object among raw candidates, by cases worked by hand."""

import pytest
import torch

from whybox.metrics._tracking import counted, inside, overlaps, track_scores
from whybox.types import Candidates

SIZE = (100, 100)
WHOLE = [0.0, 0.0, 10.0, 10.0]


def found(boxes, scores, **more):
    scores = torch.tensor(scores)
    return Candidates(torch.tensor(boxes), scores, torch.zeros(len(scores), dtype=torch.long), **more)


def one(candidates, box=WHOLE, label=1, **options):
    return track_scores(candidates, torch.tensor([box]), torch.tensor([label]), SIZE, **options).item()


def test_class_takes_the_best_score_of_the_class_over_half_overlap():
    # IoU with the object: 1, 0.6, 0.4.
    boxes = [[0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 0, 10, 4]]
    candidates = found(boxes, [[0.9, 0.2], [0.1, 0.5], [0.1, 0.75]])
    assert one(candidates) == 0.5
    assert one(candidates, label=0) == pytest.approx(0.9)
    assert one(candidates, box=[50.0, 50, 60, 60]) == 0.0


def test_iou_x_probability_takes_the_best_product():
    boxes = [[0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 0, 10, 4]]
    candidates = found(boxes, [[0.9, 0.25], [0.1, 0.5], [0.1, 1.0]])
    assert one(candidates, score="iou_x_probability") == pytest.approx(0.4)
    # The class probability goes before a score that has a centerness in it: 1 x 0.8.
    apart = found(boxes, [[0.9, 0.25], [0.1, 0.5], [0.1, 1.0]], factors={"class": torch.tensor([[0.0, 0.8]] * 3)})
    assert one(apart, score="iou_x_probability") == pytest.approx(0.8)


def test_legacy_boxes_end_on_a_pixel():
    # 10 x 5 of 10 x 10: exactly one half, which is not above it; as pixels 11 x 6 of 11 x 11 = 0.545.
    candidates = found([[0.0, 0, 10, 5]], [[0.0, 0.75]])
    assert one(candidates) == 0.0
    assert one(candidates, legacy_iou=True) == 0.75
    assert one(candidates, score="iou_x_probability") == pytest.approx(0.75 / 2)
    assert one(candidates, score="iou_x_probability", legacy_iou=True) == pytest.approx(0.75 * 66 / 121)


def test_every_class_may_have_a_box_of_its_own():
    boxes = torch.zeros((2, 2, 4))
    boxes[0, 1] = torch.tensor(WHOLE)
    boxes[1, 0] = torch.tensor(WHOLE)
    candidates = Candidates(boxes, torch.tensor([[0.25, 0.5], [0.125, 0.75]]), torch.zeros(2, dtype=torch.long))
    both = track_scores(candidates, torch.tensor([WHOLE, WHOLE]), torch.tensor([0, 1]), SIZE)
    assert both.tolist() == [0.125, 0.5]


def test_floor_and_most_choose_among_all_classes():
    probability = torch.tensor([[0.04, 0.06], [0.5, 0.3], [0.9, 0.05]])
    candidates = found([WHOLE] * 3, [[0.99, 0.2], [0.5, 0.3], [0.9, 0.6]], factors={"class": probability})
    assert counted(candidates, 0.05, None).tolist() == [[False, True], [True, True], [True, False]]
    assert counted(candidates, 0.05, 2).tolist() == [[False, False], [True, False], [True, False]]
    assert one(candidates) == pytest.approx(0.6)
    assert one(candidates, floor=0.05) == pytest.approx(0.3)
    assert one(candidates, floor=0.05, most=3) == pytest.approx(0.3)
    assert one(candidates, floor=0.05, most=2) == 0.0
    assert one(candidates, most=100) == pytest.approx(0.6)


def test_what_lies_beyond_the_image_is_cut_off_before_boxes_are_compared():
    candidates = found([[-30.0, -10, 10, 10]], [[0.0, 0.5]])
    assert one(candidates) == 0.5
    assert one(candidates, box=[-80.0, 0, 10, 10]) == 0.5
    assert one(candidates, box=[120.0, 0, 140, 10]) == 0.0
    assert inside(torch.tensor([[-5.0, 3, 140, 20]]), (10, 100)).tolist() == [[0, 3, 100, 10]]


def test_boxes_with_places_of_their_own_are_torchvisions():
    from torchvision.ops import box_iou

    corners = torch.rand((2, 3, 7, 2), generator=torch.Generator().manual_seed(0)).cumsum(0).unbind(0)
    places = torch.cat(corners, -1)
    boxes = places[:, 2]
    assert torch.equal(overlaps(boxes, places).argmax(1), torch.full((3,), 2))
    torch.testing.assert_close(overlaps(boxes, places)[1], box_iou(boxes[1:2], places[1])[0])
    torch.testing.assert_close(overlaps(boxes, places[0]), box_iou(boxes, places[0]))


@pytest.mark.parametrize("score", ["class", "iou_x_probability"])
def test_nothing_found_or_nothing_asked(score):
    nothing = Candidates(torch.zeros((0, 4)), torch.zeros((0, 2)), torch.zeros(0, dtype=torch.long))
    assert one(nothing, score=score) == 0.0
    assert one(nothing, score=score, floor=0.05, most=5) == 0.0
    asked = track_scores(found([WHOLE], [[0.5, 0.5]]), torch.zeros((0, 4)), torch.zeros(0, dtype=torch.long), SIZE)
    assert asked.shape == (0,)
