"""What a mistake says of itself, which maps it asks for, and which mistakes get a card."""

import math

import pytest
import torch

from whybox.accuracy.tide import BACKGROUND, BOTH, CLASSIFICATION, DUPLICATE, LOCALIZATION, MISSED
from whybox.runs.mistakes.mistake import Mistake, Named, choose, surest_first
from whybox.types import Detections


def one_row(box=(10, 10, 50, 30), score=0.8, label=1):
    return Detections(torch.tensor([box]).float(), torch.tensor([score]), torch.tensor([label]), torch.tensor([7]))


def mistake(kind, found=None, true=None, **fields):
    named = None if true is None else Named("#3", "dog", 2, torch.tensor(true).float())
    return Mistake("a.jpg", 0, kind, one_row() if found is None else found, "cat", fields.pop("iou", 0.4), named, **fields)


@pytest.mark.parametrize(
    ("true", "side", "off", "words"),
    [
        ((10, 10, 84, 30), "x2", -34, "Its right edge stops 34 px short"),
        ((10, 10, 30, 30), "x2", 20, "Its right edge reaches 20 px too far"),
        ((30, 10, 50, 30), "x1", 20, "Its left edge reaches 20 px too far"),
        ((10, 0, 50, 30), "y1", -10, "Its top edge stops 10 px short"),
        ((10, 10, 50, 20), "y2", 10, "Its bottom edge reaches 10 px too far"),
        # 12 px of a width of 52 are less than 8 px of a height of 12.
        ((10, 10, 62, 22), "y2", 8, "Its bottom edge reaches 8 px too far"),
    ],
)
def test_the_worst_side_of_a_poor_box(true, side, off, words):
    one = mistake(LOCALIZATION, true=true)
    assert one.worst_side == (side, pytest.approx(off))
    assert one.sentence().startswith(words)
    assert [target for _, target, _ in one.targets()] == [side]


def test_the_maps_of_each_kind():
    asked = {
        CLASSIFICATION: ["contrast:2", "score"],
        BOTH: ["score"],
        BACKGROUND: ["score"],
        MISSED: ["score"],
    }
    for kind, targets in asked.items():
        assert [target for _, target, _ in mistake(kind, true=(0, 0, 20, 20)).targets()] == targets
    rival = one_row(score=0.9)
    (own, _, _), (other, target, label) = mistake(DUPLICATE, true=(0, 0, 20, 20), rival=rival).targets()
    assert own.scores.item() == pytest.approx(0.8)
    assert (other, target, label) == (rival, "score", "the matched detection, 0.90")


def test_sentences_name_the_classes_and_the_overlap():
    box = (0, 0, 20, 20)
    assert "annotated as dog (IoU 0.60)" in mistake(CLASSIFICATION, true=box, iou=0.6).sentence()
    assert "Another detection is matched to this object." in mistake(CLASSIFICATION, true=box, held=True).sentence()
    assert "annotated as dog" in mistake(BOTH, true=box).sentence()
    assert "higher score is matched to this cat" in mistake(DUPLICATE, true=box).sentence()
    assert mistake(BACKGROUND, iou=0.0).sentence().startswith("No object is annotated here. ")
    assert "largest IoU with an object is 0.07" in mistake(BACKGROUND, iou=0.07).sentence()


def test_a_missed_object_without_any_candidate():
    one = mistake(MISSED, found=Detections.empty(), true=(0, 0, 20, 20), iou=0.0)
    assert math.isnan(one.score)
    assert one.targets() == ()
    assert "has no candidate" in one.sentence()
    assert one.as_dict()["detection"] is None


def test_numbers_for_json():
    told = mistake(LOCALIZATION, true=(10, 10, 84, 30), held=True).as_dict()
    assert told["detection"] == {"box": [10, 10, 50, 30], "score": 0.8, "label": 1, "source": 7}
    assert told["truth"] == {"id": "#3", "class": "dog", "label": 2, "box": [10, 10, 84, 30]}
    assert (told["side"], told["side_off_px"], told["repeats"]) == ("x2", -34, None)
    assert told["object_found_by_another"] is True


def test_order_and_choice():
    """False detections by score, then missed objects by size; the choice takes one of each kind in turn."""
    false = [mistake(BACKGROUND, found=one_row(score=score)) for score in (0.5, 0.9, 0.7)]
    duplicate = mistake(DUPLICATE, found=one_row(score=0.4))
    small, large = mistake(MISSED, true=(0, 0, 5, 5)), mistake(MISSED, true=(0, 0, 50, 50))
    ordered = surest_first([small, *false, duplicate, large])
    assert ordered == [false[1], false[2], false[0], duplicate, large, small]
    assert choose(ordered, 3) == [false[1], duplicate, large]
    assert choose(ordered, 5) == [false[1], false[2], duplicate, large, small]
    assert choose(ordered, 100) == ordered
    assert choose([], 5) == []
