"""Data augmentation for detectors: random crops, flips and color changes, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from whybox.errors import WhyboxError
from whybox.training.examples import Example, Examples


@dataclass(frozen=True)
class DetectorBatches:
    """Batches of augmented examples by number, each a function of seed and number alone.

    Attributes:
        examples: The training examples.
        size: Examples per batch.
        seed: Seed of the order and the augmentation.
        limits: See `augment`.
        zoom: The range of the magnification.
    """

    examples: Examples
    size: int
    seed: int
    limits: tuple[int, int]
    zoom: tuple[float, float]

    def __call__(self, number: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Make a batch.

        Args:
            number: The batch's number, from 0.

        Returns:
            `size` images (3,h,w) in 0..1, and as many targets in torchvision's form: see `augment`.
        """
        # The second number separates the streams of one seed: 0 for orders, 1 for augmentation, 2 for dropout (fit.py).
        rng = np.random.default_rng((self.seed, 1, number))
        rows = choose_rows(self.seed, self.size, number, len(self.examples))
        pairs = [augment(self.examples[row], self.limits, self.zoom, rng) for row in rows]
        return [image for image, _ in pairs], [target for _, target in pairs]


def choose_rows(seed: int, size: int, number: int, count: int) -> Iterator[int]:
    """The rows of a batch: every epoch is a new permutation of all examples.

    Args:
        seed: Seed of the permutations.
        size: Examples per batch.
        number: The batch's number.
        count: The number of examples.

    Yields:
        `size` rows, 0 to count - 1.

    Raises:
        WhyboxError: There are no examples.
    """
    if count < 1:
        raise WhyboxError("there are no training examples to make batches of")
    orders: dict[int, Any] = {}
    for position in range(number * size, (number + 1) * size):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((seed, 0, epoch)).permutation(count)
        yield int(orders[epoch][place])


def augment(
    example: Example, limits: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A random crop of the example at the network's size, flipped half of the time and with changed colors.

    Objects that keep less than 0.4 of their box, or 3 pixels of a side, are dropped, and so are ignore regions.

    Args:
        example: Image and boxes.
        limits: min_size and max_size of torchvision's transform, in pixels.
        zoom: The range of the magnification.
        rng: The source of randomness.

    Returns:
        The image (3,h,w) in 0..1, and torchvision's target: boxes (N,4) xyxy in its pixels, and labels (N,).
    """
    height, width = example.image.shape[:2]
    fit = min(limits[0] / min(height, width), limits[1] / max(height, width))
    # Rounded down, as torchvision's transform rounds the sizes that it computes.
    # Not down to the pixel below where float error alone puts a whole number a hair under itself: 239.99999999999997.
    size = int(height * fit + 1e-6), int(width * fit + 1e-6)
    # Uniform in the logarithm, so that halving and doubling are equally likely.
    scale = float(np.exp(rng.uniform(*np.log(zoom))))
    # Positive where the crop is smaller than the image, negative where the image is smaller than the crop.
    spare = np.asarray([width, height]) * (1 - 1 / scale)
    # In whole pixels before boxes and image are moved: both by the same amounts, of every axis its own.
    offset = np.rint(rng.uniform(np.minimum(spare, 0), np.maximum(spare, 0)))
    window = np.maximum(np.rint(np.asarray([width, height]) / scale), 1)
    image = _window(example.image, offset.astype(int), window.astype(int), size)
    boxes = (example.boxes - np.tile(offset, 2)) * np.tile([size[1], size[0]] / window, 2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    boxes = boxes.clip(0, np.asarray([size[1], size[0]] * 2))
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides.min(1, initial=np.inf) > 3) & (np.prod(sides, axis=1) > 0.4 * areas) & ~example.iscrowd
    boxes = boxes[keep]
    if rng.random() < 0.5:
        image = image.flip(-1)
        boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    # torchvision's label 0 is the background.
    target = {"boxes": torch.from_numpy(boxes.astype(np.float32)), "labels": torch.from_numpy(example.labels[keep] + 1)}
    return _recolor(image, rng), target


def _window(pixels: NDArray[np.uint8], offset: NDArray[np.int64], window: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """The crop of `window` (x, y) pixels whose top-left corner is at `offset`, as (3,h,w) of `size`; gray outside the image."""
    height, width = pixels.shape[:2]
    (left, top), (across, down) = offset.tolist(), window.tolist()
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + across, width), min(top + down, height)
    sheet = np.full((down, across, 3), 128, dtype=np.uint8)
    sheet[y1 - top : y2 - top, x1 - left : x2 - left] = pixels[y1:y2, x1:x2]
    image = torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(image, size, mode="bilinear", align_corners=False)[0]


def _recolor(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast, brightness and tint changed by up to a fifth."""
    gain = torch.from_numpy(rng.uniform(0.85, 1.18) * rng.uniform(0.93, 1.07, (3, 1, 1))).float()
    shift = float(rng.uniform(-0.08, 0.08))
    middle = image.mean()
    return ((image - middle) * gain + middle + shift).clamp(0, 1)
