"""CrowdHuman's AP: cases by hand, a plain recomputation, and what must not matter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.plain_crowd import crowd, plain_ap, ranked, shuffled
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.errors import WhyboxError

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]
SEEDS = st.integers(0, 2**32 - 1)


def found(boxes, scores):
    return {"boxes": np.array(boxes, dtype=float).reshape(-1, 4), "scores": np.array(scores, dtype=float)}


def truth(boxes, ignore=None):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    return {"boxes": boxes, "ignore": np.zeros(len(boxes), bool) if ignore is None else np.array(ignore), "size": (100, 120)}


def test_trapezoids_from_the_first_point_on():
    # Points (recall, precision): (1/2, 1), (1/2, 1/2), (1, 2/3). Area = 1/2 * (1/2 + 2/3) / 2 = 7/24.
    result = crowd_ap([found([A, FAR, B], [0.9, 0.8, 0.7])], [truth([A, B])])
    assert result.ap == pytest.approx(7 / 24)
    assert result.recalls == pytest.approx([0.5, 0.5, 1])
    assert result.precisions == pytest.approx([1, 0.5, 2 / 3])
    assert result.scores == pytest.approx([0.9, 0.8, 0.7])
    assert (result.recall, result.people, result.images) == (1, 2, 1)


def test_a_perfect_detector_lacks_the_piece_before_its_first_point():
    # 4 people, all found: from recall 1/4 to 1 at precision 1.
    boxes = [[25 * i, 0, 25 * i + 10, 10] for i in range(4)]
    assert crowd_ap([found(boxes, [0.9, 0.8, 0.7, 0.6])], [truth(boxes)]).ap == pytest.approx(3 / 4)
    assert crowd_ap([found([A], [0.9])], [truth([A])]).ap == 0, "one point has no area"


def test_detections_that_only_meet_ignored_regions_are_left_out():
    region = [50, 50, 90, 90]
    clean = crowd_ap([found([A, B], [0.9, 0.2])], [truth([A, B, region], [False, False, True])])
    inside = crowd_ap([found([A, FAR, FAR, B], [0.9, 0.8, 0.7, 0.2])], [truth([A, B, region], [False, False, True])])
    assert clean.ap == inside.ap == pytest.approx(0.5)
    assert len(inside.scores) == 2


def test_only_ignored_regions_leave_nobody_to_find():
    result = crowd_ap([found([FAR, A], [0.9, 0.8])], [truth([[50, 50, 90, 90]], [True])])
    assert np.isnan([result.ap, result.recall]).all()
    assert (result.people, result.scores.tolist()) == (0, [0.8])
    assert np.isnan(result.recalls).all()


def test_no_detections_and_empty_images():
    assert (crowd_ap([found([], [])], [truth([A])]).ap, crowd_ap([found([], [])], [truth([A])]).recall) == (0, 0)
    alone = crowd_ap([found([A, B], [0.9, 0.8])], [truth([A, B])])
    beside = crowd_ap([found([], []), found([A, B], [0.9, 0.8])], [truth([]), truth([A, B])])
    assert alone.ap == beside.ap == pytest.approx(0.5)
    assert np.isnan(crowd_ap([], []).ap)
    assert np.isnan(crowd_ap([found([A], [0.5])], [truth([])]).ap)


def test_the_second_box_of_a_person_is_a_false_alarm():
    result = crowd_ap([found([A, A, B], [0.9, 0.8, 0.7])], [truth([A, B])])
    assert result.precisions == pytest.approx([1, 1 / 2, 2 / 3])


def test_the_overlap_is_strict():
    # 10x10 in 10x20: IoU 1/2. One pixel less of the person: 100 / 190.
    half, more = [0, 0, 10, 20], [0, 0, 10, 19]
    assert crowd_ap([found([A], [0.9])], [truth([half])]).recall == 0
    assert crowd_ap([found([A], [0.9])], [truth([more])]).recall == 1
    assert crowd_ap([found([A], [0.9])], [truth([half])], overlap=0.4).recall == 1


@settings(deadline=None, max_examples=80)
@given(SEEDS)
def test_the_plain_recomputation_agrees(seed):
    detections, truths = crowd(seed)
    result = crowd_ap(detections, truths)
    if not result.people:
        assert np.isnan(result.ap)
        return
    assert (result.ap, result.recall) == pytest.approx(plain_ap(detections, truths))


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_equal_scores_keep_their_order(seed):
    detections, truths = crowd(seed)
    tied = [{**found, "scores": np.ceil(found["scores"] * 3) / 3} for found in detections]
    result = crowd_ap(tied, truths)
    listed, people = ranked(tied, truths)
    assert result.people == people
    assert result.scores.tolist() == [score for score, _ in listed]
    if people:
        assert (result.recalls * people).round().tolist() == np.cumsum([hit for _, hit in listed]).tolist()


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_order_of_images_and_boxes_does_not_matter(seed):
    detections, truths = crowd(seed)
    once, again = crowd_ap(detections, truths), crowd_ap(*shuffled(detections, truths, seed + 1))
    assert (once.ap, once.recall) == pytest.approx((again.ap, again.recall), nan_ok=True)


def test_tensors_count_as_arrays_do():
    detections, truths = crowd(5)
    tensors = [{name: torch.tensor(values, requires_grad=True) for name, values in found.items()} for found in detections]
    tensor_truths = [
        {**truth, "boxes": torch.tensor(truth["boxes"]), "ignore": torch.tensor(truth["ignore"])} for truth in truths
    ]
    assert crowd_ap(tensors, tensor_truths).ap == crowd_ap(detections, truths).ap


def test_images_must_be_paired():
    with pytest.raises(WhyboxError, match="1 images with detections but 0 with truth"):
        crowd_ap([found([A], [0.9])], [])
