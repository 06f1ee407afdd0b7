"""Mask R-CNN's and Keypoint R-CNN's heads, which read the feature maps around the final boxes."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, paste_masks_in_image

from whybox.models.torchvision._regions import Regions, levels_of, pool_regions
from whybox.ops.gradients import recording
from whybox.types import Candidates, Detections, MaskLogits, Trace

_PASTED = 16
"""Masks that are pasted at once: each is an image of numbers, before it is one of bits."""


@dataclass(frozen=True)
class FinalHead(ABC):
    """A head that reads regions pooled around final boxes, which are fixed: no gradient goes through them.

    Attributes:
        network: The detector.
        pool: The head's pooling, a MultiScaleRoIAlign.
        head: Its layers.
        predictor: The last of them.
    """

    network: Any
    pool: Any
    head: Any
    predictor: Any

    def prepare(self, features: OrderedDict[str, Tensor], sizes: Any) -> None:
        """In a pass, let the pooling infer its scales, as it does when it is first called: later that would change the network
        since the pass."""
        if self.pool.scales is None:
            first = next(iter(features.values()))
            self.pool(features, [first.new_zeros((0, 4))], sizes)

    def regions(self, trace: Trace, detections: Detections) -> Regions:
        """What the head reads of N detections."""
        boxes = self._boxes(trace, detections)
        with recording(trace.differentiable):
            pooled = pool_regions(self.pool, trace, boxes)

        def read(rows: Tensor, pooled: Tensor) -> Trace:
            candidates = self._candidates(self.predictor(self.head(pooled)), trace, detections[rows], boxes[rows])
            return trace.rows(candidates, detections[rows])

        return Regions(self.network, trace, self.pool, boxes, levels_of(self.pool, boxes), pooled, read)

    def read_features(self, features: OrderedDict[str, Tensor], trace: Trace, detections: Detections) -> Candidates:
        """N candidates, one for each detection, from the feature maps of another pass over the trace's image."""
        boxes = self._boxes(trace, detections)
        output = self.predictor(self.head(pool_regions(self.pool, trace, boxes, dict(features))))
        return self._candidates(output, trace, detections, boxes)

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """The detections with what the head gives."""
        boxes = self._boxes(trace, detections)
        output = self.predictor(self.head(pool_regions(self.pool, trace, boxes).detach()))
        return self._completed(output, trace, detections, boxes)

    def _boxes(self, trace: Trace, detections: Detections) -> Tensor:
        """(N,4) the final boxes, clipped to the image, xyxy in network pixels."""
        height, width = trace.frame.image
        limit = detections.boxes.new_tensor([width, height, width, height])
        boxes = detections.boxes.detach().clamp(min=0).minimum(limit)
        return trace.frame.boxes_to_network(boxes).to(trace.features[0].values.dtype)

    @abstractmethod
    def _candidates(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Candidates:
        """The detections' candidates, with what the predictor gave for them."""

    @abstractmethod
    def _completed(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Detections:
        """The detections with what the predictor gave for them."""


class MaskHead(FinalHead):
    """A mask of logits over each box, one for every class."""

    def _candidates(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Candidates:
        return replace(trace.candidates[detections.source], masks=MaskLogits(_of_class(output, detections)))

    def _completed(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Detections:
        shares = _of_class(output, detections).sigmoid()[:, None]
        parts = zip(torch.split(shares, _PASTED), torch.split(detections.boxes, _PASTED), strict=True)
        # In the image, as torchvision pastes them; inside is what is over one half, as its users take it.
        masks = [paste_masks_in_image(share, boxes, trace.frame.image)[:, 0] > 0.5 for share, boxes in parts]
        return replace(detections, masks=torch.cat(masks))


class KeypointHead(FinalHead):
    """A heat map over each box, one for every keypoint. A keypoint lies in the map's highest cell, and its score is the value
    there, of any size. Which cell that is has no gradient: what is differentiated is the mean place under the map's softmax."""

    def _candidates(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Candidates:
        _, scores = heatmaps_to_keypoints(output, boxes)
        places = trace.frame.points_to_image(_expected_places(output, boxes))
        return replace(trace.candidates[detections.source], keypoints=torch.cat([places, scores[..., None]], 2))

    def _completed(self, output: Tensor, trace: Trace, detections: Detections, boxes: Tensor) -> Detections:
        places, scores = heatmaps_to_keypoints(output, boxes)
        places = trace.frame.points_to_image(places[..., :2])
        return replace(detections, keypoints=torch.cat([places, scores[..., None]], 2))


def _of_class(logits: Tensor, detections: Detections) -> Tensor:
    """(n,K,h,w) -> (n,h,w) of each detection's class."""
    return logits[torch.arange(len(logits), device=logits.device), detections.labels]


def _expected_places(maps: Tensor, boxes: Tensor) -> Tensor:
    """(n,P,2) xy in network pixels: the mean place of each map (n,P,h,w) over its box, under its softmax."""
    height, width = maps.shape[-2:]
    share = maps.flatten(2).softmax(2).reshape(maps.shape)
    x = (share.sum(2) * ((torch.arange(width, device=maps.device) + 0.5) / width)).sum(2)
    y = (share.sum(3) * ((torch.arange(height, device=maps.device) + 0.5) / height)).sum(2)
    # A box is at least one pixel wide and high, as torchvision reads it.
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    return boxes[:, None, :2] + torch.stack([x, y], 2) * sides[:, None]
