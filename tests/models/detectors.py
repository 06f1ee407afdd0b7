"""Small detectors with random weights for the tests of torchvision's families."""

from collections import OrderedDict
from functools import cache

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

ONE_STAGE = ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssdlite320_mobilenet_v3_large"]
TWO_STAGE = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
]
PYRAMID_TRANSFORMER = "fcos_pvt_v2_b0"
ALL = [*ONE_STAGE, "ssd300_vgg16", *TWO_STAGE, PYRAMID_TRANSFORMER]


class PyramidTransformer(nn.Module):
    """A pyramid vision transformer from timm with a pyramid network behind it."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("pvt_v2_b0", pretrained=False, features_only=True)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels()[1:], self.out_channels)

    def forward(self, images):
        return self.fpn(OrderedDict((str(i), value) for i, value in enumerate(self.body(images)[1:])))


@cache
def detector(name: str) -> nn.Module:
    """In evaluation mode, 160x224 or so, every score kept, logits spread so that detections differ."""
    torch.manual_seed(0)
    if name == PYRAMID_TRANSFORMER:
        anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
        net = FCOS(PyramidTransformer(), 5, anchor_generator=anchors, min_size=160, max_size=256)
    else:
        sizes = {} if name.startswith("ssd") else {"min_size": 160, "max_size": 256}
        net = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=6, **sizes)
    for path, part in net.named_modules():
        if path.startswith("head.") and isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    ranked = getattr(net, "roi_heads", net)
    ranked.score_thresh = 0.0
    ranked.detections_per_img = 40
    if ranked is not net:
        nn.init.normal_(ranked.box_predictor.cls_score.weight, std=0.1)
    return net.eval()


def image(seed: int = 0, height: int = 150, width: int = 201) -> torch.Tensor:
    """(3,H,W) with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 10, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (0.8 * smooth + 0.2 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)
