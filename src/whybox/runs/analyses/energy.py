"""Shares of a map's energy, its positive values, in regions of the image, and the region of its peak."""

import torch
from torch import Tensor


def share_between(values: Tensor, own: Tensor, other: Tensor) -> float:
    """The mean energy in a region relative to the sum of the mean energies in two regions.

    Args:
        values: A map, (H,W).
        own: The first region, (H,W) bool.
        other: The second region, (H,W) bool.

    Returns:
        1 where all energy of both regions lies in the first, 0 where it lies in the second, 0.5 where there is none.
    """
    # Means rather than sums, so that the larger region has no advantage.
    first, second = (float(values.clamp(min=0)[region].mean()) for region in (own, other))
    return first / (first + second) if first + second > 0 else 0.5


def chosen(share: float) -> float:
    """Whether the first of two regions has the larger share.

    Args:
        share: The result of `share_between`.

    Returns:
        1 or 0; 0.5 for a tie.
    """
    return 1.0 if share > 0.5 else 0.0 if share < 0.5 else 0.5


def energy_inside(values: Tensor, region: Tensor) -> float:
    """The share of a map's energy in a region.

    Args:
        values: A map, (H,W).
        region: (H,W) bool.

    Returns:
        0 to 1; NaN for a map without energy.
    """
    energy = values.clamp(min=0).double()
    return float(energy[region].sum() / energy.sum()) if energy.sum() > 0 else torch.nan


def peak_inside(values: Tensor, region: Tensor) -> float:
    """Whether a map's largest value lies in a region.

    Args:
        values: A map, (H,W).
        region: (H,W) bool.

    Returns:
        1 or 0; where several pixels have the largest value, the fraction of them in the region.
    """
    peaks = values == values.max()
    return float((peaks & region).sum() / peaks.sum())
