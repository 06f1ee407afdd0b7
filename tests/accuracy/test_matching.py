"""Which detection finds which person, and which counts neither way."""

import numpy as np
import pytest
import torch

from whybox.accuracy._matching import CrowdImage, compare_crowd, rank_crowd
from whybox.errors import WhyboxError

SIZE = (100, 120)


def compare(boxes, scores, people, ignore=None):
    truth = {"boxes": np.array(people, dtype=float).reshape(-1, 4), "size": SIZE}
    if ignore is not None:
        truth["ignore"] = np.array(ignore, dtype=bool)
    (image,) = compare_crowd([{"boxes": np.array(boxes, dtype=float).reshape(-1, 4), "scores": np.array(scores)}], [truth])
    return image


def made_up(iou):
    iou = np.array(iou)
    none = np.zeros(len(iou), dtype=bool)
    return CrowdImage(np.linspace(0.9, 0.5, len(iou)), iou, none, np.zeros(iou.shape[1], dtype=bool), 0.5)


def test_overlaps_are_divided_with_the_epsilon():
    # 10x10 and 10x10 moved by 5: 50 shared of 150.
    image = compare([[0, 0, 10, 10]], [0.9], [[5, 0, 15, 10]])
    assert image.iou[0, 0] == pytest.approx(50 / (150 + 1e-6), rel=1e-12)


def test_detections_come_from_the_highest_score_down():
    image = compare([[0, 0, 10, 10], [20, 0, 30, 10]], [0.1, 0.7], [[0, 0, 10, 10]])
    assert image.scores.tolist() == [0.7, 0.1]
    assert image.iou[:, 0] == pytest.approx([0, 1])


def test_both_sides_are_clipped_to_the_image():
    # The person from -50 to 10 is 10 wide inside; the detection beyond the right edge keeps the last column of pixels.
    image = compare([[0, 0, 10, 10], [130, 0, 150, 10]], [0.9, 0.8], [[-50, -50, 10, 10], [119, 0, 300, 10]])
    assert image.iou == pytest.approx(np.eye(2))


def test_a_box_left_of_the_image_has_no_area():
    image = compare([[-30, 0, -10, 10]], [0.9], [[-30, 0, -10, 10]], [True])
    assert not image.excused.any()
    assert compare([[-30, 0, -10, 10]], [0.9], [[-30, 0, -10, 10]]).iou.tolist() == [[0]]


def test_greed_takes_the_best_that_is_left():
    assert made_up([[0.8, 0.7], [0.6, 0.0]]).match_greedily().tolist() == [True, False]
    assert made_up([[0.7, 0.8], [0.6, 0.9]]).match_greedily().tolist() == [True, True], "the second takes its second choice"
    assert made_up([[0.5], [0.51]]).match_greedily().tolist() == [False, True], "the limit itself is too low"


def test_of_equal_overlaps_the_first_person_is_taken():
    assert made_up([[0.6, 0.6], [0.7, 0.0]]).match_greedily().tolist() == [True, False]


def test_heavy_beats_many():
    # Two pairs of .9 outweigh three of .51.
    image = made_up([[0.51, 0, 0], [0.9, 0.51, 0], [0, 0.9, 0.51]])
    rows, columns = image.match_heaviest(3)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 0), (2, 1)]
    rows, columns = image.match_heaviest(1)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])
    assert image.match_heaviest(0)[0].tolist() == []


def test_ignored_regions_excuse_by_the_detections_own_area():
    region = [40, 40, 60, 60]
    boxes = [[45, 45, 55, 55], [40, 40, 60, 79], [40, 40, 60, 80.001], [0, 0, 10, 10]]
    image = compare(boxes, [0.9, 0.8, 0.7, 0.6], [region], [True])
    assert image.excused.tolist() == [True, True, False, False]
    assert image.iou.shape == (4, 0)


def test_a_person_goes_before_a_region_and_a_region_is_used_again():
    person, region = [40, 40, 50, 50], [30, 30, 70, 70]
    boxes, people = np.array([person] * 3, dtype=float), np.array([region, person], dtype=float)
    found = {"boxes": boxes, "scores": np.array([0.9, 0.8, 0.7])}
    ranking = rank_crowd([found], [{"boxes": people, "ignore": np.array([True, False]), "size": SIZE}])
    assert (ranking.hits.tolist(), ranking.scores.tolist(), ranking.people) == ([True], [0.9], 1)


def test_ties_keep_the_order_of_images_then_of_boxes():
    hit, alarm = [0.0, 0, 10, 10], [60.0, 60, 70, 70]
    truth = {"boxes": np.array([hit]), "size": SIZE}
    first = {"boxes": np.array([alarm, hit]), "scores": np.array([0.5, 0.5])}
    second = {"boxes": np.array([hit]), "scores": np.array([0.5])}
    assert rank_crowd([first, second], [truth, truth]).hits.tolist() == [False, True, True]
    assert rank_crowd([second, first], [truth, truth]).hits.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        ({}, {"size": None}, "image 0: the truth lacks size"),
        ({"boxes": np.zeros((2, 5))}, {}, r"image 0: boxes must have the shape \(N, 4\), xyxy, got \(2, 5\)"),
        ({"boxes": np.zeros(4)}, {}, r"image 0: boxes must have the shape \(N, 4\), xyxy, got \(4,\)"),
        ({"boxes": np.full((1, 4), np.nan)}, {}, "image 0: some boxes are not finite"),
        ({"scores": np.zeros(2)}, {}, r"scores must have one entry for each of 1 boxes, got the shape \(2,\)"),
        ({"scores": np.array([np.nan])}, {}, "some scores are not finite"),
        ({}, {"ignore": np.zeros(3, dtype=bool)}, r"ignore must have one entry for each of 1 boxes, got the shape \(3,\)"),
    ],
)
def test_mistakes_are_named(found, truth, message):
    box = np.array([[0.0, 0, 10, 10]])
    whole = {name: value for name, value in ({"boxes": box, "size": SIZE} | truth).items() if value is not None}
    with pytest.raises(WhyboxError, match=message):
        list(compare_crowd([{"boxes": box, "scores": np.array([0.5])} | found], [whole]))


def test_lists_and_tensors_are_taken():
    truth = {"boxes": [[0, 0, 10, 10]], "size": torch.tensor([100, 120]), "ignore": torch.tensor([False])}
    ranking = rank_crowd([{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "scores": [0.5]}, {"boxes": [], "scores": []}], [truth] * 2)
    assert (ranking.hits.tolist(), ranking.people, ranking.recalls.tolist()) == ([True], 2, [0.5])
