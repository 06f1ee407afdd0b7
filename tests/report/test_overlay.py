"""Colors, the opacity that follows the value, and boxes."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from report.made_up import FRAME, made_up_maps
from whybox.report.overlay import (
    at_size,
    blend,
    color_table,
    draw_box,
    fit,
    is_signed,
    jpeg_bytes,
    overlay,
    picture_of,
    png_bytes,
    tensor_of,
    value_range,
)
from whybox.types import HeatMaps

GREY = np.full((1, 5, 3), 128, np.uint8)
RISING = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32)


def test_colors_are_matplotlibs_own():
    from matplotlib import colormaps

    assert np.allclose(color_table("inferno") / 255, colormaps["inferno"](np.arange(256))[:, :3], atol=0.5 / 255)


def test_weak_is_transparent_and_strong_covers():
    mixed = blend(GREY, RISING, 0.0, 1.0, opacity=1.0)
    assert (mixed[0, 0] == GREY[0, 0]).all()
    assert (mixed[0, 4] == color_table("inferno")[255]).all()
    assert np.allclose(mixed[0, 2], 128 * 0.25 + color_table("inferno")[128] * 0.75, atol=1)


def test_the_same_map_on_a_wider_scale_is_fainter():
    own, shared = (blend(GREY, RISING, 0, high).astype(int) - 128 for high in (1, 100))
    assert np.abs(own).max() > 10 * np.abs(shared).max()


def test_both_signs_are_transparent_at_zero_and_have_two_arms():
    mixed = blend(GREY, np.array([[-2.0, -1.0, 0.0, 1.0, 1.0]], np.float32), -2.0, 1.0, opacity=1.0)
    assert (mixed[0, 2] == GREY[0, 2]).all()
    assert mixed[0, 0, 2] > mixed[0, 0, 0], "negative is blue"
    assert mixed[0, 3, 0] > mixed[0, 3, 2], "positive is red"


def test_rounding_below_zero_is_no_sign():
    assert is_signed(-0.5, 1.0)
    assert is_signed(-1.0, 0.0)
    assert not is_signed(-1e-9, 1.0)
    assert not is_signed(0.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 3.0, float("nan")])
def test_a_map_without_contrast_leaves_the_image_alone(value):
    values = torch.full((1, 5), value)
    assert (blend(GREY, values.numpy(), *value_range([values])) == GREY).all()


def test_value_range_leaves_out_what_is_not_finite():
    maps = [torch.tensor([[1.0, float("nan")]]), torch.tensor([[-2.0, float("inf")], [5.0, 0.0]])]
    assert value_range(maps) == (-2.0, 5.0)
    assert value_range([]) == (0.0, 0.0)


def test_fit_shrinks_and_never_enlarges():
    assert fit((3000, 4000), 1000) == (750, 1000)
    assert fit((30, 40), 1000) == (30, 40)
    assert fit((1, 9000), 100) == (1, 100)


def test_padding_is_cropped_at_every_size():
    grid = torch.zeros(64, 96)
    grid[:60, :80] = 1  # the resized image; what lies beyond is padding
    maps = HeatMaps((grid,), FRAME, "score", "odam")
    assert at_size(maps, (9, 12)).min() == 1
    assert at_size(maps, FRAME.image).shape == (1, 90, 120)


def test_overlay_has_the_images_shape_and_shows_the_box():
    image = torch.zeros(3, 90, 120)
    flat = HeatMaps((torch.zeros(16, 24),), FRAME, "score", "odam")
    picture = overlay(image, flat, torch.tensor([20.0, 30.0, 60.0, 70.0]), "cat 0.90")
    assert picture.size == (120, 90)
    assert picture.getpixel((60, 50)) == (255, 255, 255), "right side"
    assert picture.getpixel((40, 50)) == (0, 0, 0), "inside"


def test_overlay_shrinks_image_map_and_box_together():
    image = torch.zeros(3, 90, 120)
    flat = HeatMaps((torch.zeros(16, 24),), FRAME, "score", "odam")
    small = overlay(image, flat, torch.tensor([20.0, 30.0, 60.0, 70.0]), longest=60)
    assert small.size == (60, 45)
    assert small.getpixel((30, 25)) == (255, 255, 255)


@pytest.mark.parametrize(
    "box", [(-50.0, -50.0, 500.0, 500.0), (200.0, 200.0, 300.0, 300.0), (5.0, 5.0, 5.0, 5.0), (9.0, 9.0, 2.0, 2.0)]
)
def test_boxes_outside_or_empty_are_drawn_without_complaint(box):
    picture = Image.new("RGB", (40, 30))
    draw_box(picture, torch.tensor(box, dtype=torch.float32), "a class name that is wider than the picture")
    assert picture.size == (40, 30)


def test_pictures_and_tensors_are_each_others_inverse():
    image = (torch.rand(3, 7, 9) * 255).round() / 255
    assert torch.equal(tensor_of(picture_of(image)), image)
    assert torch.equal(tensor_of(Image.open(BytesIO(png_bytes(picture_of(image))))), image)
    assert Image.open(BytesIO(jpeg_bytes(picture_of(image)))).size == (9, 7)


def test_maps_that_carry_gradient_can_be_drawn():
    maps = made_up_maps(1)
    maps.native[0].requires_grad_()
    assert overlay(torch.rand(3, 90, 120), maps).size == (120, 90)
