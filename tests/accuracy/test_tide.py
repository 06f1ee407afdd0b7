"""Kinds of error on images laid out by hand, AP50 against pycocotools, and what mending a kind must give."""

import math

import numpy as np
import pytest
import torch

from whybox.accuracy.coco import coco_ap
from whybox.accuracy.tide import KINDS, ap50, ap50_gains, sort_errors
from whybox.truth import Truth
from whybox.types import Detections


def truth(*rows):
    """(label, box) or (label, box, "ignore") each."""
    boxes = torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([row[0] for row in rows], dtype=torch.long)
    ignore = torch.tensor([len(row) == 3 for row in rows], dtype=torch.bool)
    return Truth(boxes, labels, tuple(str(i) for i in range(len(rows))), ignore)


def found(*rows):
    """(label, score, box) each."""
    boxes = torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([row[0] for row in rows], dtype=torch.long)
    return Detections(boxes, torch.tensor([row[1] for row in rows]).float(), labels, torch.arange(len(rows)))


CAT, DOG = 1, 2
OBJECT = (0, 0, 10, 10)
HALF = (0, 0, 10, 4)  # IoU 0.4 with OBJECT
FAR = (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("detections", "kinds", "objects", "missed"),
    [
        ([(CAT, 0.9, OBJECT)], ["correct"], [0], []),
        ([(DOG, 0.9, OBJECT)], ["classification"], [0], []),
        ([(CAT, 0.9, HALF)], ["localization"], [0], []),
        ([(DOG, 0.9, HALF)], ["both"], [0], [0]),
        ([(CAT, 0.9, FAR)], ["background"], [-1], [0]),
        ([(CAT, 0.9, (0, 0, 10, 0.9))], ["background"], [-1], [0]),
        ([(CAT, 0.8, OBJECT), (CAT, 0.9, OBJECT)], ["duplicate", "correct"], [0, 0], []),
        ([], [], [], [0]),
    ],
)
def test_one_object(detections, kinds, objects, missed):
    result = sort_errors(found(*detections), truth((CAT, OBJECT)))
    assert list(result.kinds) == kinds
    assert result.objects.tolist() == objects
    assert result.missed.tolist() == missed


def test_overlaps_at_the_thresholds_belong_to_the_better_kind():
    """IoU 5/10 is a hit, 1/10 a localization error; the thresholds can be moved."""
    at_half, at_tenth = (CAT, 0.9, (0, 0, 10, 5)), (CAT, 0.9, (0, 0, 10, 1))
    assert sort_errors(found(at_half), truth((CAT, OBJECT))).kinds == ("correct",)
    assert sort_errors(found(at_tenth), truth((CAT, OBJECT))).kinds == ("localization",)
    assert sort_errors(found(at_half), truth((CAT, OBJECT)), foreground=0.6).kinds == ("localization",)
    assert sort_errors(found(at_tenth), truth((CAT, OBJECT)), background=0.2).kinds == ("background",)


def test_overlap_and_rival_are_told():
    result = sort_errors(found((CAT, 0.9, OBJECT), (CAT, 0.8, HALF), (DOG, 0.7, HALF), (DOG, 0.5, FAR)), truth((CAT, OBJECT)))
    assert result.kinds == ("correct", "localization", "both", "background")
    assert torch.allclose(result.ious, torch.tensor([1.0, 0.4, 0.4, 0.0]))
    assert result.rivals.tolist() == [-1, 0, 0, -1]


def test_the_surer_detection_takes_the_object_and_the_other_the_next_best():
    """The second box fits object 0 best (IoU 1), but it is taken: object 1, IoU 8/12, is left for it."""
    objects = truth((CAT, OBJECT), (CAT, (2, 0, 12, 10)))
    result = sort_errors(found((CAT, 0.9, OBJECT), (CAT, 0.8, OBJECT)), objects)
    assert result.kinds == ("correct", "correct")
    assert result.objects.tolist() == [0, 1]


def test_a_poor_box_of_its_own_class_comes_before_a_wrong_class():
    objects = truth((CAT, HALF), (DOG, OBJECT))
    result = sort_errors(found((CAT, 0.9, OBJECT)), objects)
    assert (result.kinds, result.objects.tolist()) == (("localization",), [0])


def test_ignored_regions_count_for_their_class_alone_and_are_never_missed():
    crowd = truth((CAT, (0, 0, 100, 100), "ignore"), (CAT, FAR))
    inside, other_class, outside = (CAT, 0.9, OBJECT), (DOG, 0.9, OBJECT), (CAT, 0.9, (96, 0, 106, 10))
    result = sort_errors(found(inside, other_class, outside), crowd)
    assert result.kinds == ("ignored", "background", "background")
    assert result.missed.tolist() == [1]
    assert result.object_labels.tolist() == [-1, 1]


@pytest.mark.parametrize("rows", [[], [(CAT, 0.5, OBJECT)], [(CAT, 0.5, (5, 5, 5, 5))]])
def test_images_without_objects(rows):
    result = sort_errors(found(*rows), truth())
    assert result.kinds == ("background",) * len(rows)
    assert result.ious.tolist() == [0.0] * len(rows)
    assert math.isnan(ap50([result]))


def random_images(count=12, seed=0):
    """Objects of three classes, some ignored; detections near them, elsewhere, repeated, of other classes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        corners = rng.uniform(0, 80, (6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 30, (6, 2))], 1)
        labels = rng.integers(0, 3, 6)
        rows = [(int(k), b.tolist(), *(["ignore"] if rng.random() < 0.15 else [])) for k, b in zip(labels, boxes, strict=True)]
        near = [
            (int(k) if rng.random() < 0.7 else int(rng.integers(1, 4)), rng.random(), (b + rng.normal(0, 3, 4)).tolist())
            for k, b in [(labels[i], boxes[i]) for i in rng.integers(0, 6, 10)]
        ]
        near = [(k, s, [*b[:2], max(b[2], b[0] + 1), max(b[3], b[1] + 1)]) for k, s, b in near]
        yield found(*near), truth(*rows)


@pytest.mark.parametrize("seed", range(3))
def test_ap50_is_pycocotools(seed):
    pairs = list(random_images(seed=seed))
    ours = ap50([sort_errors(*pair) for pair in pairs])
    truths = [{"boxes": t.boxes, "labels": t.labels, "iscrowd": t.ignore} for _, t in pairs]
    theirs = coco_ap([d.to_dict() for d, _ in pairs], truths, ("a", "b", "c"))
    assert ours == pytest.approx(theirs.ap50, abs=1e-6)


def test_every_kind_occurs_and_no_mending_lowers_ap():
    images = [sort_errors(*pair) for pair in random_images()]
    kinds = {kind for image in images for kind in image.kinds}
    assert kinds == {"correct", "ignored", *KINDS} - {"missed"}
    gains = ap50_gains(images)
    assert list(gains) == list(KINDS)
    assert all(gain >= 0 for gain in gains.values())
    assert max(gains.values()) > 0.02


def test_mending_by_hand():
    """Two cats, one found, and a surer error of each kind beside it: the precision at recalls up to 1/2 is 1/2, so that AP is
    1/2 on 51 of 101 points. Mended, the error goes (precision 1 on 51 points) or becomes the second cat (1 on all)."""
    second = (20, 0, 30, 10)
    objects = truth((CAT, OBJECT), (CAT, second))
    hit, before = (CAT, 0.5, OBJECT), 51 / 101 / 2
    cases = {
        "background": ((CAT, 0.9, FAR), 51 / 101),
        "localization": ((CAT, 0.9, (20, 0, 30, 4)), 1.0),
    }
    for kind, (error, after) in cases.items():
        image = sort_errors(found(hit, error), objects)
        assert ap50([image]) == pytest.approx(before)
        gains = ap50_gains([image])
        assert gains[kind] == pytest.approx(after - before)
        others = {name for name in gains if gains[name] and name != "missed"}
        assert others == {kind}


def test_mending_classes_misses_and_duplicates_by_hand():
    """A dog taken for a cat: the class cat loses its precision, the class dog has no hit; mended, both are whole."""
    objects = truth((CAT, OBJECT), (DOG, (20, 0, 30, 10)))
    wrong = sort_errors(found((CAT, 0.5, OBJECT), (CAT, 0.9, (20, 0, 30, 10))), objects)
    assert ap50([wrong]) == pytest.approx((0.5 + 0) / 2)
    assert ap50_gains([wrong])["classification"] == pytest.approx(1 - 0.25)
    missed = sort_errors(found((CAT, 0.5, OBJECT)), objects)
    assert ap50_gains([missed])["missed"] == pytest.approx(1 - 0.5)
    twice = sort_errors(found((CAT, 0.9, OBJECT), (CAT, 0.8, OBJECT), (CAT, 0.5, FAR)), truth((CAT, OBJECT), (CAT, FAR)))
    # Precisions 1, then 2/3 at the recall 1 without mending.
    assert ap50_gains([twice])["duplicate"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)


def test_two_poor_boxes_mend_one_object_once():
    """Of two poor boxes of one cat, the surer becomes the hit and the other goes; of a found cat, the poor box goes."""
    poor, poorer = (CAT, 0.9, HALF), (CAT, 0.8, (0, 0, 10, 3))
    image = sort_errors(found(poor, poorer), truth((CAT, OBJECT)))
    assert ap50_gains([image])["localization"] == pytest.approx(1.0)
    beside = sort_errors(found((CAT, 0.5, OBJECT), poor), truth((CAT, OBJECT)))
    assert ap50_gains([beside])["localization"] == pytest.approx(0.5)


def test_no_images():
    assert math.isnan(ap50([]))
