"""Jaccard index: cases by hand, every pairing tried out, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.plain_crowd import crowd, plain_jaccard, shuffled
from whybox.accuracy.jaccard import THRESHOLDS, jaccard_index

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]
SEEDS = st.integers(0, 2**32 - 1)
NOTHING = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
EMPTY = {"boxes": np.zeros((0, 4)), "size": (100, 120)}


def found(boxes, scores):
    return {"boxes": np.array(boxes, dtype=float), "scores": np.array(scores)}


def truth(*boxes, ignore=None):
    boxes = np.array(boxes, dtype=float)
    return {"boxes": boxes, "ignore": np.zeros(len(boxes), bool) if ignore is None else np.array(ignore), "size": (100, 120)}


def test_the_best_threshold_is_taken():
    # Kept above 0 and .1: 2 hits and an alarm, 2 / (3 + 2 - 2); from .2 on 2 / 2; from .5 on 1 / 2. At .9: above .9 only.
    result = jaccard_index([found([A, B, FAR], [0.95, 0.45, 0.15])], [truth(A, B)])
    assert result.indices == pytest.approx([2 / 3] * 2 + [1] * 3 + [1 / 2] * 5, abs=1e-6)
    assert (result.index, result.threshold) == pytest.approx((1, 0.2), abs=1e-6)


def test_a_score_equal_to_the_threshold_is_not_kept():
    result = jaccard_index([found([A], [0.5])], [truth(A)])
    assert result.indices == pytest.approx([1] * 5 + [0] * 5, abs=1e-6)


def test_the_heaviest_pairing_finds_what_greed_misses():
    # The first box meets both people (IoU 1 and 2/3), the second only the first person (2/3): 2/3 + 2/3 > 1.
    people, boxes = [[0, 0, 10, 10], [2, 0, 12, 10]], [[0, 0, 10, 10], [0, 0, 8, 8]]
    result = jaccard_index([found(boxes, [0.95, 0.94])], [truth(*people)])
    assert result.index == pytest.approx(1, abs=1e-6)


def test_unpaired_boxes_in_ignored_regions_count_neither_way():
    region = [15, 0, 80, 80]
    result = jaccard_index([found([A, FAR], [0.95, 0.95])], [truth(A, B, region, ignore=[False, False, True])])
    assert result.index == pytest.approx(1, abs=1e-6), "neither the detection nor the missed person inside counts"
    result = jaccard_index([found([A, B], [0.95, 0.95])], [truth(A, B, region, ignore=[False, False, True])])
    assert result.index == pytest.approx(2 / (2 + 1e-6), rel=1e-9), "a found person inside counts"


def test_images_where_nothing_counts_are_passed_over():
    one = jaccard_index([found([A], [0.95]), NOTHING], [truth(A), EMPTY])
    assert one.index == pytest.approx(1, abs=1e-6)
    # An alarm in an image without people counts as 0 while it is kept.
    alarm = jaccard_index([found([A], [0.95]), found([A], [0.35])], [truth(A), EMPTY])
    assert alarm.indices == pytest.approx([1 / 2] * 4 + [1] * 6, abs=1e-6)


def test_nobody_to_find():
    result = jaccard_index([found([A], [0.35])], [EMPTY])
    assert result.indices[:4].tolist() == [0] * 4
    assert np.isnan(result.indices[4:]).all()
    assert (result.index, result.threshold) == (0, 0)
    for nothing in (jaccard_index([NOTHING], [EMPTY]), jaccard_index([], [])):
        assert np.isnan([nothing.index, nothing.threshold]).all()
    masked = jaccard_index([found([A], [0.9])], [truth(A, ignore=[True])])
    assert np.isnan(masked.index), "only an ignored region, and a detection in it"


def test_nothing_found():
    assert jaccard_index([NOTHING], [truth(A)]).indices.tolist() == [0] * 10


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_every_pairing_tried_out_agrees(seed):
    detections, truths = crowd(seed, images=3, most=5)
    result = jaccard_index(detections, truths)
    expected = [plain_jaccard(detections, truths, threshold) for threshold in THRESHOLDS]
    assert result.indices == pytest.approx([np.nan if value is None else value for value in expected], nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_order_of_images_and_boxes_does_not_matter(seed):
    detections, truths = crowd(seed)
    again = jaccard_index(*shuffled(detections, truths, seed + 1))
    assert jaccard_index(detections, truths).indices == pytest.approx(again.indices, nan_ok=True)
