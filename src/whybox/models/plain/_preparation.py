"""How an image becomes the network's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError, unknown
from whybox.frame import Frame, Size
from whybox.models._layers import channels_taken, in_blocks

Resize = Literal["letterbox", "corner", "stretch"]


@dataclass(frozen=True)
class Preparation:
    """How an image (C,H,W) in 0..1 becomes the network's input.

    The values are multiplied by `scale`, brought to the order blue, green, red if `bgr`, and normalized: minus `mean`, divided
    by `std`, both in the network's units and channel order.

    Attributes:
        size: (h, w) of the input; None: the image as it is, padded at the bottom and right to a multiple of `multiple`.
        multiple: See `size`.
        resize: "letterbox" keeps the aspect ratio and pads on both sides, "corner" pads at the bottom and right, "stretch" does
            not keep it. Bilinear, without antialiasing.
        pad: The padding's grey, in 0..1.
        scale: 255 where the network wants 0..255.
        bgr: Whether the network wants blue first.
        mean: One number per channel; None: 0.
        std: One number per channel; None: 1.
        channels: How many channels the images have; None: as many as `mean` or `std`, else as the network's first convolution
            takes.
    """

    size: Size | None = None
    multiple: int = 1
    resize: Resize = "letterbox"
    # YOLO's grey.
    pad: float = 114 / 255
    scale: float = 1.0
    bgr: bool = False
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise unknown("resize", str(self.resize), get_args(Resize))
        whole = isinstance(self.size, tuple | list) and len(self.size) == 2 and all(isinstance(n, int) for n in self.size)
        if self.size is not None and not (whole and min(self.size) > 0):
            raise WhyboxError(f"size must be (height, width) in pixels, or None, got {self.size!r}")
        counts = {len(values) for values in (self.mean, self.std) if values is not None}
        if len(counts) > 1 or 0 in counts or (self.channels is not None and counts - {self.channels}):
            channels = "the image's channels" if self.channels is None else f"{self.channels} channels"
            raise WhyboxError(f"mean and std must have one number for each of {channels}, got {_lengths(self.mean, self.std)}")
        if self.channels is not None and (type(self.channels) is not int or self.channels < 1):
            raise WhyboxError(f"channels must be a whole number from 1 on, got {self.channels!r}")
        if self.bgr and (self.channels or 3) != 3:
            raise WhyboxError(f"bgr is about three channels, and there are {self.channels}")
        if self.multiple < 1 or (self.std is not None and 0 in self.std):
            raise WhyboxError("multiple must be at least 1, and no channel's std 0")

    @property
    def given_channels(self) -> int | None:
        """How many channels the options speak of; None where they do not say."""
        return self.channels or next((len(values) for values in (self.mean, self.std) if values is not None), None)

    def frame(self, image: Size) -> Frame:
        """Where an image of that size comes to stand on the canvas."""
        if self.size is None:
            height, width = (-(-extent // self.multiple) * self.multiple for extent in image)
            return Frame(image, image, (height, width))
        if self.resize == "stretch":
            return Frame(image, self.size, self.size)
        ratio = min(self.size[0] / image[0], self.size[1] / image[1])
        resized = (max(1, round(image[0] * ratio)), max(1, round(image[1] * ratio)))
        centered = self.resize == "letterbox"
        offset = ((self.size[0] - resized[0]) // 2, (self.size[1] - resized[1]) // 2) if centered else (0, 0)
        return Frame(image, resized, self.size, offset)

    def canvas(self, image: Tensor, frame: Frame) -> Tensor:
        """Image (C,H,W) in 0..1 -> the network's input (C,h,w)."""
        canvas = frame.image_to_network(image)
        if frame.resized != frame.network:
            # By a mask, because only the frame knows where the image lies.
            inside = frame.image_to_network(image.new_ones((1, *frame.image)))
            canvas = canvas + self.pad * (1 - inside)
        canvas = canvas.flip(0) if self.bgr else canvas
        # What changes nothing is left out: for a small network these passes over the pixels are a part of the cost.
        canvas = canvas if self.scale == 1 else canvas * self.scale
        canvas = canvas if self.mean is None else canvas - _per_channel(self.mean, canvas)
        return canvas if self.std is None else canvas / _per_channel(self.std, canvas)


def _per_channel(values: Sequence[float], canvas: Tensor) -> Tensor:
    return torch.tensor(values, dtype=canvas.dtype, device=canvas.device)[:, None, None]


def _lengths(mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    return " and ".join("none" if values is None else str(len(values)) for values in (mean, std))


def check_channels(network: nn.Module, given: int | None) -> None:
    """Refuse options for images of more or fewer channels than any convolution of the network takes, also in blocks of pixels."""
    taken = [channels for part in network.modules() if (channels := channels_taken(part)) is not None]
    if given is not None and taken and given not in taken and not in_blocks(taken[0], given):
        raise WhyboxError(
            f"mean, std or channels say {given} channels, and the network's first convolution takes {taken[0]} channels"
        )
