"""Made-up detections and maps with a padded frame, and a photo of them."""

import torch

from whybox.frame import Frame
from whybox.report.page import Layer, Photo
from whybox.types import Detections, HeatMaps

FRAME = Frame(image=(90, 120), resized=(60, 80), network=(64, 96))


def made_up_maps(count, target="score", method="odam", seed=0, grid=(16, 24)):
    generator = torch.Generator().manual_seed(seed)
    native = tuple(torch.rand(grid, generator=generator) * 10.0**-i for i in range(count))
    return HeatMaps(native, FRAME, target, method, {"sigma": 0.1, "layer": None}, ("exact",) * count)


def made_up_detections(count):
    corners = torch.arange(count)[:, None] * torch.tensor([5.0, 4.0]) + 10
    boxes = torch.cat([corners, corners + 30], 1)
    return Detections(boxes, torch.linspace(0.9, 0.4, count), torch.arange(count) % 2, torch.arange(count))


def made_up_photo(count=3, targets=("score", "x1"), names=("cat", "dog"), **fields):
    found = made_up_detections(count)
    layers = [Layer("odam", target, made_up_maps(count, target), 0.5) for target in targets]
    image = torch.rand((3, 90, 120), generator=torch.Generator().manual_seed(1))
    titles = [names[label] for label in found.labels.tolist()]
    return Photo(**{"name": "street.jpg", "image": image, "detections": found, "names": titles, "layers": layers} | fields)
