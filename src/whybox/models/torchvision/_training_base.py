"""What a torchvision detector does in a training step, seen from outside: the part that all detectors share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.network_state import exclusive
from whybox.ops.embedding_heads import embedding_head
from whybox.ops.gradients import gradients_on
from whybox.ops.matching import iou_of_pairs

CHUNK_ROWS = 512
"""Maps that are drawn at once."""


@dataclass(frozen=True)
class Positives:
    """n predictions of a batch that the detector itself assigned an object in its training pass.

    Attributes:
        maps: (n,h,w) heat maps of the logit of the assigned object's class, on a grid over the batch's canvas; with a graph.
        boxes: (n,4) predicted boxes xyxy, in pixels of the network's input.
        truth_iou: (n,) IoU of the predicted box and the object's.
        owner: (n,) number of the object, counted through the batch.
        image: (n,) number of the image in the batch.
        labels: (n,) the object's label, as in the targets.
    """

    maps: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Embedded:
    """The same predictions with the embeddings that the network's embedding head gives them.

    Attributes:
        embeddings: (n,D), with a graph.
        boxes: (n,4) predicted boxes xyxy, in pixels of the network's input.
        truth_iou: (n,) IoU of the predicted box and the object's.
        owner: (n,) number of the object, counted through the batch.
        image: (n,) number of the image in the batch.
        labels: (n,) the object's label, as in the targets.
    """

    embeddings: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Assigned:
    """Positives without their maps. row: (n,) among the rows of all images."""

    row: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


class TrainingPass(ABC):
    """One training pass of a detector, kept."""

    two_stage: bool

    def __init__(self, network: Any) -> None:
        self.network = network
        self.canvas: Size | None = None
        self.images = 0

    @abstractmethod
    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the network; the stack takes them away."""

    @abstractmethod
    def _assigned(self, most: int) -> Assigned:
        """The positives, at most `most` of an image: those with the highest IoU."""

    @abstractmethod
    def _maps(self, found: Assigned, size: Size, differentiable: bool) -> Tensor:
        """(n,h,w)"""

    @abstractmethod
    def _embeddings(self, head: Any, found: Assigned) -> Tensor:
        """(n,D)"""

    def positives(self, *, most: int, stride: int, second_order: bool = False) -> Positives:
        """The positives of the pass with their maps.

        Args:
            most: At most this many of an image, those with the highest IoU.
            stride: Pixels of the network's input per cell of the maps.
            second_order: Whether the gradient in a map keeps its graph to the head's weights; else only the features do.

        Raises:
            WhyboxError: The network did not run, or not as torchvision's own detectors do.
        """
        height, width = self._canvas()
        size = max(1, height // stride), max(1, width // stride)
        # Under the user's autocast the maps would have a few digits.
        with exclusive(self.network), gradients_on():
            with torch.no_grad():
                found = self._assigned(most)
            maps = self._maps(found, size, second_order)
        return Positives(maps, found.boxes, found.truth_iou, found.owner, found.image, found.labels)

    def embedded(self, *, most: int) -> Embedded:
        """The positives of the pass with their embeddings, whose graph reaches the head and, through the features, the rest.

        Args:
            most: At most this many of an image, those with the highest IoU.

        Raises:
            WhyboxError: The network did not run, or not as torchvision's own detectors do.
        """
        self._canvas()
        with exclusive(self.network), gradients_on():
            with torch.no_grad():
                found = self._assigned(most)
            embeddings = self._embeddings(embedding_head(self.network), found)
        return Embedded(embeddings, found.boxes, found.truth_iou, found.owner, found.image, found.labels)

    def _canvas(self) -> Size:
        """The size of the network's input."""
        if self.canvas is None:
            raise self._differs("its backbone was not called")
        return self.canvas

    def _note_canvas(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.images, self.canvas = len(args[0]), (args[0].shape[-2], args[0].shape[-1])

    def _differs(self, how: str) -> WhyboxError:
        return WhyboxError(
            f"this {type(self.network).__name__} was not seen training as torchvision's own does: {how}; call it once, "
            "uncompiled and in training mode, with images and targets"
        )


def best_of_images(
    rows: Sequence[Tensor],
    starts: Sequence[int],
    boxes: Sequence[Tensor],
    objects: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    most: int,
) -> Assigned:
    """The positives of all images, those with the highest IoU where there are more than `most`.

    Args:
        rows: Per image (n,), the rows that were assigned an object.
        starts: Per image, its first row among those of all images.
        boxes: Per image (n,4), predicted.
        objects: Per image (n,), the index of the object in the image's target.
        targets: torchvision's targets, in pixels of the network's input.
        most: The largest number per image.
    """
    parts, first = [], 0
    for image, (row, box, index, target) in enumerate(zip(rows, boxes, objects, targets, strict=True)):
        iou = iou_of_pairs(box, target["boxes"][index].to(box))
        kept = iou.topk(min(most, len(iou))).indices.sort().values
        number = torch.full_like(kept, image)
        labels = target["labels"][index[kept]]
        parts.append((row[kept] + starts[image], box[kept], iou[kept], index[kept] + first, number, labels))
        first += len(target["boxes"])
    return Assigned(*(torch.cat(column) for column in zip(*parts, strict=True)))


def no_maps(features: Tensor, size: Size) -> Tensor:
    """(0,h,w), in the graph of the features: a loss of no maps can be differentiated like any other."""
    return features.flatten()[:0].float().reshape(0, *size)
