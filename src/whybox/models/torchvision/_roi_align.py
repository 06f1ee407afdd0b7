"""RoIAlign as two small matrices per region, whose transpose is two matrix products."""

import torch
from torch import Tensor


def align_weights(start: Tensor, end: Tensor, bins: int, ratio: int, length: int, first: Tensor, window: int) -> Tensor:
    """The weight of each cell of a window in each bin of RoIAlign, along one axis. The pooled region is
    rows @ features @ columns.T. A region is at least one cell long; samples up to one cell beyond the edge read the edge,
    those farther out read 0.

    Args:
        start: (n,) the regions' starts, in cells.
        end: (n,) the regions' ends, in cells.
        bins: Bins along this axis.
        ratio: Samples per bin; 0 or less: the bin's size in cells, rounded up.
        length: Cells along this axis.
        first: (n,) the windows' first cells.
        window: Cells of a window.

    Returns:
        (n,bins,window)

    Source: He et al., Mask R-CNN, 2017, section 3; conventions of torchvision.ops.roi_align with aligned=False.
    """
    step = (end - start).clamp(min=1) / bins
    samples = torch.full_like(step, ratio) if ratio > 0 else step.ceil().clamp(min=1)
    most = int(samples.max()) if len(samples) else 1
    # In the boxes' dtype: a whole number plus 0.5 would be of torch's default dtype, which the user may have changed.
    inner = torch.arange(most, device=start.device, dtype=start.dtype)
    used = (inner < samples[:, None]) / samples[:, None]
    offset = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None] + (inner + 0.5) / samples[:, None, None]
    at = start[:, None, None] + offset * step[:, None, None]
    # Beyond one cell from the edge a sample is 0, nearer it reads the edge, as in torchvision's bilinear_interpolate.
    weight = used[:, None, :] * ((at >= -1) & (at <= length))
    at = at.clamp(0, length - 1)
    low = at.floor()
    far = at - low
    # One cell more, for the right neighbor of a sample in the last cell, whose weight is 0 there.
    result = start.new_zeros((len(start), bins, window + 1))
    # Clamped, because samples that read 0 may lie outside the window.
    place = (low.long() - first[:, None, None]).clamp(0, window - 1)
    result.scatter_add_(2, place, weight * (1 - far))
    result.scatter_add_(2, place + 1, weight * far)
    return result[:, :, :window]


def pool_by_matrices(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """RoIAlign as matrix products: features (C,h,w), rows (n,p,h), columns (n,q,w) from `align_weights` -> (n,C,p,q)."""
    return rows[:, None] @ features @ columns[:, None].mT


def spread_pooled(pooled: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """RoIAlign's transpose: gradients (n,C,p,q) at pooled features -> (n,C,k,l) at the windows they were pooled from.

    rows: (n,p,k), columns: (n,q,l), from `align_weights`.
    """
    count, channels, high, wide = pooled.shape
    across = (pooled.reshape(count, channels * high, wide) @ columns).reshape(count, channels, high, -1)
    down = rows.transpose(1, 2) @ across.transpose(1, 2).reshape(count, high, -1)
    return down.reshape(count, rows.shape[2], channels, -1).transpose(1, 2)
