"""Random masks over an image: coarse binary grids, stretched and shifted."""

from math import ceil

import torch
from torch import Tensor

from whybox.frame import Size, resize_maps


def draw_grids(count: int, cells: int, probability: float, seed: int) -> tuple[Tensor, Tensor]:
    """Binary grids (count,cells,cells), each cell 1 with this probability, and shifts (count,2) from 0 to below 1.

    All are drawn at once, on the CPU, so that they depend on the seed alone; they are small.
    """
    draws = torch.rand((count, cells**2 + 2), generator=torch.Generator().manual_seed(seed))
    return (draws[:, :-2] < probability).float().reshape(-1, cells, cells), draws[:, -2:]


def grown_canvas(size: Size, cells: int) -> tuple[Size, Size]:
    """The size that a grid is stretched to, one cell larger than the image each way, and the size of a cell."""
    height, width = ceil(size[0] / cells), ceil(size[1] / cells)
    return ((cells + 1) * height, (cells + 1) * width), (height, width)


def draw_masks(grids: Tensor, shifts: Tensor, size: Size, canvas: Size, reach: Size) -> Tensor:
    """Masks (b,*size) in 0..1 from binary grids (b,g,g): each stretched over the canvas (bilinear), and cut out of it.

    shifts: (b,2) from 0 to below 1: the cut's top-left corner on the canvas, as a part of `reach`, down and across.
    Source: Petsiuk et al., CVPR 2021, mask generation, after Petsiuk, Das, Saenko, "RISE", BMVC 2018.
    """
    corners = (shifts * shifts.new_tensor(reach)).long().tolist()
    wide = resize_maps(grids, canvas)
    return torch.stack(
        [mask[top : top + size[0], left : left + size[1]] for mask, (top, left) in zip(wide, corners, strict=True)]
    )
