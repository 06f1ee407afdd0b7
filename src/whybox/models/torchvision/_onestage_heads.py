"""The heads of one-stage detectors: from their outputs on each level to candidates and detections."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import _topk_min
from torchvision.ops import clip_boxes_to_image

from whybox.frame import Frame
from whybox.models.torchvision._common import is_stock, untouched
from whybox.models.torchvision._conv_heads import Branch, flatten_layers
from whybox.suppression.greedy import greedy_rows
from whybox.types import Candidates, Detections, FeatureMap

Raw = dict[str, Tensor]
"""A head's outputs by torchvision's names, each (M, columns)."""


class DenseHead:
    """Shared by FCOS and RetinaNet: one head that runs on all levels; candidates are ranked per level.

    Attributes:
        rectified: The outputs that end in a ReLU, by torchvision's names.
        network: The detector.
        branches: The towers with their predictors; () where the head is not as torchvision wrote it.
    """

    rectified: frozenset[str] = frozenset()

    def __init__(self, net: Any) -> None:
        """Read the head off a detector.

        Args:
            net: The detector, one of torchvision's.
        """
        self.network = net
        self.branches = self._branches(net.head) if _is_stock_head(net.head) else ()

    def _branches(self, head: Any) -> tuple[Branch, ...]:
        regression = {"bbox_regression": head.regression_head.bbox_reg}
        if hasattr(head.regression_head, "bbox_ctrness"):
            regression["bbox_ctrness"] = head.regression_head.bbox_ctrness
        return (
            Branch(flatten_layers(head.classification_head.conv), {"cls_logits": head.classification_head.cls_logits}),
            Branch(flatten_layers(head.regression_head.conv), regression),
        )

    def at_level(self, level: int) -> tuple[Branch, ...]:
        """The towers that run on a level.

        Args:
            level: From 0, the finest.

        Returns:
            All that predict something from this level; () where the head is not as torchvision wrote it.
        """
        return self.branches

    def calls(self, levels: int) -> int:
        """How often a tower runs in a pass.

        Args:
            levels: The number of feature maps.

        Returns:
            The number of calls.
        """
        return levels

    def rows_per_level(self, maps: Sequence[FeatureMap], rows: int) -> list[int]:
        """How many of a pass's candidates come from each level.

        Args:
            maps: The feature maps of all levels.
            rows: The number of all candidates.

        Returns:
            A number per level, in the order of the maps.
        """
        cells = [grid[0] * grid[1] for grid in (feature.grid for feature in maps)]
        # These heads have as many anchors in every cell of every level; SSD's differ.
        return [count * (rows // sum(cells)) for count in cells]

    def run_level(self, feature: Tensor, level: int) -> Raw:
        """Run the head on one level.

        Args:
            feature: (1,C,h,w) the level's feature map.
            level: From 0, the finest.

        Returns:
            The head's outputs by torchvision's names, each (rows of the level, columns).
        """
        return {name: value[0] for name, value in self.network.head([feature]).items()}

    def network_boxes(self, raw: Raw, anchors: Tensor) -> Tensor:
        """Decode boxes.

        Args:
            raw: The head's outputs, each (M, columns).
            anchors: (M,4) xyxy in network pixels.

        Returns:
            (M,4) xyxy in network pixels, not clipped; differentiable.
        """
        boxes: Tensor = self.network.box_coder.decode_single(raw["bbox_regression"], anchors)
        return boxes

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
        """Make candidates of the head's outputs; differentiable.

        Args:
            raw: The head's outputs, each (M, columns).
            anchors: (M,4) xyxy in network pixels.
            level: (M,) the level of each row, from 0.
            frame: Where the image lies in the network's input.

        Returns:
            M candidates: boxes in image pixels, scores (M,K), logits, and the outputs of the regression by name.
        """
        logits = raw["cls_logits"]
        boxes = frame.boxes_to_image(self.network_boxes(raw, anchors))
        named = dict(zip(("dx", "dy", "dw", "dh"), raw["bbox_regression"].unbind(1), strict=True))
        return Candidates(boxes, logits.sigmoid(), level, logits, named)

    def select(self, anchors: Sequence[Tensor], candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Choose the candidates that torchvision's suppression gets: the best over its threshold.

        Args:
            anchors: Those of each level, (rows of the level, 4).
            candidates: All M, level by level.

        Returns:
            (n,) rows among all candidates, and (n,) labels.
        """
        net, start, kept = self.network, 0, []
        for of_level in anchors:
            scores = candidates.scores[start : start + len(of_level)].flatten()
            # Rows and classes are ranked together, as in torchvision: a row may give several detections.
            kept.append(start * candidates.scores.shape[1] + _best(scores, net.score_thresh, net.topk_candidates))
            start += len(of_level)
        flat = torch.cat(kept)
        return flat // candidates.scores.shape[1], flat % candidates.scores.shape[1]

    def unsuppressed(self, raw: Raw, anchors: Sequence[Tensor], candidates: Candidates, frame: Frame) -> Detections:
        """Redo torchvision's post-processing up to its suppression, step by step, keeping each detection's row.

        Args:
            raw: The head's outputs, each (M, columns).
            anchors: Those of each level, (rows of the level, 4) xyxy in network pixels.
            candidates: The M candidates of these outputs.
            frame: Where the image lies in the network's input.

        Returns:
            The detections, their boxes in network pixels and clipped.
        """
        source, labels = self.select(anchors, candidates)
        kept = {name: value[source] for name, value in raw.items()}
        boxes = clip_boxes_to_image(self.network_boxes(kept, torch.cat(list(anchors))[source]), frame.resized)
        return Detections(boxes, candidates.scores[source, labels], labels, source)

    def suppress(self, found: Detections, frame: Frame) -> Detections:
        """Apply NMS per class, keep the best, and map the boxes to the image.

        Args:
            found: Detections with boxes in network pixels.
            frame: Where the image lies in the network's input.

        Returns:
            The detections that are left, best first, with boxes in image pixels.
        """
        net = self.network
        keep = greedy_rows(found.boxes, found.scores, found.labels, net.nms_thresh)[: net.detections_per_img]
        return replace(found[keep], boxes=frame.boxes_to_image(found.boxes[keep]))


class FcosHead(DenseHead):
    """FCOS: the score is the geometric mean of class probability and centerness; distances to the sides are rectified."""

    rectified = frozenset({"bbox_regression"})

    def network_boxes(self, raw: Raw, anchors: Tensor) -> Tensor:
        """As `DenseHead.network_boxes`, from distances (M,4) to the sides, in sides of the anchor."""
        boxes: Tensor = self.network.box_coder.decode(raw["bbox_regression"], anchors)
        return boxes

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
        """As `DenseHead.decode`; a score has the factors "class" (M,K) and "centerness" (M,)."""
        logits = raw["cls_logits"]
        probability, centerness = logits.sigmoid(), raw["bbox_ctrness"].sigmoid()
        # The distances are in sides of the anchor (BoxLinearCoder's normalize_by_size); here they become network pixels.
        sides = raw["bbox_regression"] * (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
        return Candidates(
            frame.boxes_to_image(self.network_boxes(raw, anchors)),
            _root(probability * centerness),
            level,
            logits,
            dict(zip("ltrb", sides.unbind(1), strict=True)),
            {"class": probability, "centerness": centerness[:, 0]},
        )


def _root(values: Tensor) -> Tensor:
    """The square root, with the gradient 0 at 0: a sigmoid that underflows would give infinity times zero."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1).sqrt(), 0)


class SsdHead(DenseHead):
    """SSD and SSDlite: one head per level, softmax with the background in column 0; candidates are ranked per class."""

    def _branches(self, head: Any) -> tuple[Branch, ...]:
        kinds = {"cls_logits": head.classification_head, "bbox_regression": head.regression_head}
        return tuple(
            Branch(layers[:-1], {name: cast(nn.Conv2d, layers[-1])})
            for blocks in zip(*(kind.module_list for kind in kinds.values()), strict=True)
            for name, layers in zip(kinds, map(flatten_layers, blocks), strict=True)
        )

    def at_level(self, level: int) -> tuple[Branch, ...]:
        """As `DenseHead.at_level`: the level's own two."""
        return self.branches[2 * level : 2 * level + 2]

    def calls(self, levels: int) -> int:
        """As `DenseHead.calls`: each level has towers of its own."""
        return 1

    def rows_per_level(self, maps: Sequence[FeatureMap], rows: int) -> list[int]:
        """As `DenseHead.rows_per_level`: the number of a cell's anchors differs from level to level."""
        anchors = self.network.anchor_generator.num_anchors_per_location()
        return [feature.grid[0] * feature.grid[1] * count for feature, count in zip(maps, anchors, strict=True)]

    def run_level(self, feature: Tensor, level: int) -> Raw:
        """As `DenseHead.run_level`."""
        # One level's part of torchvision's SSDScoringHead.forward: its head runs all levels at once.
        head = self.network.head
        kinds = {"cls_logits": head.classification_head, "bbox_regression": head.regression_head}
        return {
            name: kind.module_list[level](feature)[0].permute(1, 2, 0).reshape(-1, kind.num_columns)
            for name, kind in kinds.items()
        }

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
        """As `DenseHead.decode`; scores (M,K) with the background in column 0."""
        # The boxes, deltas and logits of the general form; the scores alone are a softmax.
        candidates = super().decode(raw, anchors, level, frame)
        return replace(candidates, scores=raw["cls_logits"].softmax(-1))

    def select(self, anchors: Sequence[Tensor], candidates: Candidates) -> tuple[Tensor, Tensor]:
        """As `DenseHead.select`: the best of each class, without the background."""
        net = self.network
        picked = [
            (_best(candidates.scores[:, label], net.score_thresh, net.topk_candidates), label)
            for label in range(1, candidates.scores.shape[1])
        ]
        source = torch.cat([rows for rows, _ in picked])
        return source, torch.cat([torch.full_like(rows, label) for rows, label in picked])


def _is_stock_head(head: Any) -> bool:
    """Whether the head runs torchvision's own forward, and no hook changes a layer's output."""
    parts = (head, getattr(head, "classification_head", None), getattr(head, "regression_head", None))
    return is_stock(*parts) and all(untouched(layer) for layer in head.modules())


def _best(scores: Tensor, threshold: float, most: int) -> Tensor:
    """Indices of the `most` best scores (n,) over the threshold, best first."""
    index = torch.where(scores > threshold)[0]
    # topk as in torchvision, not a sort: equal scores have to come out in its order.
    _, order = scores[index].topk(_topk_min(index, most, 0))
    return index[order]


HEADS: Mapping[str, type[DenseHead]] = {"fcos.FCOS": FcosHead, "retinanet.RetinaNet": DenseHead, "ssd.SSD": SsdHead}
"""By the network's module and class in torchvision."""
