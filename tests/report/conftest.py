"""A photo with made-up layers."""

import pytest
import torch

from report.made_up import made_up_detections, made_up_maps
from whybox.report.page import Layer, Photo


@pytest.fixture
def photo():
    def make(count=3, targets=("score", "x1"), names=("cat", "dog"), **fields):
        found = made_up_detections(count)
        layers = [Layer("odam", target, made_up_maps(count, target), 0.5) for target in targets]
        image = torch.rand((3, 90, 120), generator=torch.Generator().manual_seed(1))
        titles = [names[label] for label in found.labels.tolist()]
        return Photo(**{"name": "street.jpg", "image": image, "detections": found, "names": titles, "layers": layers} | fields)

    return make
