"""A small FCOS: torchvision's own detector and head on a residual backbone of a few hundred thousand weights."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, followed by batch normalization.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the kernel, odd.
        stride: The grid is divided by it, rounding up.

    Returns:
        Both modules in sequence.
    """
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    # As torchvision's ResNets are initialized.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, stride=stride)
        self.second = conv_norm(outputs, outputs)
        changed = stride != 1 or inputs != outputs
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if changed else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Apply the block.

        Args:
            features: (B,inputs,H,W).

        Returns:
            (B,outputs,H/stride,W/stride), rounded up.
        """
        changed: Tensor = self.second(self.relu(self.first(features)))
        joined: Tensor = self.relu(changed + self.shortcut(features))
        return joined


class ResidualPyramid(nn.Module):
    """Stem and four residual stages (strides 4, 8, 16, 32), the last three joined by torchvision's feature pyramid."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.stem = nn.Sequential(*conv_norm(3, widths[0], stride=2), nn.ReLU())
        inputs, stages = widths[0], []
        for width, count in zip(widths, blocks, strict=True):
            stage = [ResidualBlock(inputs if i == 0 else width, width, 2 if i == 0 else 1) for i in range(count)]
            stages.append(nn.Sequential(*stage))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the levels of the pyramid.

        Args:
            images: (B,3,H,W), normalized.

        Returns:
            Levels "0", "1" and "2" of (B,channels,H/8,W/8), (B,channels,H/16,W/16) and (B,channels,H/32,W/32), rounded up.
        """
        features = self.stages[0](self.stem(images))
        levels: OrderedDict[str, Tensor] = OrderedDict()
        for index, stage in enumerate(self.stages[1:]):
            features = stage(features)
            levels[str(index)] = features
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid


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
