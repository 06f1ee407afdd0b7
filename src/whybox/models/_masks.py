"""Masks on the pixels of the image."""

import torch
from torch import Tensor

from whybox.frame import Frame, resize_maps
from whybox.types import MaskLogits

_AT_ONCE = 16
"""Masks that are drawn at once: each is an image of numbers, before it is one of bits."""


def masks_on_image(masks: MaskLogits, frame: Frame, boxes: Tensor | None = None) -> Tensor:
    """Masks whose logits lie on a grid over the canvas, in the image: the logits are resized, and over 0 is inside.

    Args:
        masks: N masks.
        frame: The image's.
        boxes: (N,4) xyxy in image pixels: a pixel whose number lies outside is in no mask. None: every pixel may be.

    Returns:
        (N,H,W) bool.
    """
    drawn = [torch.zeros((0, *frame.image), dtype=torch.bool, device=masks.values.device)]
    for start in range(0, len(masks), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        logits = masks[part].logits().float()
        # Where nothing is padded, in one step, as the frameworks do it.
        whole = frame.resized == frame.network and frame.offset == (0, 0)
        inside = (resize_maps(logits, frame.image) if whole else frame.maps_to_image(logits)) > 0
        drawn.append(inside if boxes is None else inside & _pixels_in(boxes[part], frame))
    return torch.cat(drawn)


def _pixels_in(boxes: Tensor, frame: Frame) -> Tensor:
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(extent, device=boxes.device) for extent in frame.image)
    return ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None, :]
