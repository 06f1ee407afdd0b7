"""How ultralytics brings an image to the size of the network's input."""

from dataclasses import dataclass

from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.models.plain._preparation import Preparation

_LEVELS = 255
"""Eight-bit images, in which ultralytics resizes, hold whole numbers up to this one."""


@dataclass(frozen=True)
class Letterbox(Preparation):
    """The image keeps its aspect ratio and lies in the middle of the canvas.

    stride: sides are multiples of this many pixels. rect: the canvas is no larger than needed for the image, instead of `size`.
    """

    stride: int = 32
    rect: bool = True

    def frame(self, image: Size) -> Frame:
        """Where an image of that size comes to stand on the canvas."""
        whole = super().frame(image)
        if not self.rect:
            return whole
        padding = [(extent - resized) % self.stride for extent, resized in zip(whole.network, whole.resized, strict=True)]
        canvas = (whole.resized[0] + padding[0], whole.resized[1] + padding[1])
        return Frame(image, whole.resized, canvas, (padding[0] // 2, padding[1] // 2))

    def canvas(self, image: Tensor, frame: Frame) -> Tensor:
        """Image (C,H,W) in 0..1 -> the network's input (C,h,w)."""
        canvas = super().canvas(image, frame)
        # Ultralytics resizes eight-bit images, which rounds.
        return canvas if frame.resized == frame.image else (canvas * _LEVELS).round() / _LEVELS


def input_size(size: int | Size, stride: int) -> Size:
    """`imgsz` as ultralytics reads it, one number or (height, width), rounded up to multiples of the stride."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) == 1:
        sides = (sides[0], sides[0])
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise WhyboxError(f"size must be one number of pixels or (height, width), got {size!r}")
    return -(-sides[0] // stride) * stride, -(-sides[1] // stride) * stride
