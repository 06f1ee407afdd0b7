"""Regions of objects against sets of pixels written out, and the choice of what counts as an object."""

import pytest
import torch

from metrics.annotated import case_of
from whybox.errors import WhyboxError
from whybox.ops.regions import Regions, energy, judge_matched, object_regions, sum_shares, tied_peaks

SIZE = (6, 8)


def pixels(region):
    return {(y, x) for y, x in region.nonzero().tolist()}


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([2, 1, 5, 4], range(1, 4), range(2, 5)),
        ([2.1, 1.9, 4.1, 3.0], range(1, 3), range(2, 5)),
        ([-3.5, -2, 2.5, 20], range(0, 6), range(0, 3)),
        ([3, 3, 3, 3], (), ()),
        ([9, 1, 12, 4], (), ()),
        ([-4, 1, -1, 4], (), ()),
    ],
)
def test_a_box_is_the_pixels_that_it_touches(box, rows, columns):
    regions = Regions(torch.tensor([box], dtype=torch.float32), SIZE)
    assert pixels(regions.of(torch.tensor([0]))[0]) == {(y, x) for y in rows for x in columns}


@pytest.fixture(params=["box", "mask"])
def regions(request):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand((30, 2, 2), generator=generator) * 60 - 10
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    masks = torch.rand((30, 40, 50), generator=generator) > 0.7 if request.param == "mask" else None
    return Regions(boxes, (40, 50), masks)


def test_sums_and_counts_are_those_of_the_pixels(regions):
    everything = regions.of(torch.arange(30))
    maps = torch.rand((5, 40, 50), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(regions.sums(maps), torch.einsum("nhw,ghw->ng", maps, everything.float()))
    assert torch.equal(regions.counts(), everything.sum(0, dtype=torch.int32))
    assert regions.counts().amax() > 2
    assert torch.equal(regions.of(torch.tensor([7, 7, 3])), everything[[7, 7, 3]])


@pytest.mark.parametrize("masks", [None, torch.zeros((0, *SIZE), dtype=torch.bool)])
def test_no_object_is_no_region(masks):
    regions = Regions(torch.zeros((0, 4)), SIZE, masks)
    assert regions.sums(torch.ones((3, *SIZE))).shape == (3, 0)
    assert regions.counts().tolist() == [[0] * 8] * 6
    assert regions.of(torch.zeros(0, dtype=torch.long)).shape == (0, *SIZE)


def test_masks_of_another_size_are_refused():
    with pytest.raises(WhyboxError, match=r"masks must have the size of their image, \(6, 8\), got \(8, 6\)"):
        Regions(torch.zeros((1, 4)), SIZE, torch.zeros((1, 8, 6), dtype=torch.bool))


def test_masks_that_are_not_there_are_missed():
    with pytest.raises(WhyboxError, match="region='mask' needs annotated masks"):
        object_regions(torch.zeros((1, *SIZE)), case_of([[0, 0, 1, 1]], [0]), "mask")


def test_ignore_regions_are_no_objects():
    masks = torch.zeros((4, *SIZE), dtype=torch.bool)
    masks[torch.arange(4), torch.arange(4), 0] = True
    case = case_of([[i, 0, i + 1, 1] for i in range(4)], [3, 1, -1, 0, 2], ignore=[1], masks=masks)
    regions, own = object_regions(torch.zeros((5, *SIZE)), case, "mask")
    assert own.tolist() == [2, -1, -1, 0, 1]
    assert regions.boxes[:, 0].tolist() == [0, 2, 3]
    assert torch.equal(regions.masks, masks[[0, 2, 3]])
    assert object_regions(torch.zeros((5, *SIZE)), case, "box")[0].masks is None


def test_without_annotations_nothing_is_matched():
    _, own = object_regions(torch.zeros((2, *SIZE)), case_of([], [-1, -1]), "box")
    assert own.tolist() == [-1, -1]


def test_only_matched_rows_are_judged():
    maps = torch.arange(4.0)[:, None, None].expand(4, *SIZE)
    values = judge_matched(maps, torch.tensor([1, -1, 0, -1]), lambda chosen, rows: chosen.amax((1, 2)) * 10 + rows)
    assert values.nan_to_num(nan=-1).tolist() == [1, -1, 20, -1]
    curves = judge_matched(maps, torch.tensor([-1, -1, 0, -1]), lambda chosen, _: chosen[:, :2, 0])
    assert curves.nan_to_num(nan=-1).tolist() == [[-1, -1], [-1, -1], [2, 2], [-1, -1]]


def test_energy_has_no_offset_and_nothing_negative():
    maps = torch.tensor([[[3.0, 5.0]], [[-3.0, 5.0]], [[2.0, 2.0]], [[-2.0, -1.0]]])
    assert energy(maps).tolist() == [[[0, 1]], [[0, 1]], [[0, 0]], [[0, 0]]]
    assert (5 * energy(maps, "zero")).tolist() == [[[3, 5]], [[0, 5]], [[5, 5]], [[0, 0]]]


def test_shares_stay_below_one_and_nan_stays_nan():
    part, whole = torch.tensor([1.0, 0.0, torch.nan, 1 + 1e-6]), torch.tensor([4.0, 0.0, torch.nan, 1.0])
    assert sum_shares(part, whole, nothing=0.5).nan_to_num(nan=-1).tolist() == [0.25, 0.5, -1, 1]


def test_peaks_may_tie():
    maps = torch.tensor([[[1.0, 4.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[torch.nan, 1.0], [2.0, 3.0]]])
    assert tied_peaks(maps).sum((1, 2)).tolist() == [2, 4, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e37])
def test_energy_is_a_share_whatever_the_scale(scale):
    maps = torch.rand((2, 20, 30), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(energy(maps * scale), energy(maps), rtol=1e-4, atol=1e-6)


def test_energy_of_half_precision_does_not_overflow():
    maps = torch.rand((1, 480, 640), generator=torch.Generator().manual_seed(0)).half() * 100
    assert energy(maps).dtype == torch.float32
    assert energy(maps).sum().isfinite()
