"""The detector's own accuracy, from what a run keeps of every image."""

import pytest

from whybox.runs.evaluation.detector_accuracy import detector_accuracy

BOX = [10.0, 10.0, 50.0, 50.0]


def record(labels, boxes, truth_boxes, area=None):
    """One image: detections of these labels, surest first; objects of column 1."""
    scores = [0.9 - 0.1 * i for i in range(len(labels))]
    found = {"boxes": boxes, "labels": labels, "scores": scores}
    truth = {"boxes": truth_boxes, "labels": [1] * len(truth_boxes), "ignore": [False] * len(truth_boxes)}
    return {"found": found, "truth": truth | ({} if area is None else {"area": area}), "size": [100, 100]}


def test_other_classes_are_no_false_alarms_among_crowds():
    """Two people, both found; a car beside them is none of CrowdHuman's business. Worked by hand: no miss, AP from the
    first point (recall 1/2) to the second (recall 1), both at precision 1."""
    other = [60.0, 60.0, 90.0, 90.0]
    one = record([2, 1, 1], [[0.0, 0.0, 30.0, 5.0], BOX, other], [BOX, other])
    told = detector_accuracy([one], ["background", "person", "car"], "crowdhuman:here")
    assert told["crowd_ap"] == pytest.approx(0.5)
    assert told["log_average_miss_rate"] == pytest.approx(0.0)
    assert told["jaccard_index"] == pytest.approx(1.0, abs=1e-5)
    assert "crowd_ap" not in detector_accuracy([one], ["background", "person", "car"], "coco:here")


def test_sizes_are_those_of_the_masks_where_there_are_masks():
    """40 x 40 = 1600 pixels is medium; with 800 pixels of mask the object is small."""
    by_box = detector_accuracy([record([1], [BOX], [BOX])], ["background", "person"], "coco:here")
    by_mask = detector_accuracy([record([1], [BOX], [BOX], [800])], ["background", "person"], "coco:here")
    assert (by_box["ap_medium"], by_box["ap_small"]) == (1.0, None)
    assert (by_mask["ap_medium"], by_mask["ap_small"]) == (None, 1.0)


def test_no_annotation_and_no_detection_is_no_error():
    told = detector_accuracy([record([], [], [])], None, "coco:here")
    assert told["ap50"] is None
