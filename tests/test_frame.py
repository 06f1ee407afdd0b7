import pytest
import torch
from torch.nn.functional import grid_sample, interpolate
from torchvision.models.detection.transform import resize_boxes

from whybox.frame import Frame, paste_boxes, paste_windows, resize_maps, take_windows, take_windows_of_batch

LETTERBOX = Frame((100, 200), (160, 320), (320, 320), (80, 0))


def test_boxes_go_to_the_network_and_back():
    boxes = torch.tensor([[10.0, 20.0, 50.0, 90.0]])
    there = LETTERBOX.boxes_to_network(boxes)
    assert torch.allclose(there, torch.tensor([[16.0, 112.0, 80.0, 224.0]]))
    assert torch.allclose(LETTERBOX.boxes_to_image(there), boxes)


def test_boxes_equal_torchvisions_bit_by_bit():
    frame = Frame((427, 640), (800, 1199), (800, 1216))
    boxes = torch.rand(50, 4) * 800
    assert torch.equal(frame.boxes_to_image(boxes), resize_boxes(boxes, (800, 1199), (427, 640)))


def test_points_agree_with_boxes():
    points = torch.tensor([[12.0, 34.0]])
    assert torch.equal(LETTERBOX.points_to_network(points), LETTERBOX.boxes_to_network(points.repeat(1, 2))[:, :2])
    assert torch.allclose(LETTERBOX.points_to_image(LETTERBOX.points_to_network(points)), points)


def test_a_peak_on_the_canvas_lands_on_its_pixel():
    """A bright cell whose center is at network (184, 200) must peak at image ((184 - 0) / 1.6, (200 - 80) / 1.6)."""
    maps = torch.zeros(1, 20, 20)
    maps[0, 12, 11] = 1
    at_image = LETTERBOX.maps_to_image(maps)[0]
    mass = at_image / at_image.sum()
    row = (mass.sum(1) * (torch.arange(100) + 0.5)).sum()
    column = (mass.sum(0) * (torch.arange(200) + 0.5)).sum()
    assert at_image.shape == (100, 200)
    assert abs(float(row) - (200 - 80) / 1.6) < 0.6
    assert abs(float(column) - 184 / 1.6) < 0.6


def test_padding_is_cropped_unless_asked_otherwise():
    frame = Frame((100, 100), (100, 100), (100, 200))
    maps = torch.zeros(1, 10, 20)
    maps[0, :, 10:] = 1
    assert frame.maps_to_image(maps)[0, :, :90].max() == 0
    assert frame.maps_to_image(maps, crop_padding=False)[0, :, 60:].min() == 1


def test_image_to_network_is_the_way_back():
    maps = torch.rand(2, 100, 200)
    there = LETTERBOX.image_to_network(maps)
    assert there[:, :80].abs().max() == 0
    assert torch.allclose(there[:, 80:240], resize_maps(maps, (160, 320)))


CROP = Frame((100, 200), (50, 100), (50, 50), (0, -25))
"""The middle of a wide image, halved, as CLIP's preprocessing cuts it."""


def test_a_crop_carries_boxes_and_points_both_ways():
    seen = torch.tensor([[50.0, 0.0, 150.0, 100.0]])
    assert CROP.boxes_to_network(seen).tolist() == [[0.0, 0.0, 50.0, 50.0]]
    assert CROP.boxes_to_image(torch.tensor([[0.0, 0.0, 50.0, 50.0]])).tolist() == seen.tolist()
    assert CROP.points_to_image(torch.tensor([[25.0, 25.0]])).tolist() == [[100.0, 50.0]]


def test_what_a_crop_cut_off_is_zero_in_the_map():
    on_image = CROP.maps_to_image(torch.ones(1, 5, 5))[0]
    assert on_image.shape == (100, 200)
    assert on_image[:, 52:148].eq(1).all()
    assert on_image[:, :48].eq(0).all()
    assert on_image[:, 152:].eq(0).all()


def test_a_crop_cuts_maps_on_the_way_to_the_network():
    maps = torch.rand(1, 100, 200)
    assert torch.equal(CROP.image_to_network(maps), resize_maps(maps, (50, 100))[:, :, 25:75])


@pytest.mark.parametrize("sizes", [((0, 5), (4, 4), (4, 4)), ((5, 5), (8, 8), (8, 8), (8, 0)), ((5, 5), (9, 4), (8, 8), (0, -4))])
def test_impossible_frames_are_refused(sizes):
    with pytest.raises(ValueError, match=r"pixels|canvas"):
        Frame(*sizes)


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_windows_are_slices_with_nothing_beyond_the_edge(kind):
    features = (torch.rand(3, 6, 7) > 0.5).to(kind) if kind == torch.bool else torch.rand(3, 6, 7)
    origin = torch.tensor([[-2, -1], [1, 2], [4, 5]])
    windows = take_windows(features, origin, (3, 4))
    assert windows.dtype == kind
    assert torch.equal(windows[1], features[:, 1:4, 2:6])
    assert not windows[0][:, :2].any()
    assert torch.equal(windows[0][:, 2, 1:], features[:, 0, :3])
    assert torch.equal(windows[2][:, :2, :2], features[:, 4:, 5:])
    assert not windows[2][:, 2:].any()


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_windows_of_a_batch_are_those_of_its_images(kind):
    features = (torch.rand(3, 4, 6, 7) > 0.5).to(kind) if kind == torch.bool else torch.rand(3, 4, 6, 7)
    origin, image = torch.tensor([[-2, -1], [1, 2], [4, 5], [-9, 0]]), torch.tensor([2, 0, 2, 1])
    windows = take_windows_of_batch(features, image, origin, (3, 4))
    assert windows.dtype == kind
    assert windows.shape == (4, 4, 3, 4)
    for window, number, corner in zip(windows, image, origin, strict=True):
        assert torch.equal(window, take_windows(features[number], corner[None], (3, 4))[0])
    assert take_windows_of_batch(features, image[:0], origin[:0], (3, 4)).shape == (0, 4, 3, 4)


def test_windows_of_a_batch_can_be_differentiated():
    features = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    origin, image = torch.tensor([[-1, 1], [2, 3], [0, 0]]), torch.tensor([0, 1, 1])
    assert torch.autograd.gradcheck(lambda values: take_windows_of_batch(values, image, origin, (3, 3)), features)


def test_rounded_maps_are_interpolated_without_a_clamp():
    maps = torch.rand(3, 5, 6)
    torch.testing.assert_close(resize_maps(maps, (9, 4), rounded=True), resize_maps(maps, (9, 4)))


def test_paste_is_the_adjoint_of_take():
    features, windows = torch.rand(3, 6, 7), torch.rand(4, 3, 3, 3)
    origin = torch.tensor([[-2, -1], [1, 2], [4, 5], [0, 0]])
    taken = (take_windows(features, origin, (3, 3)) * windows).sum((1, 2, 3))
    pasted = (paste_windows(windows, origin, (6, 7)) * features).sum((1, 2, 3))
    assert torch.allclose(taken, pasted)
    assert paste_windows(windows[:, 0], origin, (6, 7)).shape == (4, 6, 7)


def test_a_map_over_a_box_equals_grid_sample_inside_it():
    """An independent bilinear sampler, border-padded, at the same bin coordinates."""
    maps, box = torch.rand(1, 7, 7), torch.tensor([[2.3, 3.1, 16.7, 12.4]])
    pasted = paste_boxes(maps, box, (20, 24))[0]
    x = (torch.arange(24) - box[0, 0]) / (box[0, 2] - box[0, 0]) * 2 - 1
    y = (torch.arange(20) - box[0, 1]) / (box[0, 3] - box[0, 1]) * 2 - 1
    grid = torch.stack([x.expand(20, -1), y[:, None].expand(-1, 24)], -1)[None]
    expected = grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0, 0]
    assert torch.allclose(pasted[3:14, 2:18], expected[3:14, 2:18], atol=1e-5)
    assert pasted[:3].abs().max() == pasted[14:].abs().max() == pasted[:, :2].abs().max() == pasted[:, 18:].abs().max() == 0


def test_a_constant_map_stays_constant_when_it_is_resized():
    """One cell of .37 on a padded canvas: interpolated twice, rounding alone would make five values of it."""
    maps = Frame((333, 500), (800, 1201), (800, 1216)).maps_to_image(torch.full((1, 1, 1), 0.37))
    assert maps.unique().tolist() == [pytest.approx(0.37)]


BOX_MAP = torch.zeros(1, 60, 80)
BOX_MAP[:, 13:40, 22:61] = 1


@pytest.mark.parametrize("size", [(133, 177), (480, 641), (61, 80), (48, 64), (37, 300)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_flat_parts_stay_flat_when_they_are_resized(size, mode):
    """A box has two values and a rim that lies between them; .37 and -.1 are not exact in binary."""
    for low, high in ((0.0, 1.0), (-0.1, 0.37)):
        resized = resize_maps(low + (high - low) * BOX_MAP, size, mode=mode, bounded=True)[0]
        edge = [torch.tensor([13, 40]) * size[0] / 60, torch.tensor([22, 61]) * size[1] / 80]
        y, x = (torch.arange(length) + 0.5 for length in size)
        away = [
            (at[:, None] - ends).abs().amin(1) > max(1, length / whole)
            for at, ends, length, whole in zip((y, x), edge, size, (60, 80), strict=True)
        ]
        inside = [(at > ends[0]) & (at < ends[1]) for at, ends in zip((y, x), edge, strict=True)]
        plateau = resized[inside[0] & away[0]][:, inside[1] & away[1]]
        ground = resized[~inside[0] & away[0]]
        assert plateau.unique().tolist() == [float((low + (high - low) * BOX_MAP).max())]
        assert ground.unique().tolist() == [float(torch.tensor(low))]
        assert resized.max() == plateau.max()
        assert resized.min() == ground.min()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_smooth_map_is_interpolated_as_ever(mode):
    at = torch.linspace(-1, 1, 40)
    maps = (at[:, None] + 2 * at + 0.3 * at[:, None] * at)[None]
    plain = interpolate(maps[:, None], size=(93, 117), mode=mode, align_corners=False)[:, 0]
    resized = resize_maps(maps, (93, 117), mode=mode, bounded=True)
    # At its corners bicubic interpolation overshoots this map too.
    assert torch.allclose(resized[:, 6:-6, 6:-6], plain[:, 6:-6, 6:-6], rtol=0, atol=1e-6)
    assert torch.equal(resize_maps(maps, (93, 117), mode="bicubic"), plain) or mode == "bilinear"


def test_bounds_leave_the_gradient_of_the_interpolation():
    maps = BOX_MAP.clone().requires_grad_()
    weights = torch.rand(1, 133, 177)
    resized = resize_maps(maps, (133, 177))
    plain = interpolate(maps[:, None], size=(133, 177), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(resized.detach(), resize_maps(BOX_MAP, (133, 177)))
    (found,), (wanted,) = (torch.autograd.grad((values * weights).sum(), maps) for values in (resized, plain))
    assert torch.equal(found, wanted)
