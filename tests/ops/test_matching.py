"""IoU in both conventions, and the pairs of well-detected objects."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

import whybox
from whybox.ops.matching import match_well_detected, pairwise_iou

SEEDS = st.integers(0, 2**32 - 1)


def random_boxes(count, generator, whole=False):
    corners = torch.rand(count, 2, generator=generator) * 12
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 10], dim=1)
    return boxes.round() if whole else boxes


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_iou_is_torchvisions(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = random_boxes(7, generator) + 0.1, random_boxes(5, generator)
    assert torch.allclose(pairwise_iou(a, b), box_iou(a, b), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_legacy_iou_counts_the_pixels_of_whole_boxes(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (random_boxes(4, generator, whole=True) for _ in range(2))
    masks = [[painted(box) for box in boxes] for boxes in (a, b)]
    expected = [[(one & two).sum() / (one | two).sum() for two in masks[1]] for one in masks[0]]
    assert torch.allclose(pairwise_iou(a, b, legacy=True), torch.tensor(np.array(expected), dtype=torch.float32))


def painted(box):
    x1, y1, x2, y2 = (int(value) for value in box)
    sheet = np.zeros((30, 30), dtype=bool)
    sheet[y1 : y2 + 1, x1 : x2 + 1] = True
    return sheet


def test_boxes_without_area_share_nothing():
    flat = torch.tensor([[3.0, 3, 3, 8], [3, 3, 3, 8], [9, 9, 2, 2]])
    assert pairwise_iou(flat, flat).tolist() == [[0.0] * 3] * 3
    assert pairwise_iou(flat[:1], torch.tensor([[0.0, 0, 10, 10]])).tolist() == [[0.0]]
    assert pairwise_iou(flat[:1], flat[:1], legacy=True).tolist() == [[1.0]], "one column of pixels"


def test_equal_boxes_have_exactly_one_and_order_of_sides_does_not_matter():
    boxes = random_boxes(6, torch.Generator().manual_seed(1)).double()
    for legacy in (False, True):
        overlap = pairwise_iou(boxes, boxes, legacy)
        assert overlap.diagonal().tolist() == [1.0] * 6
        assert torch.equal(overlap, overlap.T)


def test_nothing_on_either_side():
    none, one = torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])
    assert pairwise_iou(none, one).shape == (0, 1)
    assert pairwise_iou(one, none).shape == (1, 0)
    label = torch.tensor([1])
    assert match_well_detected(none, label[:0], one, label).tolist() == []
    assert match_well_detected(one, label, none, label[:0]).tolist() == [-1]


def test_legacy_decides_near_the_limit():
    # 9 of 10 columns: .9 without, 10/11 > .9 with the pixel of the far corner.
    box, truth, label = torch.tensor([[0.0, 0, 9, 10]]), torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1])
    assert pairwise_iou(box, truth).item() == pytest.approx(0.9)
    assert pairwise_iou(box, truth, legacy=True).item() == pytest.approx(10 / 11)
    assert match_well_detected(box, label, truth, label).tolist() == [0]
    assert match_well_detected(box.double(), label, truth.double(), label, legacy=False).tolist() == [-1], "not above .9"


def test_the_largest_overlap_goes_first_whatever_the_order():
    # IoU with the only object: 95/100 and 100/100; the second is taken, the first has nothing left.
    truth, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([3, 3])
    boxes = torch.tensor([[0, 0, 9.5, 10], [0, 0, 10, 10]])
    assert match_well_detected(boxes, label, truth, label[:1], legacy=False).tolist() == [-1, 0]
    assert match_well_detected(boxes.flip(0), label, truth, label[:1], legacy=False).tolist() == [0, -1]


def test_classes_are_kept_apart():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert match_well_detected(boxes, torch.tensor([1, 2]), boxes, torch.tensor([2, 5])).tolist() == [-1, 0]


def test_of_equal_pairs_the_first_detection_and_object_are_taken():
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    label = torch.ones(3, dtype=torch.long)
    assert match_well_detected(boxes, label, boxes[:2], label[:2]).tolist() == [0, 1, -1]


def test_nan_boxes_match_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [float("nan")] * 4])
    label = torch.ones(2, dtype=torch.long)
    assert match_well_detected(boxes, label, boxes, label).tolist() == [0, -1]


def plain_match(overlap, labels, truth_labels, limit):
    """Again and again the largest entry of the whole matrix, row and column then struck out."""
    left = np.where(np.array(labels)[:, None] == np.array(truth_labels), overlap, 0.0)
    limit = left.dtype.type(limit)  # numpy 1.26 compares a float32 with a number of Python's as float64
    matched = [-1] * len(left)
    while left.size and left.max() > limit:
        row, column = np.unravel_index(left.argmax(), left.shape)
        matched[row] = int(column)
        left[row], left[:, column] = 0, 0
    return matched


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.booleans(), st.sampled_from([0.0, 0.2, 0.5]))
def test_the_plain_rule_agrees(seed, whole, limit):
    generator = torch.Generator().manual_seed(seed)
    boxes, truth = random_boxes(12, generator, whole), random_boxes(9, generator, whole)
    labels, truth_labels = (torch.randint(0, 2, (count,), generator=generator) for count in (12, 9))
    expected = plain_match(pairwise_iou(boxes, truth, True).numpy(), labels.tolist(), truth_labels.tolist(), limit)
    assert match_well_detected(boxes, labels, truth, truth_labels, iou=limit).tolist() == expected


def test_nothing_uses_an_iou_that_is_nan_for_two_boxes_without_area():
    """torchvision's box_iou divides 0 by 0 there: D-RISE's maps and Soft-NMS' scores became NaN."""
    source = Path(whybox.__file__).parent
    # The rules of suppression stand beside this module and mend it themselves; "> 0" is false of NaN.
    bare = re.compile(r"(?<!distance_)\bbox_iou\((?!.*nan_to_num|.*> 0\))")
    assert [path.name for path in source.rglob("*.py") if bare.search(path.read_text())] == []
