"""Random masks of an image: coarse binary grids, upsampled and shifted."""

from math import ceil

import torch
from torch import Tensor

from whybox.frame import Size, resize_maps


def draw_grids(count: int, cells: int, probability: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw binary grids and the shifts of their crops.

    Args:
        count: Number of grids.
        cells: Cells per side.
        probability: The probability that a cell is 1.
        seed: Seed of the draws.

    Returns:
        Grids (count,cells,cells) of 0 and 1, and shifts (count,2) in [0, 1).
    """
    # All at once and on the CPU, so that they depend on the seed alone, not on the device or the batch size.
    draws = torch.rand((count, cells**2 + 2), generator=torch.Generator().manual_seed(seed))
    return (draws[:, :-2] < probability).float().reshape(-1, cells, cells), draws[:, -2:]


def grown_canvas(size: Size, cells: int) -> tuple[Size, Size]:
    """The size that a grid is upsampled to, one cell larger than the image each way.

    Args:
        size: (height, width) of the image.
        cells: Cells per side of the grid.

    Returns:
        (height, width) of the canvas, and of a cell.
    """
    # Rounded up, so that the canvas without its additional cell covers the image.
    height, width = ceil(size[0] / cells), ceil(size[1] / cells)
    return ((cells + 1) * height, (cells + 1) * width), (height, width)


def draw_masks(grids: Tensor, shifts: Tensor, size: Size, canvas: Size, reach: Size) -> Tensor:
    """Masks in 0..1: each grid is upsampled to the canvas (bilinear) and cropped to the image's size.

    Args:
        grids: (b,g,g) binary.
        shifts: (b,2) in [0, 1): the crop's top-left corner on the canvas, as a share of `reach`.
        size: (height, width) of the masks.
        canvas: (height, width) that the grids are upsampled to.
        reach: (height, width) of the corner's range.

    Returns:
        (b,*size)

    Source: Petsiuk et al., CVPR 2021, mask generation, after Petsiuk, Das, Saenko, "RISE", BMVC 2018.
    """
    # Rounded down, so that a corner is at most reach - 1 and the crop stays on the canvas.
    corners = (shifts * shifts.new_tensor(reach)).long().tolist()
    upsampled = resize_maps(grids, canvas)
    return torch.stack(
        [mask[top : top + size[0], left : left + size[1]] for mask, (top, left) in zip(upsampled, corners, strict=True)]
    )
