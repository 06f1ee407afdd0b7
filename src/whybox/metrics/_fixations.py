"""Attention maps from eye fixations, and heat maps as distributions over the image."""

from collections.abc import Callable

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.ops.regions import Floor, check_floor, energy
from whybox.truth import MetricInput

DEGREE_PIXELS = 23.0
"""Pixels per degree of visual angle in the ODAM paper's experiment, on a screen of 1280x1024 pixels."""


def fixation_map(fixations: Tensor, size: Size, sigma: float = DEGREE_PIXELS) -> Tensor:
    """The attention map of fixations: a sum of Gaussians, weighted by duration.

    Source: Zhao et al. (ODAM), the comparison with human attention: a bandwidth of one degree of visual angle, 23 pixels.
    The weight by duration is ours: the paper names none.

    Args:
        fixations: (F,3), x and y in image pixels and the duration. Those outside the image, with NaN, or without a positive
            duration are left out.
        size: Of the image, (H, W).
        sigma: Standard deviation in pixels.

    Returns:
        (H,W), evaluated at the pixels' centers (column + 0.5, row + 0.5); a Gaussian's peak is its duration. Zero without
        fixations.
    """
    x, y, duration = fixations.unbind(1)
    height, width = size
    # Comparisons with NaN are false, so fixations with NaN are left out, too.
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (duration > 0)
    # A Gaussian in the plane is a product of one per axis, so the sum over fixations is a matrix product.
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
    """Compare each map with the attention map of its object.

    Args:
        maps: (N,H,W) on the image's pixels.
        inputs: The detections' matched objects and the annotated fixations.
        sigma: Standard deviation of the Gaussian at a fixation, in pixels.
        compare: (map (1,H,W), attention map (1,H,W)) -> (1,).

    Returns:
        (N,), NaN for a detection without an object and for an object without fixations inside the image.

    Raises:
        WhyboxError: The image has no annotated fixations.
    """
    if not inputs.truth.fixations:
        raise WhyboxError("human attention needs annotated fixations (Truth.fixations), and this image has none")
    values = maps.new_full((len(maps),), torch.nan)
    # One at a time: a crowd's attention maps at full resolution would not fit memory.
    for index, row in enumerate(inputs.matched.tolist()):
        fixations = inputs.truth.fixations[row] if row >= 0 else None
        if fixations is not None:
            points = fixations.to(maps.device, torch.float64)
            attention = fixation_map(points, (maps.shape[-2], maps.shape[-1]), sigma)
            if attention.any():
                values[index] = compare(maps[index : index + 1].double(), attention[None])[0]
    return values


def to_distributions(maps: Tensor, floor: Floor = "minimum") -> Tensor:
    """Normalize maps to distributions over the image.

    Args:
        maps: (N,H,W).
        floor: See `whybox.ops.regions.energy`.

    Returns:
        (N,H,W) with sum 1; NaN for a map without energy.
    """
    amounts = energy(maps, floor)
    return amounts / amounts.sum((-2, -1), keepdim=True)


def check_attention(sigma: float, floor: str = "minimum") -> None:
    """Refuse invalid options of a comparison with attention.

    Args:
        sigma: Standard deviation in pixels.
        floor: See `whybox.ops.regions.energy`.

    Raises:
        WhyboxError: `sigma` is not positive, or `floor` is unknown.
    """
    check_floor(floor)
    if not sigma > 0:
        raise WhyboxError(f"sigma_pixels must be positive, the pixels of one degree of visual angle, got {sigma}")
