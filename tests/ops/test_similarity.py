"""Similarities of maps against SciPy, and against a loop written from the formula of SSIM."""

import math

import pytest
import torch
from scipy import stats

from whybox.errors import WhyboxError
from whybox.ops.similarity import (
    check_comparison,
    compare_redrawn,
    cosine,
    mean_cells,
    pearson,
    rank,
    spearman,
    ssim,
)


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(4)
    first = torch.rand((3, 9, 14), generator=generator)
    second = first + torch.randn((3, 9, 14), generator=generator)
    # Ties as heat maps have them: much of a map is exactly zero, and whole numbers repeat.
    second[1] = second[1].relu()
    first[2], second[2] = (first[2] * 4).round(), (second[2] * 3).round()
    return first, second


def rows(maps):
    return maps.flatten(1).double().numpy()


def test_pearson_is_scipys(pairs):
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(*map(rows, pairs), strict=True)]
    assert pearson(*pairs).tolist() == pytest.approx(expected, abs=1e-12)


def test_spearman_is_scipys_with_ties(pairs):
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(*map(rows, pairs), strict=True)]
    assert spearman(*pairs).tolist() == pytest.approx(expected, abs=1e-12)
    assert spearman(pairs[0], -pairs[0]).tolist() == pytest.approx([-1.0] * 3)


def test_ranks_are_scipys(pairs):
    assert torch.equal(rank(pairs[1].flatten(1)), torch.from_numpy(stats.rankdata(rows(pairs[1]), axis=1)))
    assert rank(torch.tensor([[5.0, 1.0, 5.0, 7.0]])).tolist() == [[2.5, 1.0, 2.5, 4.0]]


def test_cosine_by_hand():
    a = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])
    b = torch.tensor([[[4.0, 3.0]], [[0.0, 2.0]]])
    assert cosine(a, b).tolist() == pytest.approx([24 / 25, 0.0])


def test_raw_maps_may_be_tiny(pairs):
    for measure in (cosine, pearson, spearman):
        torch.testing.assert_close(measure(pairs[0] * 1e-30, pairs[1]), measure(*pairs), rtol=1e-5, atol=1e-6)


def test_what_is_not_defined_is_nan():
    flat, sloped = torch.full((1, 3, 3), 0.1), torch.arange(9.0).reshape(1, 3, 3)
    assert pearson(flat, sloped).isnan().all()
    assert spearman(sloped, flat).isnan().all()
    assert cosine(flat * 0, sloped).isnan().all()
    assert cosine(flat, sloped).isfinite().all()


def ssim_by_loops(a, b):
    """Wang et al. 2004, eq. 13 to 17, window by window."""
    a, b = ((values - values.min()) / (values.max() - values.min()) for values in (a.double(), b.double()))
    height, width = a.shape
    tall, wide = min(11, height), min(11, width)
    weights = torch.zeros((tall, wide), dtype=torch.float64)
    for i in range(tall):
        for j in range(wide):
            distance = (i - (tall - 1) / 2) ** 2 + (j - (wide - 1) / 2) ** 2
            weights[i, j] = math.exp(-distance / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(height - tall + 1):
        for left in range(width - wide + 1):
            x, y = (part[top : top + tall, left : left + wide] for part in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            covariance = (weights * (x - mx) * (y - my)).sum()
            structure = (2 * covariance + 0.03**2) / (vx + vy + 0.03**2)
            values.append((2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2) * structure)
    return float(sum(values) / len(values))


@pytest.mark.parametrize("size", [(16, 13), (11, 11), (5, 20), (1, 12)])
def test_ssim_is_its_formula(size):
    generator = torch.Generator().manual_seed(8)
    a = torch.rand((2, *size), generator=generator)
    b = a + torch.rand((2, *size), generator=generator)
    expected = [ssim_by_loops(x, y) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0])
    assert ssim(a, -a).amax() < 0


def test_mean_cells_of_a_small_map_by_hand():
    maps = torch.tensor([[[1.0, 2.0, 6.0], [3.0, 4.0, 0.0]]])
    # Two cells of one and a half columns, one row of cells: the middle column counts half on either side.
    expected = [[[(1 + 3 + 0.5 * (2 + 4)) / 3, (6 + 0 + 0.5 * (2 + 4)) / 3]]]
    torch.testing.assert_close(mean_cells(maps, 2), torch.tensor(expected, dtype=torch.float64))


def test_mean_cells_keeps_the_mean_and_never_grows():
    maps = torch.rand((2, 37, 53), generator=torch.Generator().manual_seed(1))
    cells = mean_cells(maps, 16)
    assert cells.shape == (2, 11, 16)
    torch.testing.assert_close(cells.mean((1, 2)), maps.double().mean((1, 2)))
    assert torch.equal(mean_cells(maps, 64), maps.double())
    whole = mean_cells(maps[:, :36, :48], 12)
    torch.testing.assert_close(whole, torch.nn.functional.avg_pool2d(maps[:, :36, :48].double(), 4))


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_blank_and_broken_maps(similarity):
    sloped = torch.rand((1, 20, 20), generator=torch.Generator().manual_seed(2))
    blank, broken = torch.full_like(sloped, 0.3), sloped.clone()
    broken[0, 3, 3] = torch.inf
    first = torch.cat([sloped, sloped, blank, blank, sloped, broken])
    second = torch.cat([sloped, blank, sloped, blank, broken, sloped])
    values = compare_redrawn(first, second, similarity, 8)
    assert values[:2].tolist() == pytest.approx([1.0, 0.0])
    assert values[2:].isnan().all()
    assert compare_redrawn(first[:0], second[:0], similarity, 8).shape == (0,)


def test_mistaken_options_are_named():
    with pytest.raises(WhyboxError, match="unknown similarity 'spearmen'; did you mean spearman"):
        check_comparison("spearmen", 64)
    with pytest.raises(WhyboxError, match="size must be at least 2"):
        check_comparison("ssim", 1)


def test_pixels_of_a_flat_region_tie_after_averaging():
    """A bright square on a ground of .1, and one elsewhere: the grounds agree by ties alone. With scipy on exact cells."""
    a, b = torch.full((1, 333, 500), 0.1), torch.full((1, 333, 500), 0.1)
    a[0, 40:120, 60:160], b[0, 200:280, 300:400] = 0.8, 0.8
    cells = [mean_cells(maps, 64)[0].numpy().round(6).ravel() for maps in (a, b)]
    assert compare_redrawn(a, b, "spearman", 64).item() == pytest.approx(stats.spearmanr(*cells).statistic, abs=1e-6)
