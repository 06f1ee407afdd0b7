"""The object discrimination index as sums over sets of pixels."""

import pytest
import torch

from metrics.annotated import add_up, case_of, random_case, region_pixels, same
from whybox.errors import UnknownNameError
from whybox.metrics.odi import Odi


@pytest.mark.parametrize("region", ["box", "mask"])
@pytest.mark.parametrize("overlap", ["keep", "exclude"])
@pytest.mark.parametrize("ignore", [(), (1, 4)])
def test_it_is_a_ratio_of_sums_over_unions(region, overlap, ignore):
    maps, case = random_case(ignore=ignore)
    counted = [g for g in range(7) if g not in ignore]
    expected = []
    for n, values in enumerate(maps.clamp(min=0)):
        if n in ignore:
            expected.append(torch.nan)
            continue
        others = set.union(*(region_pixels(case, g, region) for g in counted if g != n))
        if overlap == "exclude":
            others -= region_pixels(case, n, region)
        everything = set.union(*(region_pixels(case, g, region) for g in counted))
        expected.append(add_up(values, others) / add_up(values, everything))
    same(Odi(region, overlap=overlap)(maps, case).values, expected)


def test_by_hand():
    """The target in the columns 0 to 3, another object in 2 to 5, a third in 5 and 6, and energy 1 in each of 0 to 8."""
    maps = torch.ones((1, 1, 10))
    maps[0, 0, 9] = 0
    case = case_of([[0, 0, 4, 1], [2, 0, 6, 1], [5, 0, 7, 1]], [0], size=(1, 10))
    same(Odi()(maps, case).values, [5 / 7])
    same(Odi(overlap="exclude")(maps, case).values, [3 / 7])


def test_the_papers_scaling_is_the_floor_at_the_minimum():
    maps, case = random_case()
    raised = maps.clamp(min=0) + 4
    same(Odi()(raised, case).values, Odi()(maps, case).values.tolist(), rtol=1e-4)
    assert (Odi(floor="zero")(raised, case).values - Odi()(raised, case).values).abs().amax() > 1e-3


def test_a_single_object_is_undefined_or_zero():
    maps, case = random_case(ignore=range(1, 7))
    assert Odi()(maps, case).values[0].isnan()
    assert Odi(single="zero")(maps, case).values[0] == 0
    assert Odi(single="zero")(maps, case).values[1:].isnan().all()


def test_another_object_inside_the_target_leaves_nothing_to_discriminate_without_overlap():
    maps = torch.rand((1, 40, 50), generator=torch.Generator().manual_seed(0))
    case = case_of([[5, 5, 30, 30], [10, 10, 20, 20]], [0])
    assert 0.1 < Odi()(maps, case).values.item() < 0.5
    assert Odi(overlap="exclude")(maps, case).values.isnan().all()
    assert Odi(overlap="exclude", single="zero")(maps, case).values.item() == 0


def test_a_map_that_says_nothing_of_any_object_is_not_perfect():
    maps, case = random_case()
    maps[0] = 0
    maps[1] = 0.5
    maps[2, 3, 3] = torch.nan
    everything = torch.zeros((40, 50), dtype=torch.bool)
    for g in range(7):
        for pixel in region_pixels(case, g, "box"):
            everything[pixel] = True
    maps[3] = (~everything).float()
    assert maps[3].sum() > 0
    for single in ("undefined", "zero"):
        values = Odi(single=single)(maps, case).values
        assert values.isnan().tolist() == [True, True, True, True, False, False, False]


def test_a_mistaken_option_is_named():
    for option in ("region", "overlap", "single", "floor"):
        with pytest.raises(UnknownNameError, match=f"unknown {option} 'none'"):
            Odi(**{option: "none"})
