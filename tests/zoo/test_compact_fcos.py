"""The compact network is a genuine torchvision FCOS."""

import pytest
import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.fcos import FCOSHead

from whybox.zoo.compact_fcos import compact_fcos


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return compact_fcos(7).eval()


def test_stock_detector_and_head_under_a_million_weights(network):
    assert type(network) is FCOS
    assert type(network.head) is FCOSHead
    assert sum(weight.numel() for weight in network.parameters()) < 1_200_000


def test_levels_at_strides_8_16_32(network):
    levels = network.backbone(torch.rand(1, 3, 256, 320))
    assert [tuple(level.shape) for level in levels.values()] == [(1, 64, 32, 40), (1, 64, 16, 20), (1, 64, 8, 10)]


def test_losses_reach_every_weight(network):
    network.train()
    target = {"boxes": torch.tensor([[20.0, 30, 90, 80]]), "labels": torch.tensor([2])}
    sum(network([torch.rand(3, 240, 320)], [target]).values()).backward()
    network.eval()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_images_are_fitted_into_320_by_240(network):
    images, _ = network.transform([torch.rand(3, 480, 640)])
    assert images.image_sizes == [(240, 320)]
