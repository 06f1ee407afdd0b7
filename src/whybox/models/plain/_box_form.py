"""What betrays boxes in another form than xyxy in pixels: all within 0..1, or with their corners in the wrong order."""

from torch import Tensor

from whybox.frame import Size

_MOST = 100
"""Candidates that are looked at, those with the highest scores."""
_SHARE = 0.25
"""Share of boxes with corners in the wrong order above which they are no xyxy. Read as xyxy, a box of xywh has them so unless
it is larger than its distance from the image's top left corner."""
_UNIT = 1.5
"""Boxes of 0..1 may reach beyond the image a little."""
_SMALLEST = 32
"""Canvases with a shorter side, in pixels, are not judged: there a box of pixels may lie within 0..1."""


def doubt_about(boxes: Tensor, scores: Tensor, canvas: Size, least: float) -> str:
    """Say what is wrong with the form of a detector's boxes.

    Args:
        boxes: (M,4) of all candidates, as they were returned, in network pixels.
        scores: (M,K).
        canvas: Size of the network's input, (h, w).
        least: Candidates with a lower best score are not judged.

    Returns:
        A sentence; "" where the boxes look like xyxy in pixels.
    """
    if not scores.numel():
        return ""
    best = scores.amax(1)
    sure = boxes[best.topk(min(_MOST, len(best))).indices]
    sure = sure[: int((best > least).sum())]
    inverted = (sure[:, 2:] < sure[:, :2]).any(1)
    if not len(sure):
        return ""
    # Boxes that are all without extent, as of an untrained network, say nothing.
    within = bool((sure[:, 2:] - sure[:, :2]).any()) and float(sure.min()) >= 1 - _UNIT and float(sure.max()) <= _UNIT
    if within and min(canvas) >= _SMALLEST:
        return (
            f"candidates() returned boxes within 0..1 for an input of {canvas[1]} x {canvas[0]} pixels; they must be xyxy in "
            "pixels of the network's input: multiply x by its width and y by its height"
        )
    if float(inverted.float().mean()) > _SHARE:
        return (
            f"{int(inverted.sum())} of the {len(sure)} best boxes of candidates() have x2 < x1 or y2 < y1; they must be xyxy: "
            'convert them with torchvision.ops.box_convert(boxes, "cxcywh" or "xywh", "xyxy")'
        )
    return ""
