"""The controls: maps that know the box and nothing else."""

import math

import pytest
import torch

import whybox
from whybox.methods.control_blob import ControlBlob, control_blob_map
from whybox.methods.control_box import control_box_map

BOXES = torch.tensor([[2.0, 1.0, 6.0, 3.0], [0.4, 0.6, 1.6, 1.4], [-5.0, -5.0, 50.0, 50.0]])


def test_a_box_fills_the_pixels_whose_centers_it_holds():
    maps = control_box_map(BOXES, (4, 8))
    by_hand = torch.zeros(4, 8)
    by_hand[1:3, 2:6] = 1
    assert torch.equal(maps[0], by_hand)
    assert maps[1].sum() == 0
    assert maps[2].all()


def test_a_blob_peaks_in_the_middle_and_falls_as_a_gaussian():
    maps = control_blob_map(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), (5, 9))
    for row, column in ((0, 0), (2, 4), (4, 8)):
        y, x = (row + 0.5 - 2) / 1.0, (column + 0.5 - 4) / 2.0
        assert float(maps[0, row, column]) == pytest.approx(math.exp(-0.5 * (x * x + y * y)), rel=1e-5)


def test_controls_see_no_features():
    model = whybox.load("whybox/scenes")
    one = whybox.explain(model, torch.rand(3, 96, 128), method="control_blob", detections={"boxes": [[10, 20, 60, 80]]})
    assert one.maps.native[0].shape == (96, 128)
    with pytest.raises(whybox.WhyboxError, match="sigma must be above 0"):
        ControlBlob(sigma=0)
