"""Two models' detections of one image."""

import math
from dataclasses import replace

import torch

from report.made_up import made_up_detections, made_up_maps
from whybox.drift import compare_explained, match_detections
from whybox.explained import Explained
from whybox.types import Detections


def test_detections_of_one_object_are_matched_one_to_one():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    numbers = torch.arange(3)
    first = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), numbers, numbers)
    moved = Detections(boxes[[1, 0, 0]] + torch.tensor([1.0, 0, 1, 0]), first.scores, numbers, numbers)
    names = ("cat", "dog", "cat"), ("dog", "cat", "cat")
    pairs = match_detections(first, moved, names)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (1, 0), (2, None), (None, 2)]
    assert math.isclose(pairs[0].iou, 9 / 11, rel_tol=1e-6)
    assert math.isnan(pairs[2].iou)
    # The same boxes with other classes are no pair.
    assert [pair.second for pair in match_detections(first, first, (names[0], ("cow",) * 3))] == [None] * 3 + [0, 1, 2]


def test_maps_of_what_belongs_together_are_compared():
    found = made_up_detections(3)
    image = torch.rand(3, 90, 120)
    first = Explained(found, made_up_maps(3), image, "before", ("cat", "dog"))
    second = Explained(found[[2, 0]], made_up_maps(3)[[2, 0]], image, "after", ("cat", "dog"))
    pairs = compare_explained(first, second)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (1, None), (2, 0)]
    assert math.isclose(pairs[0].correlation, 1, rel_tol=1e-6)
    turned = replace(second, maps=replace(second.maps, native=tuple(-values for values in second.maps.native)))
    assert math.isclose(compare_explained(first, turned)[0].correlation, -1, rel_tol=1e-6)
    assert compare_explained(first[[]], second[[]]) == []
