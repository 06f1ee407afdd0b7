"""Similarity of two maps: cosine, Pearson's and Spearman's correlation, structural similarity."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.types import min_max


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of maps (N,H,W) as vectors -> (N,). NaN where one is all zero."""
    first, second = (_to_peak_one(maps.flatten(1)) for maps in (a, b))
    lengths: Tensor = first.norm(dim=1) * second.norm(dim=1)
    # Rounding may give a map's similarity with itself as 1.0000000000000002.
    return ((first * second).sum(1) / lengths).clamp(-1, 1)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of maps (N,H,W) over their pixels -> (N,). NaN where one is constant."""
    return cosine(*(_centered(maps.flatten(1))[:, :, None] for maps in (a, b)))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps (N,H,W) over their pixels, ties at their mean rank -> (N,). NaN where one is
    constant."""
    return pearson(*(rank(maps.flatten(1))[:, :, None] for maps in (a, b)))


def rank(values: Tensor) -> Tensor:
    """Ranks from 1 in each row of values (N,P), equal values at the mean of the ranks they share -> float64 (N,P)."""
    ordered = values.sort(1).values
    # contiguous, because searchsorted warns about values that are not and copies them anyway.
    below = torch.searchsorted(ordered, values.contiguous())
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto + 1).double() / 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of maps (N,H,W), each scaled to run from 0 to 1 -> (N,).

    Gaussian window of 11x11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, dynamic range 1, over the windows that lie wholly
    inside; on a side shorter than 11 pixels the window is as long as the side.
    Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE TIP 2004, eq. 13, with the weighted statistics of eq. 14 to 16, averaged as in eq. 17.
    """
    # In float64: the variances are differences of nearly equal squares.
    x, y = (min_max(maps.double()) for maps in (a, b))
    down, across = (_windows(extent, x) for extent in x.shape[-2:])
    mean_x, mean_y, square_x, square_y, product = (down @ maps @ across.T for maps in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    level = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    return (level * (2 * (product - mean_x * mean_y) + c2) / (variances + c2)).mean((-2, -1))


SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"spearman": spearman, "ssim": ssim}
"""Similarities by name."""


def compare_redrawn(maps: Tensor, redrawn: Tensor, similarity: str, size: int) -> Tensor:
    """Similarity of maps and the same maps drawn again.

    Args:
        maps: (N,H,W).
        redrawn: (N,H,W).
        similarity: One of `SIMILARITIES`.
        size: Both are averaged to grids with this many cells along the longer side.

    Returns:
        (N,); 0 where the redrawn map is constant, NaN where the first map is constant or one is not finite.
    """
    # Rounded to 1e-5 of the map's largest value: in regions that were flat before resizing, rounding errors would be ranked.
    values = SIMILARITIES[similarity](*(_rounded(mean_cells(each, size)) for each in (maps, redrawn)))
    finite = (maps.isfinite() & redrawn.isfinite()).flatten(1).all(1)
    return values.masked_fill(_constant(redrawn), 0).masked_fill(_constant(maps) | ~finite, torch.nan).to(maps.dtype)


def check_comparison(similarity: str, size: int) -> None:
    """Refuse invalid options of `compare_redrawn`."""
    if similarity not in SIMILARITIES:
        raise unknown("similarity", similarity, SIMILARITIES)
    if size < 2:
        raise WhyboxError(f"size must be at least 2, the cells along a map's longest side, got {size}")


def mean_cells(maps: Tensor, longest: int) -> Tensor:
    """Area-average maps (N,H,W) to a grid with `longest` cells along the longer side -> float64 (N,h,w).

    Cells have equal areas; a pixel across a border counts on both sides by its share. The grid is never finer than the map.
    """
    height, width = maps.shape[-2:]
    scale = min(1.0, longest / max(height, width))
    down, across = (_shares(extent, max(1, round(extent * scale)), maps) for extent in (height, width))
    # 16 at a time: a hundred maps of a photograph take a gigabyte in float64.
    return torch.cat([down @ part.double() @ across.T for part in torch.split(maps, 16)])


def _shares(extent: int, cells: int, like: Tensor) -> Tensor:
    """(cells,extent): the share of each cell that each pixel covers."""
    edges = torch.linspace(0, extent, cells + 1, dtype=torch.float64, device=like.device)
    pixels = torch.arange(extent, dtype=torch.float64, device=like.device)
    end = torch.minimum(edges[1:, None], pixels + 1)
    start = torch.maximum(edges[:-1, None], pixels)
    return (end - start).clamp(min=0) * (cells / extent)


def _windows(extent: int, like: Tensor) -> Tensor:
    """(windows,extent): the Gaussian weights of every window that lies inside, each row summing to 1."""
    length = min(11, extent)
    offset = torch.arange(length, dtype=torch.float64, device=like.device) - (length - 1) / 2
    weights = (-0.5 * (offset / 1.5).square()).exp()
    rows = [torch.nn.functional.pad(weights, (start, extent - length - start)) for start in range(extent - length + 1)]
    return torch.stack(rows) / weights.sum()


def _to_peak_one(rows: Tensor) -> Tensor:
    """Rows divided by their largest absolute value."""
    # Raw maps are often of the order of 1e-20 and less: their squares would underflow.
    peak = rows.abs().amax(1, keepdim=True)
    return rows.double() / torch.where(peak > 0, peak, torch.nan)


def _rounded(maps: Tensor) -> Tensor:
    step = maps.abs().amax((-2, -1), keepdim=True) * 1e-5
    return torch.where(step > 0, (maps / step).round() * step, maps)


def _centered(rows: Tensor) -> Tensor:
    """Rows minus their mean; a constant row becomes exactly zero."""
    # Rounding would leave noise in a constant row, and the noise would have a correlation.
    constant = rows.amin(1, keepdim=True) == rows.amax(1, keepdim=True)
    return (rows.double() - rows.double().mean(1, keepdim=True)).masked_fill(constant, 0)


def _constant(maps: Tensor) -> Tensor:
    """(N,) bool"""
    return maps.amin((-2, -1)) == maps.amax((-2, -1))
