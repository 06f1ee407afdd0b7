import pytest
import torch

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.missed import match_drawn
from whybox.types import Candidates, Detections, Trace

CLASSES = ["cat", "dog"]
BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [40.0, 40.0, 60.0, 60.0], [41.0, 40.0, 60.0, 60.0]])
SCORES = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.05, 0.1], [0.0, 0.8]])


def trace(**parts):
    candidates = Candidates(BOXES, SCORES, torch.zeros(4, dtype=torch.long), **parts)
    found = Detections(BOXES[[1, 3]], torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), torch.tensor([1, 3]))
    return Trace(torch.zeros(3, 64, 64), Frame.same((64, 64)), (), candidates, found)


def test_the_best_score_among_close_candidates_is_taken():
    found, notes = match_drawn(trace(), {"boxes": [[0, 0, 10, 10]], "labels": ["dog"]}, CLASSES)
    assert found.source.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([0.3])
    assert "another class leads there: cat 0.900" in notes[0]


def test_without_a_close_one_the_closest_is_taken():
    found, notes = match_drawn(trace(), {"boxes": [[45, 45, 64, 64]], "labels": [0]}, CLASSES)
    assert found.source.tolist() == [3]
    assert "IoU 0.4" in notes[0]


def test_a_suppressed_candidate_names_what_covers_it():
    shifted = trace()
    found, notes = match_drawn(shifted, {"boxes": [[40, 40, 60, 60]], "labels": ["dog"]}, CLASSES)
    assert found.source.tolist() == [3]
    assert "among the detections" in notes[0]
    only_first = Detections(BOXES[[3]], torch.tensor([0.8]), torch.tensor([1]), torch.tensor([0]))
    covered = Trace(shifted.image, shifted.frame, (), shifted.candidates, only_first)
    _, notes = match_drawn(covered, {"boxes": [[40, 40, 60, 60]], "labels": ["dog"]}, CLASSES)
    assert "covered by detection 0 (dog, IoU 1.00)" in notes[0]


def test_without_labels_the_class_is_the_best_there():
    found, _ = match_drawn(trace(), {"boxes": [[0, 0, 10, 10], [40, 40, 60, 60]]}, CLASSES)
    assert found.labels.tolist() == [0, 1]


def test_factors_of_the_score_are_told():
    parts = {"factors": {"class": SCORES, "centerness": torch.tensor([0.1, 0.2, 0.3, 0.4])}}
    _, notes = match_drawn(trace(**parts), {"boxes": [[0, 0, 10, 10]], "labels": [1]}, CLASSES)
    assert "class 0.300, centerness 0.200" in notes[0]


def test_a_box_per_class_is_matched_by_its_own_class():
    boxes = torch.stack([BOXES, BOXES.flip(0)], 1)
    candidates = Candidates(boxes, SCORES, torch.zeros(4, dtype=torch.long))
    passed = trace()
    passed = Trace(passed.image, passed.frame, (), candidates, passed.detections)
    found, _ = match_drawn(passed, {"boxes": [[0, 0, 10, 10]], "labels": [1]}, None)
    assert found.source.tolist() == [3]


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"boxes": [[5, 5, 5, 9]], "labels": [0]}, "x1 < x2"),
        ({"boxes": [[70, 70, 80, 80]], "labels": [0]}, "outside the image of 64x64"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [0, 1]}, "1 boxes and 2 labels"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [9]}, "columns 0 to 1"),
        ({"labels": [1]}, "'boxes'"),
    ],
)
def test_mistakes_are_one_line(drawn, message):
    with pytest.raises(WhyboxError, match=message):
        match_drawn(trace(), drawn, CLASSES)
