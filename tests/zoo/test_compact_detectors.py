"""The compact networks are genuine torchvision detectors."""

import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead

from whybox import zoo

KINDS = {"compact_fcos": FCOS, "compact_faster_rcnn": FasterRCNN}


@pytest.fixture(scope="module", params=KINDS)
def built(request):
    torch.manual_seed(0)
    return request.param, zoo.build(request.param, {"num_classes": 7}).eval()


def test_stock_detectors_and_heads_of_few_weights(built):
    name, network = built
    assert type(network) is KINDS[name]
    if name == "compact_fcos":
        assert type(network.head) is FCOSHead
    else:
        assert [type(network.roi_heads.box_head), type(network.roi_heads.box_predictor)] == [TwoMLPHead, FastRCNNPredictor]
    assert sum(weight.numel() for weight in network.parameters()) < 1_600_000


def test_levels_at_strides_8_16_32(built):
    levels = built[1].backbone(torch.rand(1, 3, 256, 320))
    assert [tuple(level.shape) for level in levels.values()] == [(1, 64, 32, 40), (1, 64, 16, 20), (1, 64, 8, 10)]


def test_losses_reach_every_weight(built):
    network = built[1].train()
    target = {"boxes": torch.tensor([[20.0, 30, 90, 80], [8, 8, 40, 56], [10, 5, 220, 230]]), "labels": torch.tensor([2, 1, 5])}
    sum(network([torch.rand(3, 240, 320)], [target]).values()).backward()
    network.eval()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_images_are_fitted_into_320_by_240(built):
    images, _ = built[1].transform([torch.rand(3, 480, 640)])
    assert images.image_sizes == [(240, 320)]


def test_regions_are_pooled_at_the_level_of_their_size():
    """A region of 64 pixels at stride 16, as one of 224 pixels is by torchvision's default."""
    network = zoo.build("compact_faster_rcnn", {"num_classes": 2})
    pool = network.roi_heads.box_roi_pool
    features = {name: torch.full((1, 64, 240 // s, 320 // s), float(s)) for name, s in (("0", 8), ("1", 16), ("2", 32))}
    boxes = torch.tensor([[0.0, 0, 40, 40], [0, 0, 70, 70], [0, 0, 140, 140]])
    assert pool(features, [boxes], [(240, 320)]).mean((1, 2, 3)).tolist() == [8.0, 16.0, 32.0]
