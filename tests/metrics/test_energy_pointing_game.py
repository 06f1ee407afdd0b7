"""The energy pointing game, added up pixel by pixel."""

import pytest
import torch

from metrics.annotated import SIZE, add_up, case_of, random_case, region_pixels, same
from whybox.errors import UnknownNameError
from whybox.metrics.energy_pointing_game import EnergyPointingGame


@pytest.mark.parametrize("region", ["box", "mask"])
def test_the_share_inside(region):
    maps, case = random_case()
    positive = maps.clamp(min=0)
    inside = [add_up(positive[n], region_pixels(case, n, region)) for n in range(7)]
    same(EnergyPointingGame(region)(maps, case).values, [inside[n] / float(positive[n].sum()) for n in range(7)])


def test_the_papers_scaling_is_the_floor_at_the_minimum():
    maps, case = random_case()
    raised = maps.clamp(min=0) * 4 + 2
    unit = (raised - 2) / (raised.amax((1, 2), keepdim=True) - 2)
    expected = [add_up(unit[n], region_pixels(case, n, "box")) / float(unit[n].sum()) for n in range(7)]
    same(EnergyPointingGame()(raised, case).values, expected)
    above_zero = [add_up(raised[n], region_pixels(case, n, "box")) / float(raised[n].sum()) for n in range(7)]
    same(EnergyPointingGame(floor="zero")(raised, case).values, above_zero)


def test_by_hand():
    """Box 1.5..3.2 across, 0..2 down: columns 1 to 3 of rows 0 and 1 of the numbers 1 to 15."""
    maps = torch.arange(1.0, 16).reshape(1, 3, 5)
    case = case_of([[1.5, 0, 3.2, 2]], [0], size=(3, 5))
    same(EnergyPointingGame(floor="zero")(maps, case).values, [(2 + 3 + 4 + 7 + 8 + 9) / 120])
    same(EnergyPointingGame()(maps, case).values, [(1 + 2 + 3 + 6 + 7 + 8) / 105])


def test_a_map_without_energy_has_none_inside():
    case = case_of([[5, 5, 15, 15]] * 3, [0, 1, 2])
    maps = torch.stack([torch.zeros(SIZE), torch.full(SIZE, -2.0), torch.full(SIZE, 3.0)])
    same(EnergyPointingGame()(maps, case).values, [0, 0, 0])
    same(EnergyPointingGame(floor="zero")(maps, case).values, [0, 0, 100 / 2000])


def test_what_is_not_defined_is_nan():
    maps, case = random_case(ignore=[2])
    maps[0, 3, 3] = torch.nan
    case.truth.boxes[1] = torch.tensor([60.0, 3, 70, 9])
    values = EnergyPointingGame()(maps, case).values
    assert values.isnan().tolist() == [True, True, True, False, False, False, False]


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown region 'boxes'; did you mean box"):
        EnergyPointingGame(region="boxes")
    with pytest.raises(UnknownNameError, match="unknown floor 'min'; did you mean minimum"):
        EnergyPointingGame(floor="min")
