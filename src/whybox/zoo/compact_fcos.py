"""A small FCOS: torchvision's own detector and head on a residual backbone of a few hundred thousand weights."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from whybox.zoo._residual_pyramid import ResidualPyramid


def compact_fcos(
    num_classes: int,
    *,
    widths: Sequence[int] = (32, 64, 96, 128),
    blocks: Sequence[int] = (1, 1, 1, 1),
    channels: int = 64,
    min_size: int = 240,
    max_size: int = 320,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.6,
    detections_per_img: int = 100,
) -> FCOS:
    """A `torchvision.models.detection.FCOS` of less than a million weights, randomly initialized.

    Args:
        num_classes: Classes, counting the background, which torchvision keeps at label 0: K classes are labels 1..K of K + 1.
        widths: Channels of the stages at strides 4, 8, 16 and 32.
        blocks: Residual blocks of these stages.
        channels: Channels of the feature pyramid and of torchvision's head.
        min_size: The shorter side of an image is scaled to this many pixels ...
        max_size: ... unless the longer side would then exceed this many.
        score_thresh: The lowest score of a detection.
        nms_thresh: The IoU above which non-maximum suppression removes a detection.
        detections_per_img: The largest number of detections per image.

    Returns:
        The detector, in training mode.

    Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019.
    """
    strides = (8, 16, 32)
    model = FCOS(
        ResidualPyramid(widths, blocks, channels),
        num_classes,
        min_size=min_size,
        max_size=max_size,
        # One square anchor per cell, as wide as the stride: FCOS takes no other number, and its box coder measures the
        # distances to the sides in widths of the anchor.
        anchor_generator=AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        detections_per_img=detections_per_img,
    )
    # The stock bias of 0 leaves half of the distances dead behind their ReLU at the start of a short training.
    nn.init.ones_(model.head.regression_head.bbox_reg.bias)
    return model
