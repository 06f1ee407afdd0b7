"""Heads that give every box of a detector an embedding, as parts of the detector: `network.embedding_head`.

The detector itself does not run them: its outputs and its losses are the same with and without. As submodules their weights are
in its state dict.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError

NAME = "embedding_head"
"""The attribute of a network that holds its head."""
_LEAST_SQUARE = 1e-6
"""Added to the squared length by which an embedding is divided: an all-zero one then has a finite gradient."""


class LevelEmbeddings(nn.Module):
    """A convolutional head on pyramid levels, built as FCOS's towers: 3x3 convolutions with GroupNorm and ReLU, then one more.

    The paper says of its head that it is one more of RetinaNet's, with 32 numbers per anchor; its layers, and whether embeddings
    are scaled to unit length, as in the margin loss's own paper, were not found, and are chosen here.
    """

    def __init__(self, channels: int, anchors: int = 1, size: int = 32, layers: int = 4) -> None:
        """Make a head with random weights.

        Args:
            channels: Channels of the levels.
            anchors: Boxes per cell.
            size: D, the numbers in an embedding.
            layers: Convolutions before the last one.
        """
        super().__init__()
        self.size = size
        tower: list[nn.Module] = []
        for _ in range(layers):
            tower.append(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            tower += [nn.GroupNorm(gcd(32, channels), channels), nn.ReLU()]
        self.tower = nn.Sequential(*tower)
        self.last = nn.Conv2d(channels, anchors * size, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Embed every box of every cell.

        Args:
            levels: (B,C,h,w) each.

        Returns:
            (B,M,D) of length 1, in the order of torchvision's heads: by level, in it by cell, in it by anchor.
        """
        values = [self.last(self.tower(level)) for level in levels]
        rows = [value.permute(0, 2, 3, 1).reshape(len(value), -1, self.size) for value in values]
        return _unit(torch.cat(rows, 1))


class RegionEmbeddings(nn.Module):
    """A linear layer on the output of an R-CNN's box head. The paper has none for two-stage detectors."""

    def __init__(self, features: int, size: int = 32) -> None:
        """Make a head with random weights.

        Args:
            features: Numbers that the box head gives for a region.
            size: D, the numbers in an embedding.
        """
        super().__init__()
        self.size = size
        self.last = nn.Linear(features, size)

    def forward(self, regions: Tensor) -> Tensor:
        """Embed regions.

        Args:
            regions: (n,features), or with further axes of length 1.

        Returns:
            (n,D) of length 1.
        """
        return _unit(self.last(regions.flatten(1)))


def _unit(values: Tensor) -> Tensor:
    """Vectors (...,D) of length 1, at least in float32; those much shorter than 1e-3 stay short."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return values * (values.square().sum(-1, keepdim=True) + _LEAST_SQUARE).rsqrt()


def embedding_head(network: Any) -> Any:
    """The network's head; None where it has none."""
    return getattr(network, NAME, None)


def add_embedding_head(network: Any, size: int = 32, layers: int = 4) -> nn.Module:
    """Add an embedding head with random weights to a detector, as `network.embedding_head`.

    Args:
        network: A detector with torchvision's parts: a pyramid as `backbone`, and either `anchor_generator` with as many anchors
            in each cell of every level (FCOS, RetinaNet), or `roi_heads` whose predictor has `cls_score` (R-CNNs).
        size: Numbers in an embedding.
        layers: Convolutions before the last one; without effect on R-CNNs.

    Returns:
        The head, on the network's device and in its precision.

    Raises:
        WhyboxError: The network has a head already, or not these parts.
    """
    if embedding_head(network) is not None:
        raise WhyboxError(f"this {type(network).__name__} has an embedding head already")
    head = _head_for(network, size, layers)
    weight = next((weight for weight in network.parameters() if weight.is_floating_point()), None)
    network.add_module(NAME, head if weight is None else head.to(weight.device, weight.dtype))
    return head.train(network.training)


def _head_for(network: Any, size: int, layers: int) -> nn.Module:
    if hasattr(network, "roi_heads"):
        scores = getattr(getattr(network.roi_heads, "box_predictor", None), "cls_score", None)
        if isinstance(scores, nn.Linear):
            return RegionEmbeddings(scores.in_features, size)
    channels = getattr(getattr(network, "backbone", None), "out_channels", None)
    generator: Any = getattr(network, "anchor_generator", None)
    if isinstance(channels, int) and hasattr(generator, "num_anchors_per_location"):
        counts = set(generator.num_anchors_per_location())
        if len(counts) == 1:
            return LevelEmbeddings(channels, counts.pop(), size, layers)
    raise WhyboxError(
        f"an embedding head is there for torchvision's FCOS, RetinaNet and R-CNNs, not for this {type(network).__name__}; set "
        f"network.{NAME} to a module of your own"
    )
