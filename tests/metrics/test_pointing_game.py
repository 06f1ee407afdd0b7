"""The pointing game pixel by pixel, and its tolerance against scipy's distance transform."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from metrics.annotated import SIZE, case_of, random_case, same
from whybox.errors import UnknownNameError, WhyboxError
from whybox.metrics.pointing_game import PointingGame, box_targets, mask_targets, pointing_hits


def peak_at(*pixels, size=SIZE):
    maps = torch.zeros((1, *size))
    for y, x in pixels:
        maps[0, y, x] = 1
    return maps


def test_a_random_maps_peak_hits_or_not():
    for seed in range(6):
        maps, case = random_case(seed)
        peaks = [np.unravel_index(int(values.argmax()), SIZE) for values in maps]
        boxes = case.truth.boxes.tolist()
        in_box = [b[0] < x < b[2] and b[1] < y < b[3] for (y, x), b in zip(peaks, boxes, strict=True)]
        same(PointingGame()(maps, case).values, in_box)
        in_mask = [mask[y, x] for (y, x), mask in zip(peaks, case.truth.masks.numpy(), strict=True)]
        same(PointingGame("mask")(maps, case).values, in_mask)


@pytest.mark.parametrize(
    ("pixel", "hit"), [((10, 6), 1), ((10, 5), 0), ((10, 14), 1), ((10, 15), 0), ((8, 10), 0), ((9, 10), 1), ((12, 10), 1)]
)
def test_a_boxs_edge_is_outside(pixel, hit):
    """Box 5..15 across and 8.5..12.1 down: columns 6 to 14, rows 9 to 12."""
    same(PointingGame()(peak_at(pixel), case_of([[5, 8.5, 15, 12.1]], [0])).values, [hit])


def test_tied_peaks_share_the_hit():
    case = case_of([[5, 5, 15, 15]], [0])
    maps = peak_at((2, 2), (10, 10), (11, 10), (30, 40))
    same(PointingGame()(maps, case).values, [0.5])
    same(PointingGame(ties="first")(maps, case).values, [0])
    same(PointingGame(ties="first")(peak_at((10, 10), (30, 40)), case).values, [1])


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_a_flat_map_scores_what_chance_does(level):
    """Box 5..15: nine by nine of 2000 pixels are inside. The mean over maps of noise comes close to it."""
    flat = torch.full((1, *SIZE), level)
    case = case_of([[5, 5, 15, 15]], [0])
    same(PointingGame()(flat, case).values, [81 / 2000])
    noise = torch.rand((4000, *SIZE), generator=torch.Generator().manual_seed(0))
    hits = pointing_hits(noise, box_targets(case.truth.boxes, SIZE))
    assert abs(hits.mean().item() - 81 / 2000) < 3 * (81 / 2000 / 4000) ** 0.5


@pytest.mark.parametrize("tolerance", [0, 0.9, 1, 2.5, 7])
def test_a_masks_tolerance_is_a_distance(tolerance):
    _, case = random_case()
    grown = mask_targets(case.truth.masks, tolerance)
    for mask, found in zip(case.truth.masks.numpy(), grown.numpy(), strict=True):
        assert np.array_equal(found, distance_transform_edt(~mask) <= tolerance)


@pytest.mark.parametrize("tolerance", [1, 2.5, 15])
def test_a_boxs_tolerance_is_a_distance(tolerance):
    _, case = random_case()
    grown = box_targets(case.truth.boxes, SIZE, tolerance)
    for box, found in zip(case.truth.boxes.double().numpy(), grown.numpy(), strict=True):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                nearest = np.clip([x, y], box[:2], box[2:])
                assert found[y, x] == (np.hypot(*(nearest - [x, y])) <= tolerance)


def test_the_tolerance_reaches_the_metric():
    masks = torch.zeros((1, *SIZE), dtype=torch.bool)
    masks[0, 10:20, 10:20] = True
    case = case_of([[10, 10, 20, 20]], [0], masks=masks)
    for region in ("box", "mask"):
        assert PointingGame(region)(peak_at((15, 7)), case).values.item() == 0
        assert PointingGame(region, tolerance=3)(peak_at((15, 7)), case).values.item() == 1


@pytest.mark.parametrize("ties", ["expected", "first"])
def test_what_is_not_defined_is_nan(ties):
    maps, case = random_case(ignore=[2])
    maps[0, 3, 3] = torch.nan
    case.truth.boxes[1] = torch.tensor([60.0, 3, 70, 9])
    values = PointingGame(ties=ties)(maps, case).values
    assert values.isnan().tolist() == [True, True, True, False, False, False, False]


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown ties 'last'"):
        PointingGame(ties="last")
    with pytest.raises(UnknownNameError, match="unknown region 'boxes'; did you mean box"):
        PointingGame(region="boxes")
    with pytest.raises(WhyboxError, match="tolerance must be a number of pixels, 0 or more, got -1"):
        PointingGame(tolerance=-1)
