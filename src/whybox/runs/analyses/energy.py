"""Where a map's energy lies: on one object or the other, in a region, at its peak. Negative values carry none."""

import torch
from torch import Tensor


def share_between(values: Tensor, own: Tensor, other: Tensor) -> float:
    """The mean energy on a region (H,W) bool, as a part of that on two regions together: 1 where the map (H,W) sits on the first.

    Means, so that the larger region has no advantage. 0.5 where the map is nothing on both: it does not decide.
    """
    first, second = (float(values.clamp(min=0)[region].mean()) for region in (own, other))
    return first / (first + second) if first + second > 0 else 0.5


def chosen(share: float) -> float:
    """Whether the first of two regions has the larger part: 1, 0, or 0.5 for a tie."""
    return 1.0 if share > 0.5 else 0.0 if share < 0.5 else 0.5


def energy_inside(values: Tensor, region: Tensor) -> float:
    """The part of a map's energy that lies in a region (H,W) bool; NaN for a map without energy."""
    energy = values.clamp(min=0).double()
    return float(energy[region].sum() / energy.sum()) if energy.sum() > 0 else torch.nan


def peak_inside(values: Tensor, region: Tensor) -> float:
    """Whether a map's largest value lies in a region; where several pixels share it, the part of them that does."""
    peaks = values == values.max()
    return float((peaks & region).sum() / peaks.sum())
