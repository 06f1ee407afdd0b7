"""COCO AP: known answers and edge cases."""

import numpy as np
import pytest
import torch

from whybox.accuracy.coco import coco_ap
from whybox.errors import WhyboxError

CLASSES = ("cat", "dog")
TRUTH = {"boxes": np.array([[10, 10, 50, 50], [60, 60, 90, 95]], dtype=np.float32), "labels": np.array([1, 2])}


def found(boxes, scores, labels):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


def test_the_truth_itself_scores_one():
    result = coco_ap([found(TRUTH["boxes"].tolist(), [0.9, 0.8], [1, 2])], [TRUTH], CLASSES)
    assert (result.ap, result.ap50, result.ap75, result.recall) == pytest.approx((1, 1, 1, 1))
    assert result.ap50_per_class == pytest.approx({"cat": 1, "dog": 1})
    assert result.images == 1


def test_a_swapped_label_finds_nothing():
    result = coco_ap([found(TRUTH["boxes"].tolist(), [0.9, 0.8], [2, 1])], [TRUTH], CLASSES)
    assert result.ap50 == 0


def test_a_false_alarm_above_the_hit_halves_precision():
    boxes = [[10.0, 10, 50, 50], [100, 100, 140, 140], [60, 60, 90, 95]]
    result = coco_ap([found(boxes, [0.5, 0.9, 0.8], [1, 1, 2])], [TRUTH], CLASSES)
    assert result.ap50_per_class == pytest.approx({"cat": 0.5, "dog": 1})


def test_a_shifted_box_counts_up_to_its_iou():
    # 40x40 moved by 10: IoU 1200 / 2000 = .6, a hit at IoU .50, .55 and .60 of the ten thresholds.
    truth = {"boxes": TRUTH["boxes"][:1], "labels": TRUTH["labels"][:1]}
    result = coco_ap([found([[20.0, 10, 60, 50]], [0.9], [1])], [truth], CLASSES)
    assert (result.ap50, result.ap75, result.ap) == pytest.approx((1, 0, 0.3))
    assert list(result.ap50_per_class) == ["cat"], "a class that does not occur has no AP"


def test_crowd_regions_count_neither_way():
    truth = {**TRUTH, "iscrowd": np.array([False, True])}
    alarms = [[10.0, 10, 50, 50], [61, 61, 70, 70], [71, 71, 80, 80]]
    assert coco_ap([found(alarms, [0.5, 0.9, 0.8], [1, 2, 2])], [truth], CLASSES).ap50 == pytest.approx(1)


def test_nothing_found_and_nothing_to_find():
    nothing = found([], [], [])
    assert coco_ap([nothing], [TRUTH], CLASSES).ap50 == 0
    empty = coco_ap([nothing], [{"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}], CLASSES)
    assert np.isnan(empty.ap)
    assert empty.as_dict()["ap"] is None


def test_images_must_be_paired():
    with pytest.raises(WhyboxError, match="1 images with detections but 2 with truth"):
        coco_ap([found([], [], [])], [TRUTH, TRUTH], CLASSES)


def test_the_best_threshold_cuts_off_the_false_alarms():
    boxes = [[10.0, 10, 50, 50], [100, 100, 140, 140], [60, 60, 90, 95], [0, 0, 5, 5]]
    result = coco_ap([found(boxes, [0.9, 0.4, 0.5, 0.3], [1, 1, 2, 2])], [TRUTH], CLASSES)
    assert (result.threshold, result.f1) == pytest.approx((0.5, 1))
    result = coco_ap([found(boxes[:2], [0.9, 0.95], [1, 1])], [TRUTH], CLASSES)
    assert (result.threshold, result.f1) == pytest.approx((0.9, 0.5)), "one hit, one alarm, one miss"


def test_nothing_is_printed(capsys):
    coco_ap([found([[20.0, 10, 60, 50]], [0.9], [1])], [TRUTH], CLASSES)
    assert capsys.readouterr().out == ""
