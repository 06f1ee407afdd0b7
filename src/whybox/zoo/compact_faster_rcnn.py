"""A small Faster R-CNN: torchvision's own detector on the backbone of the compact FCOS."""

from collections.abc import Sequence

from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from whybox.zoo._residual_pyramid import ResidualPyramid

_STRIDES = (8, 16, 32)
_POOLED = 7


def compact_faster_rcnn(
    num_classes: int,
    *,
    widths: Sequence[int] = (32, 64, 96, 128),
    blocks: Sequence[int] = (1, 1, 1, 1),
    channels: int = 64,
    hidden: int = 256,
    min_size: int = 240,
    max_size: int = 320,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    detections_per_img: int = 100,
) -> FasterRCNN:
    """A `torchvision.models.detection.FasterRCNN` of about a million and a half weights, randomly initialized.

    Args:
        num_classes: Classes, counting the background, which torchvision keeps at label 0: K classes are labels 1..K of K + 1.
        widths: Channels of the stages at strides 4, 8, 16 and 32.
        blocks: Residual blocks of these stages.
        channels: Channels of the feature pyramid.
        hidden: Width of the two layers of the box head.
        min_size: The shorter side of an image is scaled to this many pixels ...
        max_size: ... unless the longer side would then exceed this many.
        score_thresh: The lowest score of a detection.
        nms_thresh: The IoU above which non-maximum suppression removes a detection.
        detections_per_img: The largest number of detections per image.

    Returns:
        The detector, in training mode.

    Source: Ren et al., Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks, NeurIPS 2015; Lin et al.,
        Feature Pyramid Networks for Object Detection, CVPR 2017.
    """
    return FasterRCNN(
        ResidualPyramid(widths, blocks, channels),
        min_size=min_size,
        max_size=max_size,
        # Two anchors of two and three strides' width per ratio: objects of 16 to 128 pixels.
        rpn_anchor_generator=AnchorGenerator(tuple((2 * s, 3 * s) for s in _STRIDES), ((0.5, 1.0, 2.0),) * len(_STRIDES)),
        rpn_pre_nms_top_n_train=600,
        rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=600,
        rpn_post_nms_top_n_test=300,
        # A region of 64 pixels is pooled at stride 16: torchvision's usual 224 are a third of an image of 640 pixels.
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], _POOLED, 2, canonical_scale=64, canonical_level=4),
        box_head=TwoMLPHead(channels * _POOLED**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        box_batch_size_per_image=128,
        box_score_thresh=score_thresh,
        box_nms_thresh=nms_thresh,
        box_detections_per_img=detections_per_img,
    )
