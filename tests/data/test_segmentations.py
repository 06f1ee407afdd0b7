"""Every form of a COCO mask against pycocotools, and forms that are none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as coco

from whybox.data._problems import Broken
from whybox.data._segmentations import decode_mask, encode_mask, read_segmentation


def drawn():
    rng = np.random.default_rng(0)
    small = [rng.random((13, 17)) > 0.5, np.zeros((4, 5), bool), np.ones((4, 5), bool), np.ones((1, 1), bool)]
    large = np.zeros((700, 900), bool)
    large[100:600, 300:310] = True
    large[699, 899] = large[0, 0] = True
    return [*small, large]  # the last: run lengths of several packed characters, and differences below zero


@pytest.mark.parametrize("mask", drawn(), ids=lambda mask: f"{mask.shape}")
def test_run_lengths_plain_and_packed(mask):
    size = mask.shape[1], mask.shape[0]
    plain = encode_mask(mask)
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    assert coco.frPyObjects(plain, *mask.shape)["counts"].decode() == packed["counts"]
    for form in (plain, packed):
        assert read_segmentation(form, size) == (form, [])
        assert np.array_equal(decode_mask(form, size), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(20))
def test_polygons_have_the_very_pixels_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(5, 60, 2).tolist()
    polygons = [
        (rng.uniform(-0.5, 1.5, (rng.integers(3, 9), 2)) * (width, height)).flatten().tolist() for _ in range(1 + seed % 3)
    ]
    assert read_segmentation(polygons, (width, height)) == (polygons, [])
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)
    assert np.array_equal(decode_mask(polygons, (width, height)), expected)
    assert expected.any()


def test_a_square_by_hand():
    square = decode_mask([[2, 3, 8, 3, 8, 9, 2, 9]], (20, 15))
    expected = np.zeros((15, 20), bool)
    expected[3:9, 2:8] = True
    assert np.array_equal(square, expected)


def test_two_polygons_that_overlap_are_one_mask():
    both = decode_mask([[0, 0, 6, 0, 6, 6, 0, 6], [3, 3, 9, 3, 9, 9, 3, 9]], (12, 12))
    assert both.sum() == 36 + 36 - 9


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("mask", "neither polygons nor run lengths: 'mask'"),
        (7, "neither polygons"),
        ([1, 2, 3, 4, 5, 6], "no polygon that can be used: a polygon of the segmentation is no list of numbers: 1"),
        ([[1, 2, 3, 4]], r"at least 3 points, got \[1, 2, 3, 4\]"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least 3 points"),
        ([[]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "holds NaN"),
        ([[1, 2, 3, 4, 5, "six"]], "no list of numbers"),
        ([], "segmentation is empty"),
        ([[2, 2, 4, 4, 6, 6]], "a polygon must have an area, got points on one line"),
        ([[2, 2, 2, 2, 2, 2]], "a polygon must have an area"),
        ([[[1, 1], [5, 1], [5, 5]]], "a polygon of the segmentation is no list of numbers"),
        ([[1, 1], [5, 1], [5, 5]], "no polygon that can be used: a polygon must be"),
        ([{"size": [6, 8], "counts": [48]}], "a list of run lengths: expected one object"),
        ([[1, 2, 3, 4, 5, None]], "no list of numbers"),
        ([[1, 2, 3, 4, 5, 1e9]], "far beyond the image of 8x6"),
        ({"counts": [48]}, r"a mask of the size None for an image of \[6, 8\]"),
        ({"size": [8, 6], "counts": [48]}, r"a mask of the size \[8, 6\] for an image of \[6, 8\]"),
        ({"size": [6, 8]}, "counts of the segmentation is no list"),
        ({"size": [6, 8], "counts": [47]}, r"run lengths of 47 pixels do not fill a mask of 8x6 \(48\)"),
        ({"size": [6, 8], "counts": [40, 9]}, "run lengths of 49 pixels do not fill"),
        ({"size": [6, 8], "counts": []}, "run lengths of 0 pixels do not fill"),
        ({"size": [6, 8], "counts": [-2, 50]}, "whole numbers from 0"),
        ({"size": [6, 8], "counts": [0.5, 47.5]}, "whole numbers from 0"),
        ({"size": [6, 8], "counts": ["all"]}, "no list of numbers"),
        ({"size": [6, 8], "counts": ""}, "no packed run lengths"),
        ({"size": [6, 8], "counts": "näh"}, "no packed run lengths"),
        ({"size": [6, 8], "counts": "P"}, "no packed run lengths"),
        ({"size": [6, 8], "counts": "P" * 30 + "0"}, "no packed run lengths"),
        ({"size": [6, 8], "counts": "52"}, "run lengths of 7 pixels do not fill"),
    ],
)
def test_what_is_no_mask_is_said(form, reason):
    with pytest.raises(Broken, match=reason) as caught:
        read_segmentation(form, (8, 6))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "bad", [[1, 2, 3, 4], [2, 2, 4, 4, 6, 6], [], None, "ring", [1, 2, 3, 4, 5, float("nan")], {"counts": [48]}]
)
def test_a_broken_polygon_is_left_out_of_the_mask(bad):
    ring = [1, 1, 6, 1, 6, 5, 1, 5]
    read, (line,) = read_segmentation([bad, ring], (8, 6))
    assert read == [ring]
    assert line.startswith("polygon 1 of 2 is left out of the mask: ")


def test_numbers_written_as_text():
    ring = [1, 1, 6, 1, 6, 5, 1, 5]
    assert read_segmentation([[str(number) for number in ring]], (8, 6)) == ([ring], [])
    runs, lost = read_segmentation({"size": ["6", 8.0], "counts": ["40", " 8 "]}, (8, 6))
    assert (runs, lost) == ({"size": [6, 8], "counts": [40, 8]}, [])
    assert decode_mask(runs, (8, 6)).sum() == 8


def test_packed_text_that_ends_too_early():
    mask = np.random.default_rng(1).random((6, 8)) > 0.5
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    read_segmentation({"size": [6, 8], "counts": text}, (8, 6))
    with pytest.raises(Broken, match="do not fill"):
        read_segmentation({"size": [6, 8], "counts": text[:-3]}, (8, 6))


def test_a_mask_without_polygons_needs_no_pycocotools():
    code = "import sys; from whybox.data._segmentations import decode_mask as d; " + (
        "print(d({'size': [1, 3], 'counts': [1, 2]}, (3, 1)).tolist(), 'pycocotools' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out.split("]]")[0].lower() + "]]") == [[False, True, True]]
    assert out.strip().endswith("False")
