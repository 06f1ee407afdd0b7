"""Masks, keypoints and turned boxes in pictures, on the page and on disk."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.mask import decode

from report.made_up import made_up_detections, made_up_maps
from whybox.explanation import Explanation
from whybox.pictures import photo_of
from whybox.report.page import make_sheet
from whybox.report.shapes import draw_shape, limbs_of, outlines
from whybox.report.target_words import words_of


def found_with_shapes():
    found = made_up_detections(2)
    masks = torch.zeros(2, 90, 120, dtype=torch.bool)
    masks[0, 10:40, 10:40] = True
    masks[0, 20:30, 20:30] = False
    masks[1, 14:44, 90:120] = True
    keypoints = torch.rand(2, 17, 3) * 30 + 10
    corners = torch.tensor([[[25.0, 10], [40, 25], [25, 40], [10, 25]]]).repeat(2, 1, 1)
    return replace(found, masks=masks, keypoints=keypoints, corners=corners)


def explained(found):
    image = torch.zeros(3, 90, 120)
    return Explanation(found, made_up_maps(2), image, "toy", ("cat", "dog"), keypoints=tuple(f"point_{i}" for i in range(17)))


def test_outlines_are_rings_around_parts_and_holes():
    masks = found_with_shapes().masks
    outer, inner = sorted(outlines(masks[0]), key=lambda ring: -np.ptp(np.array(ring)[:, 0]))
    assert np.abs(np.array(outer).min(0) - 10).max() <= 0.5
    assert np.abs(np.array(outer).max(0) - 40).max() <= 0.5
    assert np.abs(np.array(inner).max(0) - 30).max() <= 0.5
    assert len(outer) <= 8  # straight sides without points on them
    (edge,) = outlines(masks[1])
    assert np.array(edge).max(0).tolist() == [120, 44]
    assert outlines(torch.zeros(9, 9, dtype=torch.bool)) == []


def test_a_large_mask_is_traced_where_it_lies():
    mask = torch.zeros(1000, 1500, dtype=torch.bool)
    mask[400:800, 300:900] = True
    (ring,) = outlines(mask)
    assert np.abs(np.array(ring).min(0) - [300, 400]).max() < 4
    assert np.abs(np.array(ring).max(0) - [900, 800]).max() < 4


@pytest.mark.parametrize(
    ("parts", "drawn", "empty"),
    [
        (("masks",), [(20, 40), (50, 20)], [(30, 50), (14, 14)]),
        (("corners",), [(64, 34), (34, 64)], [(20, 20), (50, 50)]),
    ],
)
def test_shapes_are_drawn_where_they_lie(parts, drawn, empty):
    """On a picture twice the image's size."""
    whole, picture = found_with_shapes(), Image.new("RGB", (240, 180))
    found = replace(made_up_detections(2), **{part: getattr(whole, part) for part in parts})
    turned = draw_shape(picture, found, 0, (90, 120), (255, 255, 255), (90, 90, 90))
    assert turned is ("corners" in parts)
    pixels = np.asarray(picture)[..., 0]
    near = lambda x, y: pixels[y - 2 : y + 3, x - 2 : x + 3].max()
    assert all(near(x, y) == 255 for x, y in drawn)
    assert all(near(x, y) == 0 for x, y in empty)


def test_keypoints_are_dots_and_a_persons_are_joined():
    found = replace(made_up_detections(1), keypoints=torch.full((1, 17, 3), 60.0))
    assert len(limbs_of(found)) == 16
    few = replace(found, keypoints=found.keypoints[:, :4])
    assert limbs_of(few) == ()
    picture = Image.new("RGB", (120, 90))
    draw_shape(picture, few, 0, (90, 120), (255, 255, 255), (90, 90, 90))
    assert np.asarray(picture)[60, 60].tolist() == [255] * 3


def test_the_page_holds_shapes():
    body = json.loads(re.sub(r"\\u003c", "<", make_sheet(photo_of([explained(found_with_shapes())])).body))
    first = body["detections"][0]
    assert len(first["outlines"]) == 2
    assert (len(first["points"]), len(first["corners"]), len(body["limbs"])) == (17, 4, 16)
    assert body["keypoints"][3] == "point_3"
    plain = json.loads(make_sheet(photo_of([explained(made_up_detections(2))])).body)
    assert set(plain["detections"][0]) == {"name", "score", "box", "note"}


@pytest.mark.parametrize(
    ("target", "label", "question"),
    [
        ("keypoint:left_wrist:x", "Left wrist (x)", "Why is the left wrist of {name} here?"),
        ("keypoint:nose", "Nose", "Why the nose of {name}?"),
        ("corner:2:y", "Corner 2 (y)", "Why is corner 2 of {name} here?"),
        ("mask:edge", "Mask edge", "Why does the mask of {name} end here?"),
    ],
)
def test_questions(target, label, question):
    assert words_of(target)[:2] == (label, question)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_saved_and_loaded_and_exported(tmp_path):
    found = found_with_shapes()
    kept = explained(found)
    kept.save(tmp_path / "a")
    read = Explanation.load(tmp_path / "a")
    for name in ("masks", "keypoints", "corners"):
        assert torch.equal(getattr(read.detections, name), getattr(found, name)), name
    assert read.keypoints == kept.keypoints
    assert read.to_dict() == kept.to_dict()
    assert read[1].detections.masks.shape == (1, 90, 120)
    (first, _) = kept.to_coco()
    assert np.array_equal(decode(first["segmentation"]), found.masks[0].numpy())
    assert first["keypoints"][:3] == pytest.approx(found.keypoints[0, 0].tolist())
    json.dumps([kept.to_coco(), kept.to_dict()])
    overlay = np.asarray(kept.overlay(0).convert("L"))
    without = np.asarray(explained(made_up_detections(2)).overlay(0).convert("L"))
    assert (overlay != without).any()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervision_gets_masks():
    pytest.importorskip("supervision")
    found = found_with_shapes()
    assert np.array_equal(explained(found).to_supervision().mask, found.masks.numpy())
