"""From where people looked to a map of attention, and maps as distributions over the image."""

from collections.abc import Callable

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.ops.regions import Floor, check_floor, energy
from whybox.truth import MetricInput

DEGREE_PIXELS = 23.0
"""Pixels of one degree of visual angle in the set-up of the ODAM paper: a screen of 1280x1024 pixels."""


def fixation_map(fixations: Tensor, size: Size, sigma: float = DEGREE_PIXELS) -> Tensor:
    """Gaussians of `sigma` pixels around fixations (F,3), x, y in image pixels and duration, times durations -> (H,W).

    The sum is taken exactly at the pixels' centers, (column + 0.5, row + 0.5); a Gaussian's peak is its duration.
    Fixations outside the image, at NaN, or without a positive duration are left out; where none is left, the map is zero.
    Source: Zhao et al. (ODAM), the comparison with human attention: a bandwidth of one degree of visual angle, 23 pixels.
    The weight by duration is ours: the paper names none.
    """
    x, y, duration = fixations.unbind(1)
    height, width = size
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (duration > 0)
    down = _bells(y[kept], height, sigma)
    across = _bells(x[kept], width, sigma)
    return (down * duration[kept, None]).T @ across


def _bells(centers: Tensor, extent: int, sigma: float) -> Tensor:
    """(F,extent): a Gaussian along one side of the image for each center."""
    pixels = torch.arange(extent, dtype=centers.dtype, device=centers.device) + 0.5
    return (-0.5 * ((pixels - centers[:, None]) / sigma).square()).exp()


def compare_with_attention(
    maps: Tensor, inputs: MetricInput, sigma: float, compare: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """`compare` each of N maps with the attention map of its object, both (1,H,W) -> (N,).

    NaN where nothing can be compared: the detection stands for no object, or nobody looked at it, in the image.
    One map at a time: a crowd's attention maps at full resolution would not fit memory.
    """
    if not inputs.truth.fixations:
        raise WhyboxError("human attention needs annotated fixations (Truth.fixations), and this image has none")
    values = maps.new_full((len(maps),), torch.nan)
    for index, row in enumerate(inputs.matched.tolist()):
        fixations = inputs.truth.fixations[row] if row >= 0 else None
        if fixations is not None:
            points = fixations.to(maps.device, torch.float64)
            attention = fixation_map(points, (maps.shape[-2], maps.shape[-1]), sigma)
            if attention.any():
                values[index] = compare(maps[index : index + 1].double(), attention[None])[0]
    return values


def to_distributions(maps: Tensor, floor: Floor = "minimum") -> Tensor:
    """Maps (N,H,W) as distributions over the image: `whybox.ops.regions.energy`, divided by its sum. NaN where that is 0."""
    amounts = energy(maps, floor)
    return amounts / amounts.sum((-2, -1), keepdim=True)


def check_attention(sigma: float, floor: str = "minimum") -> None:
    """Mistaken options of the comparison are the user's error."""
    check_floor(floor)
    if not sigma > 0:
        raise WhyboxError(f"sigma_pixels must be positive, the pixels of one degree of visual angle, got {sigma}")
