"""Log-average miss rate: cases by hand, a plain recomputation, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.plain_crowd import crowd, plain_miss_rate, shuffled
from whybox.accuracy.miss_rate import FALSE_ALARMS, miss_rate

A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 60, 70, 70]
SEEDS = st.integers(0, 2**32 - 1)
NOTHING = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
EMPTY = {"boxes": np.zeros((0, 4)), "size": (100, 120)}


def found(boxes, scores):
    return {"boxes": np.array(boxes, dtype=float), "scores": np.array(scores)}


def truth(*boxes):
    return {"boxes": np.array(boxes, dtype=float), "size": (100, 120)}


def test_nine_points_evenly_spaced_in_the_logarithm():
    assert pytest.approx(np.logspace(-2, 0, 9), abs=5e-5) == FALSE_ALARMS


def test_one_image_reads_every_point_at_its_first_false_alarm():
    # Hit, alarm, hit: 1, then 2 of 3 people; 0, 1, 1 alarms an image. All nine points lie at the second detection.
    result = miss_rate([found([A, FAR, B], [0.9, 0.8, 0.7])], [truth(A, B, C)])
    assert result.false_alarms == pytest.approx([0, 1, 1])
    assert result.misses == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert result.sampled == pytest.approx([2 / 3] * 9)
    assert result.log_average == pytest.approx(2 / 3)


def test_more_images_move_the_points():
    # Nine more images without people: 0, .1, .1 alarms an image. Points up to .1 are read at the alarm, the others at the end.
    result = miss_rate([found([A, FAR, B], [0.9, 0.8, 0.7]), *[NOTHING] * 9], [truth(A, B, C), *[EMPTY] * 9])
    assert result.sampled == pytest.approx([2 / 3] * 5 + [1 / 3] * 4)
    assert result.log_average == pytest.approx((2 / 3) ** (5 / 9) * (1 / 3) ** (4 / 9))
    assert result.images == 10


def test_one_point_without_misses_makes_it_zero():
    result = miss_rate([found([A, FAR, B], [0.9, 0.8, 0.7]), *[NOTHING] * 9], [truth(A, B), *[EMPTY] * 9])
    assert result.sampled == pytest.approx([1 / 2] * 5 + [0] * 4)
    assert result.log_average == 0


def test_nothing_found_and_nobody_to_find():
    assert miss_rate([NOTHING], [truth(A)]).log_average == 1
    assert miss_rate([found([FAR], [0.9])], [truth(A)]).log_average == 1
    for nobody in (miss_rate([found([A], [0.9])], [EMPTY]), miss_rate([], [])):
        assert np.isnan(nobody.log_average)
        assert np.isnan(nobody.sampled).all()


def test_only_ignored_regions():
    result = miss_rate([found([A, FAR], [0.9, 0.8])], [{**truth(A), "ignore": np.array([True])}])
    assert (result.people, result.false_alarms.tolist()) == (0, [1])
    assert np.isnan(result.log_average)


@settings(deadline=None, max_examples=80)
@given(SEEDS, st.integers(1, 12), st.booleans())
def test_the_plain_recomputation_agrees(seed, images, tied):
    detections, truths = crowd(seed, images)
    if tied:
        detections = [{**found, "scores": np.ceil(found["scores"] * 4) / 4} for found in detections]
    result = miss_rate(detections, truths)
    if result.people:
        assert result.log_average == pytest.approx(plain_miss_rate(detections, truths))


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_order_of_images_and_boxes_does_not_matter(seed):
    detections, truths = crowd(seed)
    again = miss_rate(*shuffled(detections, truths, seed + 1))
    assert miss_rate(detections, truths).log_average == pytest.approx(again.log_average, nan_ok=True)
