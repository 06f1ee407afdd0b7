"""Images on the way from one to another, pixel by pixel in the order of a map."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from whybox.frame import Size

Fill = Literal["random", "black", "mean", "blurred"]
Extent = Literal["box", "image", "half"]

BLUR = 0.1
"""Sigma of the blurred fill as a share of the image's longer side: at 640 pixels, nothing narrower than 64 keeps a shape."""


@dataclass(frozen=True)
class Way:
    """One object's images: after each of the counts, so many pixels, those of the lowest ranks, are `end`'s instead of
    `start`'s. start, end (3,H,W); ranks (H,W), as of `rank_pixels`."""

    start: Tensor
    end: Tensor
    ranks: Tensor
    counts: list[int]


def draw_steps(ways: Iterable[Way], batch: int) -> Iterator[Tensor]:
    """The images of all ways, in order, in batches (b,3,H,W). One batch exists at a time: the next one is written over it."""
    page: Tensor | None = None
    filled = 0
    for way in ways:
        page = way.start.new_empty((batch, *way.start.shape)) if page is None else page
        for count in way.counts:
            torch.where(way.ranks < count, way.end, way.start, out=page[filled])
            filled += 1
            if filled == batch:
                yield page
                filled = 0
    if page is not None and filled:
        yield page[:filled]


def rank_pixels(values: Tensor, generator: torch.Generator) -> Tensor:
    """The ranks (H,W) of a map's pixels, 0 for the highest. Equal values come in random order, so that a flat region is no
    hidden ranking from the top left to the bottom right."""
    flat = values.flatten()
    shuffled = torch.randperm(flat.numel(), generator=generator).to(flat.device)
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(values.shape)


def count_pixels(box: Tensor, size: Size, extent: Extent, points: int) -> list[int]:
    """How many pixels are changed at each of the points, from none on.

    "box": 100 steps of max(1, int(area / 100)) pixels, area the part of the box (4,) inside the image; never more than
    the image has. "image": up to all of its pixels. "half": 100 steps of max(1, int(pixels / 200)).
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
    """What stands (3,H,W) where an image's pixels are missing. random: uniform in 0..1, every pixel and channel for itself,
    drawn from the generator. mean: the image's mean color. blurred: see `blur_image`."""
    if fill == "random":
        return torch.rand(image.shape, generator=generator).to(image)
    if fill == "black":
        return torch.zeros_like(image)
    if fill == "mean":
        return image.mean((-2, -1), keepdim=True).expand_as(image)
    return blur_image(image, BLUR * max(image.shape[-2:]))


def blur_image(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of an image (3,H,W); at the edge the weights that lie inside are scaled to sum to 1."""
    down, across = (_gaussian(length, sigma, image) for length in image.shape[-2:])
    return down @ image @ across.T


def _gaussian(length: int, sigma: float, like: Tensor) -> Tensor:
    """(length,length): how much every pixel gives to each."""
    at = torch.arange(length, dtype=like.dtype, device=like.device)
    weights = (-0.5 * ((at[:, None] - at) / sigma) ** 2).exp()
    return weights / weights.sum(1, keepdim=True)
