"""A small Mask R-CNN and a small Keypoint R-CNN with random weights."""

from collections import OrderedDict
from functools import cache

import torch
from torch import nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

CHANNELS = 8


class Pyramid(nn.Module):
    """Two levels, of stride 8 and 16."""

    out_channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, CHANNELS, 8, 8), nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)

    def forward(self, images):
        fine = self.fine(images)
        return OrderedDict([("0", fine), ("1", self.coarse(fine))])


def pool(size):
    # Canonical boxes of 22 pixels, so that both levels are used.
    return MultiScaleRoIAlign(["0", "1"], size, 2, canonical_scale=22, canonical_level=4)


@cache
def network(kind):
    torch.manual_seed(0)
    settings = {"min_size": 96, "max_size": 128, "rpn_anchor_generator": AnchorGenerator(((18, 28), (18, 28)), ((0.7, 1.4),) * 2)}
    settings |= {"box_roi_pool": pool(3), "box_head": nn.Sequential(nn.Flatten(), nn.Linear(9 * CHANNELS, 16), nn.ReLU())}
    settings |= {"box_score_thresh": 0.0, "box_detections_per_img": 12}
    if kind == "mask":
        heads = {"mask_roi_pool": pool(4), "mask_head": MaskRCNNHeads(CHANNELS, (8,), 1), "box_predictor": box_predictor(4)}
        net = MaskRCNN(Pyramid(), mask_predictor=MaskRCNNPredictor(8, 8, 4), **heads, **settings)
    else:
        heads = {
            "keypoint_roi_pool": pool(4),
            "keypoint_head": KeypointRCNNHeads(CHANNELS, (8,)),
            "box_predictor": box_predictor(2),
        }
        net = KeypointRCNN(Pyramid(), keypoint_predictor=KeypointRCNNPredictor(8, 17), **heads, **settings)
    return net.eval()


def box_predictor(classes):
    predictor = FastRCNNPredictor(16, classes)
    nn.init.normal_(predictor.cls_score.weight, std=0.5)
    return predictor
