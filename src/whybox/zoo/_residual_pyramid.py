"""The backbone of the compact detectors: residual stages of a few hundred thousand weights, and a feature pyramid."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
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
