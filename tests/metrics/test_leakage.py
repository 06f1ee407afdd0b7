"""Leaks pair by pair: sums over sets of pixels, and DIoU by hand."""

import pytest
import torch

from metrics.annotated import add_up, random_case, region_pixels, same
from whybox.errors import UnknownNameError
from whybox.metrics.leakage import Leakage, largest_leak, leaks
from whybox.ops.regions import Regions


@pytest.mark.parametrize("region", ["box", "mask"])
def test_a_leak_is_the_share_in_the_others_own_region(region):
    maps, case = random_case(ignore=[5])
    counted = [0, 1, 2, 3, 4, 6]
    values = Leakage(region)(maps, case).values
    masks = case.truth.masks[counted] if region == "mask" else None
    shares = leaks(maps[counted], Regions(case.truth.boxes[counted], (40, 50), masks), torch.arange(6)).shares
    for row, n in enumerate(counted):
        positive = maps[n].clamp(min=0)
        own = region_pixels(case, n, region)
        expected = [add_up(positive, region_pixels(case, m, region) - own) / float(positive.sum()) for m in counted]
        expected[row] = torch.nan
        same(shares[row], expected)
        same(values[n, None], [max(share for m, share in enumerate(expected) if m != row)])
    assert values[5].isnan()


def test_diou_by_hand():
    """Boxes 0..4 and 2..6 across, both 0..3 down: IoU 6/18, centers 2 apart, around both 6 by 3, diagonal^2 45.
    And one apart: centers 8.5 and 0 apart, around both 12 by 3, diagonal^2 153."""
    boxes = torch.tensor([[0.0, 0, 4, 3], [2, 0, 6, 3], [9, 0, 12, 3]])
    pairs = leaks(torch.ones((2, 5, 15)), Regions(boxes, (5, 15)), torch.tensor([0, 1]), "zero")
    same(pairs.diou[0], [torch.nan, 6 / 18 - 4 / 45, -(8.5**2) / 153])
    same(pairs.diou[1], [6 / 18 - 4 / 45, torch.nan, -(6.5**2) / (10**2 + 3**2)])
    same(pairs.shares[0], [torch.nan, 6 / 75, 9 / 75])


def test_the_largest_of_each_row():
    nan = torch.nan
    same(largest_leak(torch.tensor([[nan, 0.2, 0.3], [0.0, nan, 0.0], [nan, nan, nan]])), [0.3, 0, nan])
    same(largest_leak(torch.zeros((2, 0))), [nan, nan])


def test_alone_there_is_nothing_to_leak_to():
    maps, case = random_case(ignore=range(1, 7))
    assert Leakage()(maps, case).values.isnan().all()


def test_what_is_not_defined_is_nan():
    maps, case = random_case(ignore=[2])
    maps[0] = 0
    maps[1] = 0.5
    maps[3, 3, 3] = torch.nan
    assert Leakage()(maps, case).values.isnan().tolist() == [True, True, True, True, False, False, False]


def test_the_floor_takes_the_offset_away():
    maps, case = random_case()
    raised = maps.clamp(min=0) + 4
    same(Leakage()(raised, case).values, Leakage()(maps, case).values.tolist(), rtol=1e-4)
    assert (Leakage(floor="zero")(raised, case).values - Leakage()(raised, case).values).abs().amax() > 1e-3


def test_a_mistaken_option_is_named():
    for option in ("region", "floor"):
        with pytest.raises(UnknownNameError, match=f"unknown {option} 'none'"):
            Leakage(**{option: "none"})
