"""Images between two images: pixels are replaced in the order of a map, for deletion and insertion."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from whybox.frame import Size

Fill = Literal["random", "black", "mean", "blurred"]
Extent = Literal["box", "image", "half"]

BLUR = 0.1
"""Sigma of the blurred fill as a share of the image's longer side: at 640 pixels, it removes shapes narrower than 64."""


CACHED = 400_000
"""Pixels of the images that a processor takes at once. Beyond, the activations of a batch leave its caches and are allocated anew
by the system: on a small convolutional network eight images of 480x320 took twice the time of eight passes over one."""


@dataclass(frozen=True)
class Way:
    """One object's sequence of images from `start` to `end`.

    Attributes:
        start: (3,H,W).
        end: (3,H,W).
        ranks: (H,W) the order of replacement, as from `rank_pixels`.
        counts: How many pixels of each image are from `end`.
    """

    start: Tensor
    end: Tensor
    ranks: Tensor
    counts: list[int]


def draw_steps(ways: Iterable[Way], batch: int) -> Iterator[Tensor]:
    """The images of all sequences, in order, in batches (b,3,H,W). A batch is overwritten by the next one."""
    page: Tensor | None = None
    filled = 0
    for way in ways:
        page = way.start.new_empty((batch, *way.start.shape)) if page is None else page
        for count in way.counts:
            # Into one page: a new image for every step would be allocated and copied into a batch again.
            torch.where(way.ranks < count, way.end, way.start, out=page[filled])
            filled += 1
            if filled == batch:
                yield page
                filled = 0
    if page is not None and filled:
        yield page[:filled]


def batch_of(most: int, size: Size, device: torch.device) -> int:
    """How many images a forward pass takes.

    Args:
        most: The largest number.
        size: (height, width) of the images.
        device: Where the images are. On a processor fewer large images are faster.

    Returns:
        1 to `most`.
    """
    return most if device.type != "cpu" else max(1, min(most, CACHED // (size[0] * size[1])))


def rank_pixels(values: Tensor, generator: torch.Generator) -> Tensor:
    """The ranks (H,W) of a map's pixels, 0 for the highest value; ties in random order."""
    # Otherwise ties would be ranked by position, from the top left to the bottom right.
    flat = values.flatten()
    # Drawn on the CPU, so that a seed ranks alike on every device.
    shuffled = torch.randperm(flat.numel(), generator=generator).to(flat.device)
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(values.shape)


def count_pixels(box: Tensor, size: Size, extent: Extent, points: int) -> list[int]:
    """How many pixels are replaced at each point of a curve, from 0 on.

    Args:
        box: (4,) xyxy in pixels.
        size: (height, width) of the image.
        extent: "box": 100 steps of max(1, int(area / 100)) pixels, area the part of the box inside the image; at most all of
            the image. "image": up to all pixels. "half": 100 steps of max(1, int(pixels / 200)).
        points: The number of points.
    """
    height, width = size
    total = height * width
    if extent == "half":
        total = 100 * max(1, total // 200)
    if extent == "box":
        x1, y1, x2, y2 = box.double().tolist()
        area = max(0.0, min(x2, width) - max(x1, 0)) * max(0.0, min(y2, height) - max(y1, 0))
        total = 100 * max(1, int(area / 100))
    return [min(total * k // (points - 1), height * width) for k in range(points)]


def draw_fill(fill: Fill, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The image (3,H,W) that replaces removed pixels.

    Args:
        fill: "random": uniform in 0..1, independent for every pixel and channel; "black"; "mean": the image's mean color;
            "blurred": see `blur_image`.
        image: (3,H,W).
        generator: For "random", on the CPU.
    """
    if fill == "random":
        # Drawn on the CPU, so that a seed gives the same noise on every device.
        return torch.rand(image.shape, generator=generator).to(image)
    if fill == "black":
        return torch.zeros_like(image)
    if fill == "mean":
        return image.mean((-2, -1), keepdim=True).expand_as(image)
    return blur_image(image, BLUR * max(image.shape[-2:]))


def blur_image(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of an image (3,H,W); at the edge the weights inside the image are normalized to sum 1."""
    # As two matrices, not a convolution: a sigma of a tenth of the side needs a kernel nearly as long as the image.
    down, across = (_gaussian(length, sigma, image) for length in image.shape[-2:])
    return down @ image @ across.T


def _gaussian(length: int, sigma: float, like: Tensor) -> Tensor:
    """(length,length): the weight of every pixel in each."""
    at = torch.arange(length, dtype=like.dtype, device=like.device)
    weights = (-0.5 * ((at[:, None] - at) / sigma) ** 2).exp()
    return weights / weights.sum(1, keepdim=True)
