"""Attention maps from eye fixations, the fixated pixels, and heat maps as distributions over the image."""

from collections.abc import Callable, Iterator

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
    kept = _inside(fixations, size)
    # A Gaussian in the plane is a product of one per axis, so the sum over fixations is a matrix product.
    down = _bells(y[kept], height, sigma)
    across = _bells(x[kept], width, sigma)
    return (down * duration[kept, None]).T @ across


def _inside(fixations: Tensor, size: Size) -> Tensor:
    """(F,) bool: which fixations lie in the image and last."""
    x, y, duration = fixations.unbind(1)
    # Comparisons with NaN are false, so fixations with NaN are left out, too.
    return (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]) & (duration > 0)


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
    values = maps.new_full((len(maps),), torch.nan)
    # One at a time: a crowd's attention maps at full resolution would not fit memory.
    for index, points in _looked_at(maps, inputs):
        attention = fixation_map(points, (maps.shape[-2], maps.shape[-1]), sigma)
        if attention.any():
            values[index] = compare(maps[index : index + 1].double(), attention[None])[0]
    return values


def compare_at_fixations(maps: Tensor, inputs: MetricInput, compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compare each map with the pixels of its object's fixations.

    Args:
        maps: (N,H,W) on the image's pixels.
        inputs: The detections' matched objects and the annotated fixations.
        compare: (map (P,) in float64, the fixations' pixels (F,) in it) -> scalar.

    Returns:
        (N,), NaN for a detection without an object, for an object without fixations inside the image, and for a map that is
        constant or holds NaN.

    Raises:
        WhyboxError: The image has no annotated fixations.
    """
    values = maps.new_full((len(maps),), torch.nan)
    for index, points in _looked_at(maps, inputs):
        pixels = fixated_pixels(points, (maps.shape[-2], maps.shape[-1]))
        values_of_map = maps[index].double().flatten()
        # False for NaN, too. Asked of the values, because rounding leaves a constant map a spread that is not 0.
        if len(pixels) and bool(values_of_map.amin() < values_of_map.amax()):
            values[index] = compare(values_of_map, pixels)
    return values


def fixated_pixels(fixations: Tensor, size: Size) -> Tensor:
    """The pixel that each fixation lies on.

    Args:
        fixations: (F,3), x and y in image pixels and the duration. The same are left out as by `fixation_map`.
        size: Of the image, (H, W).

    Returns:
        (f,) int64, row * W + column; a pixel that is fixated twice is there twice.
    """
    kept = fixations[_inside(fixations, size)]
    return kept[:, 1].long() * size[1] + kept[:, 0].long()


def _looked_at(maps: Tensor, inputs: MetricInput) -> Iterator[tuple[int, Tensor]]:
    """The index and the fixations (F,3) of each detection whose object has any."""
    if not inputs.truth.fixations:
        raise WhyboxError("human attention needs annotated fixations (Truth.fixations), and this image has none")
    for index, row in enumerate(inputs.matched.tolist()):
        fixations = inputs.truth.fixations[row] if row >= 0 else None
        if fixations is not None:
            yield index, fixations.to(maps.device, torch.float64)


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
