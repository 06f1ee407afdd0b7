"""Compactness against its formula, summed pixel by pixel."""

import math

import pytest
import torch

from metrics.annotated import case_of, random_case, same
from whybox.errors import UnknownNameError
from whybox.metrics.compactness import Compactness, spread


def by_loops(values, peak, width, height):
    total = weighted = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            total += float(values[y, x])
            weighted += float(values[y, x]) * ((x - peak[1]) ** 2 + (y - peak[0]) ** 2)
    return math.sqrt(weighted / ((width**2 + height**2) / 4 * total))


def test_it_is_its_formula():
    maps, case = random_case()
    sides = (case.truth.boxes[:, 2:] - case.truth.boxes[:, :2]).tolist()
    expected = []
    for values, (width, height) in zip(maps.clamp(min=0), sides, strict=True):
        peak = divmod(int(values.argmax()), values.shape[1])
        expected.append(by_loops(values, peak, width, height))
    same(Compactness()(maps, case).values, expected)


def test_the_papers_scaling_is_the_floor_at_the_minimum():
    maps, case = random_case()
    raised = maps.clamp(min=0) + 4
    same(Compactness()(raised, case).values, Compactness()(maps, case).values.tolist(), rtol=1e-4)
    assert (Compactness(floor="zero")(raised, case).values - Compactness()(raised, case).values).abs().amin() > 1e-3


def test_by_hand():
    """Peak 4 at the column 1, energy 2 three columns to its right and 2 four rows below: (2 * 9 + 2 * 16) / 8 = 6.25 in
    a box of 6 by 8, whose half diagonal is 5: sqrt(6.25) / 5."""
    maps = torch.zeros((1, 10, 10))
    maps[0, 2, 1], maps[0, 2, 4], maps[0, 6, 1] = 4, 2, 2
    same(Compactness()(maps, case_of([[1, 1, 7, 9]], [0], size=(10, 10))).values, [0.5])


def test_tied_peaks_give_the_mean_square():
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand((1, 9, 11), generator=generator, dtype=torch.float64)
    peaks = [(1, 2), (7, 3), (4, 10)]
    for peak in peaks:
        maps[0][peak] = 2
    single = [by_loops(maps[0], peak, 3, 4) ** 2 for peak in peaks]
    same(spread(maps, torch.tensor([[0.0, 0, 3, 4]]), "zero"), [math.sqrt(sum(single) / 3)])


def test_one_pixel_is_the_most_compact():
    maps = torch.zeros((1, 10, 10))
    maps[0, 8, 9] = 0.1
    same(Compactness()(maps, case_of([[1, 1, 7, 9]], [0], size=(10, 10))).values, [0])


def test_a_box_beyond_the_image_keeps_its_size():
    maps = torch.zeros((1, 10, 10))
    maps[0, 2, 1], maps[0, 2, 4] = 3, 1
    same(Compactness()(maps, case_of([[-20, -30, 10, 10]], [0], size=(10, 10))).values, [(9 / 4) ** 0.5 / 25])


def test_what_is_not_defined_is_nan():
    maps, case = random_case(ignore=[2])
    maps[0] = 0
    maps[1] = 0.4
    maps[3, 3, 3] = torch.nan
    case.truth.boxes[4] = torch.tensor([5.0, 5, 5, 5])
    assert Compactness()(maps, case).values.isnan().tolist() == [True, True, True, True, True, False, False]


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown floor 'min'; did you mean minimum"):
        Compactness(floor="min")
