"""Detections in the forms of other libraries are read as boxes and labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import whybox
from whybox.data.scenes import draw_scene
from whybox.errors import WhyboxError
from whybox.given_detections import boxes_and_labels

CLASSES = ("background", "cat", "dog")
IMAGE = (60, 80)
BOXES = [[1.0, 2.0, 11.0, 22.0], [5.0, 6.0, 50.0, 40.0]]


def results(boxes=BOXES, numbers=(0.0, 1.0), names=None, shape=IMAGE, kind=torch.tensor, turned=False):
    """With the attributes of ultralytics' Results; of turned boxes they are in another one."""
    found = SimpleNamespace(xyxy=kind(boxes), cls=kind(list(numbers)), conf=kind([0.9] * len(boxes)))
    parts = {"boxes": None, "obb": found} if turned else {"boxes": found, "obb": None}
    return SimpleNamespace(**parts, names=names or {0: "dog", 1: "cat"}, orig_shape=shape)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.parametrize("turned", [False, True])
def test_results_are_read_by_the_names_of_their_classes(kind, turned):
    given = results(kind=kind, turned=turned)
    for form in (given, [given], (given,)):
        read = boxes_and_labels(form, CLASSES, IMAGE)
        assert read["labels"] == ["dog", "cat"]
        assert read["boxes"].tolist() == BOXES
    assert boxes_and_labels(given, None, IMAGE)["labels"] == [0, 1]


def test_cocos_boxes_have_widths_and_their_numbers_are_columns():
    entries = [
        {"image_id": 4, "bbox": [1, 2, 10, 20], "category_id": 2, "score": 0.5},
        {"bbox": [5, 6, 45, 34], "category_id": 1},
    ]
    read = boxes_and_labels(entries, CLASSES, IMAGE)
    assert read == {"boxes": BOXES, "labels": [2, 1]}
    assert boxes_and_labels([{"bbox": [1, 2, 10, 20]}], CLASSES, IMAGE) == {"boxes": BOXES[:1]}
    assert boxes_and_labels([], CLASSES, IMAGE) == {"boxes": []}
    assert boxes_and_labels([entries[0] | {"category_name": "cat"}], CLASSES, IMAGE)["labels"] == ["cat"]


def test_cocos_annotations_are_read_by_the_names_of_their_categories():
    given = {
        "annotations": [{"bbox": [1, 2, 10, 20], "category_id": 18}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }
    assert boxes_and_labels(given, CLASSES, IMAGE)["labels"] == ["dog"]


def entry(**fields):
    return {"bbox": [1, 2, 10, 20], "category_id": 1} | fields


MISTAKES = {
    "two images' results": ([results(), results()], "2 Results for one image"),
    "results of another image": (results(shape=(480, 640)), "of an image of 640x480 pixels, and this one has 80x60"),
    "results of a classifier": (SimpleNamespace(boxes=None, names={}, orig_shape=IMAGE), "holds no boxes"),
    "a class without a name": (results(numbers=(0.0, 7.0)), "class 7 is not among the names"),
    "a dictionary alone": (entry(), "stands in a list"),
    "numbers": ([1, 2], "got a list of int"),
    "boxes without keys": ([[1, 2, 3, 4]], "got a list of list"),
    "no bbox": ([{"box": [1, 2, 3, 4]}], r"detections\[0\]: expected bbox .* got no bbox among box"),
    "three numbers": ([entry(), entry(bbox=[1, 2, 3])], r"detections\[1\]: expected bbox"),
    "words": ([entry(bbox="abcd")], r"detections\[0\]: expected bbox"),
    "no width": ([entry(bbox=[5, 5, 0, 3])], "both sides larger than 0"),
    "not a number": ([entry(bbox=[float("nan"), 5, 1, 3])], "both sides larger than 0"),
    "two images": ([entry(image_id=1), entry(image_id=2)], "of 2 images"),
    "one without a class": ([entry(), {"bbox": [1, 2, 3, 4]}], r"detections\[1\] has no category_id"),
    "an unknown category": (
        {"annotations": [entry(category_id=5)], "categories": []},
        "5 is not among the categories",
    ),
    "categories without names": ({"annotations": [entry()], "categories": [{"id": 1}]}, "categories must be a list of"),
    "annotations that are none": ({"annotations": 3}, "annotations must be a list of COCO's dictionaries, got int"),
    "nothing": (3.5, "detections must be Detections, a mapping .*, got float"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_line(mistake):
    given, told = MISTAKES[mistake]
    with pytest.raises(WhyboxError, match=told) as caught:
        boxes_and_labels(given, CLASSES, IMAGE)
    assert "\n" not in str(caught.value)


def test_what_a_model_found_is_explained_when_it_comes_back():
    model, image = whybox.load("whybox/scenes"), draw_scene(3, seed=1).image
    result = whybox.explain(model, image, top=2)
    width, height = image.size
    names = dict(enumerate(model.classes))
    for given in (
        result.to_coco(),
        results(result.detections.boxes.tolist(), result.detections.labels.tolist(), names, (height, width)),
    ):
        again = whybox.explain(model, image, detections=given)
        assert torch.equal(again.detections.source, result.detections.source)
        assert torch.equal(again.maps.values, result.maps.values)
    each = whybox.explain(model, [image] * 2, detections=[result[:1].to_coco(), result[1:].to_coco()])
    assert [one.names for one in each] == [result.names[:1], result.names[1:]]
    strange = results(result.detections.boxes.tolist(), [0] * len(result), {0: "unicorn"}, (height, width))
    with pytest.raises(WhyboxError, match="unknown class 'unicorn'"):
        whybox.explain(model, image, detections=strange)
