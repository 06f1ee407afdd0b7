"""Turned boxes: what encloses them, and how much two of them overlap."""

import torch
from torch import Tensor

_CHUNK = 500
"""Boxes that are compared with all others at once."""
_LEAST = 1e-7
"""Determinants are at least this, so that boxes without extent divide by no zero."""


def around_turned(boxes: Tensor, angle: Tensor) -> Tensor:
    """The smallest upright boxes around turned ones.

    Args:
        boxes: (N,4) center, width and height, in pixels.
        angle: (N,) by which they are turned, in radians.

    Returns:
        (N,4) xyxy.
    """
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    turn = torch.stack([angle.cos().abs(), angle.sin().abs()], 1)
    reach = torch.stack([(half * turn).sum(1), (half * turn.flip(1)).sum(1)], 1)
    return torch.cat([center - reach, center + reach], 1)


def corners_of(boxes: Tensor, angle: Tensor) -> Tensor:
    """The corners of turned boxes, in the order in which ultralytics gives them.

    Args:
        boxes: (N,4) center, width and height, in pixels.
        angle: (N,) by which they are turned, in radians.

    Returns:
        (N,4,2) xy: for a box that is not turned bottom right, top right, top left and bottom left.
    """
    along = torch.stack([angle.cos(), angle.sin()], 1) * boxes[:, 2:3] / 2
    across = torch.stack([-angle.sin(), angle.cos()], 1) * boxes[:, 3:] / 2
    sums, differences = along + across, along - across
    return boxes[:, None, :2] + torch.stack([sums, differences, -sums, -differences], 1)


def overlaps_better(center: Tensor, sides: Tensor, angle: Tensor, threshold: float) -> Tensor:
    """Which of N turned boxes, in order of their scores, overlap one with a better score by more than `threshold`.

    The overlap is ProbIoU (Llerena et al.: Gaussian Bounding Boxes and Probabilistic Intersection-over-Union, 2021): one minus
    the Hellinger distance of two normal distributions with the mean and covariance of points spread evenly over each box.

    Args:
        center: (N,2) xy.
        sides: (N,2) width and height.
        angle: (N,) in radians.
        threshold: 0 to 1.

    Returns:
        (N,) bool
    """
    spread = _covariance(sides, angle)
    found = torch.zeros(len(center), dtype=torch.bool, device=center.device)
    order = torch.arange(len(center), device=center.device)
    for rows in torch.split(order, _CHUNK):
        both = (spread[rows, None] + spread[None]) / 2
        apart = center[rows, None] - center[None]
        determinant = _determinant(both)
        alone = (_determinant(spread)[rows, None] * _determinant(spread)[None]).sqrt()
        # B = 1/8 d^T S^-1 d + 1/2 ln(det S / sqrt(det S1 det S2)), of which the Hellinger distance is sqrt(1 - exp(-B)).
        x, y = apart.unbind(-1)
        xx, yy, xy = both.unbind(-1)
        distance = (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant.clamp(min=_LEAST) / 8
        distance = distance + (determinant / alone.clamp(min=_LEAST)).clamp(min=_LEAST).log() / 2
        overlap = 1 - (1 - (-distance.clamp(min=0)).exp()).sqrt()
        found[rows] = ((overlap > threshold) & (order < rows[:, None])).any(1)
    return found


def _covariance(sides: Tensor, angle: Tensor) -> Tensor:
    """(N,3): the variances of x and y, and their covariance."""
    along, across = (sides**2 / 12).unbind(1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin], 1)


def _determinant(covariance: Tensor) -> Tensor:
    xx, yy, xy = covariance.unbind(-1)
    return (xx * yy - xy**2).clamp(min=0)
