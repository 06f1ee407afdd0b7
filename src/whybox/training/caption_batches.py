"""Batches of images with a caption each and the caption's phrases, for the fine-tuning of a CLIP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from whybox.data.coco_captions import CaptionedImage
from whybox.data.images import read_image
from whybox.data.phrases import MOST, Tagger, phrases
from whybox.errors import WhyboxError
from whybox.frame import Frame

KEPT = 512 * 1024**2
"""Bytes of prepared images that are kept in memory: small data is then read and resized once, not in every epoch."""


class CaptionBatch(NamedTuple):
    """B captioned images.

    Attributes:
        pixels: (B,3,h,w) the network's input.
        captions: B captions.
        phrases: Of each caption its phrases, at most as many as `CaptionBatches.most`.
    """

    pixels: Tensor
    captions: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]


@dataclass
class CaptionBatches:
    """Batches by number, each a function of seed and number alone: an example is the same whatever a step's division.

    An epoch shows every image once, in an order of its own, with one of its captions; images that do not fill a last step
    are left for the next epoch's order.

    Attributes:
        images: The captioned images.
        prepare: Images (1,3,H,W) in 0..1 -> the network's input and its frame.
        size: Examples of a batch.
        step: Examples of a step, over all its batches.
        seed: Seed of the order and of the choice of captions.
        tagger: As for `data.phrases.phrases`.
        most: The same.
    """

    images: Sequence[CaptionedImage]
    prepare: Callable[[Tensor], tuple[Tensor, Frame]]
    size: int
    step: int
    seed: int
    tagger: Tagger = "rules"
    most: int = MOST
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.step > len(self.images):
            raise WhyboxError(f"a batch of {self.step} needs as many captioned images, and the data has {len(self.images)}")
        if self.most < 1:
            raise WhyboxError(f"at least 1 phrase of a caption must be kept, got {self.most}")
        # One caption now, so that a tagger that is not installed is told before the first step.
        phrases(self.images[0].captions[0], self.tagger)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.step

    def __call__(self, number: int) -> CaptionBatch:
        """Make a batch.

        Args:
            number: The batch's number, from 0.

        Returns:
            The batch, on the network's device.

        Raises:
            ImageError: A picture cannot be read.
            WhyboxError: The network takes images of different sizes.
        """
        drawn = [self._draw(number * self.size + i) for i in range(self.size)]
        captions = tuple(caption for _, caption in drawn)
        pixels = [self._pixels(row) for row, _ in drawn]
        if len({tuple(image.shape) for image in pixels}) > 1:
            raise WhyboxError("fine-tuning needs images of one size as the network's input; load the model without size")
        return CaptionBatch(torch.cat(pixels), captions, tuple(phrases(caption, self.tagger, self.most) for caption in captions))

    def _draw(self, example: int) -> tuple[int, str]:
        """The row of an example, counted over all epochs, and its caption."""
        epoch, place = divmod(example, self.steps * self.step)
        row = int(_order(self.seed, epoch, len(self.images))[place])
        captions = self.images[row].captions
        # 4 is the stream of captions, 3 that of the order: see Fit and CaptionedBatches for the others.
        return row, captions[int(np.random.default_rng((self.seed, 4, example)).integers(len(captions)))]

    def _pixels(self, row: int) -> Tensor:
        if row not in self._kept:
            pixels = self.prepare(read_image(self.images[row].image())[None])[0]
            self._bytes += pixels.nbytes
            if self._bytes > KEPT:
                return pixels
            self._kept[row] = pixels
        return self._kept[row]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Any:
    return np.random.default_rng((seed, 3, epoch)).permutation(count)
