"""How an image becomes the network's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.frame import Frame, Size

Resize = Literal["letterbox", "corner", "stretch"]


@dataclass(frozen=True)
class Preparation:
    """How an image (3,H,W) in 0..1 becomes the network's input.

    size: (h, w) of the input; None: the image as it is, padded at the bottom and right to a multiple of `multiple`.
    resize: "letterbox" keeps the aspect ratio and pads on both sides, "corner" pads at the bottom and right, "stretch" does
    not keep it. Bilinear, without antialiasing. pad: the padding's grey, in 0..1.
    The values are multiplied by `scale` (255 where the network wants 0..255), brought to the order blue, green, red if
    `bgr`, and normalized: minus `mean`, divided by `std`, both in the network's units and channel order.
    """

    size: Size | None = None
    multiple: int = 1
    resize: Resize = "letterbox"
    pad: float = 114 / 255
    scale: float = 1.0
    bgr: bool = False
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise unknown("resize", str(self.resize), get_args(Resize))
        whole = isinstance(self.size, tuple | list) and len(self.size) == 2 and all(isinstance(n, int) for n in self.size)
        if self.size is not None and not (whole and min(self.size) > 0):
            raise WhyboxError(f"size must be (height, width) in pixels, or None, got {self.size!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise WhyboxError(f"{name} must hold three numbers, one a channel, got {len(values)}")
        if self.multiple < 1 or 0 in self.std:
            raise WhyboxError("multiple must be at least 1, and no channel's std 0")

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
        """Image (3,H,W) in 0..1 -> the network's input (3,h,w)."""
        canvas = frame.image_to_network(image)
        if frame.resized != frame.network:
            inside = frame.image_to_network(image.new_ones((1, *frame.image)))
            canvas = canvas + self.pad * (1 - inside)
        canvas = (canvas.flip(0) if self.bgr else canvas) * self.scale
        mean, std = (
            torch.tensor(values, dtype=canvas.dtype, device=canvas.device)[:, None, None] for values in (self.mean, self.std)
        )
        return (canvas - mean) / std
