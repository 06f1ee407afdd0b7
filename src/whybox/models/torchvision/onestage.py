"""torchvision's one-stage detectors: FCOS, RetinaNet (both versions), SSD and SSDlite, on any backbone."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import _topk_min
from torchvision.ops import clip_boxes_to_image

from whybox.errors import GradientError, WhyboxError
from whybox.frame import Frame
from whybox.models.torchvision._common import (
    TorchvisionDetector,
    as_features,
    body_layers,
    call_itself,
    check_detections,
    coco_classes,
    feature_maps,
    frame_of,
    is_stock,
    level_name,
    module_pullbacks,
    module_type,
    untouched,
)
from whybox.models.torchvision._conv_heads import Branch, Tape, flatten_layers, pull_windows, supported
from whybox.models.torchvision._embeddings import embed_from_levels
from whybox.ops.gradients import gradients_on, recording, root, row_gradients
from whybox.ops.hooks import frozen
from whybox.pullback import DensePullback, Pullback, WindowPullback
from whybox.suppression.greedy import greedy_rows
from whybox.types import Candidates, Detections, FeatureMap, Trace

Raw = dict[str, Tensor]
"""A head's outputs by torchvision's names, each (M, columns)."""

ROUTES = ("auto", "exact", "fast")
_MARGIN = 1
"""Where a window with this margin spans a level's shorter side, route "auto" takes the exact route instead of the "frozen" one:
frozen statistics are least accurate on small levels."""
_CHEAP = 10**8
"""Likewise where the exact route costs at most this many multiplications per detection, some 3 ms on one core."""
_CHUNK_ROWS = 128


@dataclass(frozen=True)
class _State:
    """What pullbacks need of a pass.

    Attributes:
        raw: The head's outputs.
        anchors: The anchors of each level.
        tape: The recorded gates.
    """

    raw: Raw
    anchors: tuple[Tensor, ...]
    tape: Tape


@dataclass(frozen=True)
class _Pass:
    """A forward pass over a batch.

    Attributes:
        batch: torchvision's ImageList.
        features: By level, (B,C,h,w).
        raw: The head's outputs, (B,M,columns).
        anchors: Per image (M,4).
        outputs: The network's own detections, where it was called as a whole; else None.
    """

    batch: Any
    features: OrderedDict[str, Tensor]
    raw: Raw
    anchors: list[Any]
    outputs: Sequence[Mapping[str, Tensor]] | None = None


class OneStage(TorchvisionDetector):
    """A torchvision FCOS, RetinaNet or SSD.

    Layers: "fpn" (the level that a detection comes from), the stages of the backbone's body, "input", and any module's path.
    """

    gives = frozenset({"candidates", "features", "input"})

    def __init__(self, net: Any, name: str, classes: Sequence[str] | None = None) -> None:
        super().__init__(net, name, classes)

    @property
    def _head(self) -> "_DenseHead":
        # Read off the network anew each time: its head, or a layer of it, may have been replaced since.
        return _HEADS[module_type(self.network)](self.network)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("fpn", *body_layers(self.network), "input")

    @property
    def most_detections(self) -> int:
        """torchvision's `detections_per_img`."""
        return int(self.network.detections_per_img)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass; the candidates are all rows of all levels, level by level."""
        tape = Tape()
        with frozen(self.network, weights=not differentiable), recording(differentiable):
            with tape.recording(self._head.branches):
                passed = self._pass([self._fitting(image)])
            raw = {name: value[0] for name, value in passed.raw.items()}
            features, anchors = passed.features, passed.anchors[0]
            frame = frame_of(image, passed.batch)
            maps = feature_maps(features, frame)
            sizes = self._head.rows_per_level(maps, len(anchors))
            by_level = anchors.split(sizes)
            counts = torch.tensor(sizes, device=anchors.device)
            levels = torch.arange(len(maps), device=anchors.device).repeat_interleave(counts)
            candidates = self._head.decode(raw, anchors, levels, frame)
            with torch.no_grad():
                found = self._head.unsuppressed(raw, by_level, candidates, frame)
                detections = self._head.suppress(found, frame)
                if passed.outputs is not None:
                    check_detections(self.network, self.name, passed.outputs, detections)
        state = _State(raw, by_level, tape)
        return Trace(image, frame, maps, candidates, detections, state=state, differentiable=differentiable)

    def unsuppressed(self, trace: Trace) -> Detections:
        """What torchvision's suppression gets: scores over its threshold, the best of every level, boxes clipped."""
        with torch.no_grad():
            found = self._head.unsuppressed(trace.state.raw, trace.state.anchors, trace.candidates, trace.frame)
            return replace(found, boxes=trace.frame.boxes_to_image(found.boxes))

    def embed_detections(self, trace: Trace, detections: Detections) -> Tensor:
        """By the head's output at each detection's level, cell and anchor."""
        return embed_from_levels(self.network, self.name, trace, detections)

    def _candidates(self, images: list[Tensor]) -> list[Candidates]:
        """The forward pass up to the candidates; with a graph where the caller allows one."""
        passed, head = self._pass(images), self._head
        # All 0: whoever asks for candidates alone needs no level.
        level = torch.zeros(len(passed.anchors[0]), dtype=torch.long, device=passed.batch.tensors.device)
        return [
            head.decode({k: v[i] for k, v in passed.raw.items()}, passed.anchors[i], level, frame_of(image, passed.batch, i))
            for i, image in enumerate(images)
        ]

    def _pass(self, images: list[Tensor]) -> "_Pass":
        """A forward pass up to the head's outputs. A network that is not as torchvision wrote it is called as a whole."""
        net = self.network
        # What is called as a whole, backbone and head, need not be torchvision's.
        if is_stock(net, net.transform):
            batch, _ = net.transform(images)
            features = as_features(net.backbone(batch.tensors))
            levels = list(features.values())
            return _Pass(batch, features, net.head(levels), net.anchor_generator(batch, levels))
        call = call_itself(net, images, ("transform", "backbone", "head", "anchor_generator"), self.name)
        batch, features, raw, anchors = call.parts.values()
        return _Pass(batch[0], as_features(features), raw, anchors, call.outputs)

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks to the features; rows of one level share one.

        Args:
            trace: A trace of this model.
            detections: The detections to explain.
            layer: One of `layers` or a module's path; None: "fpn".
            route: "fast" uses windows wherever the head supports them, "exact" autograd through the whole level; "auto" uses
                windows where they are exact, or nearly so (on large levels).
            frozen_allowed: Whether route "auto" may use windows with frozen normalization statistics.
        """
        if route not in ROUTES:
            raise WhyboxError(f"route must be one of {', '.join(ROUTES)}, got {route!r}")
        if layer not in (None, "fpn"):
            run = lambda: self._candidates([self._fitting(trace.image)])[0]
            yield from module_pullbacks(self.network, layer, run, trace, detections)
            return
        level_of = trace.candidates.level[detections.source]
        for level in sorted(set(level_of.tolist())):
            rows = torch.nonzero(level_of == level)[:, 0]
            windows = self._takes_windows(trace, level, route, frozen_allowed)
            pull = self._windows if windows else self._whole_level
            for chunk in torch.split(rows, _CHUNK_ROWS):
                yield pull(trace, detections, chunk, level)

    def _takes_windows(self, trace: Trace, level: int, route: str, frozen_allowed: bool) -> bool:
        branches = self._head.at_level(level)
        tape: Tape = trace.state.tape
        # 0: a tower of convolutions alone has no gates to record.
        told_apart = all(tape.calls(branch) in (0, self._head.calls(len(trace.features))) for branch in branches)
        if route == "exact" or not branches or not told_apart or not all(supported(branch) for branch in branches):
            return False
        if route == "fast" or not any(branch.frozen for branch in branches):
            return True
        if not frozen_allowed:
            return False
        height, width = trace.features[level].grid
        reach = 2 * (max(branch.radius for branch in branches) + _MARGIN) + 1
        cost = height * width * sum(branch.multiplications for branch in branches)
        return min(height, width) > reach and cost > _CHEAP

    def _local(self, trace: Trace, source: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The rows' indices within the level, and the (row, column) of their cells."""
        start = sum(len(anchors) for anchors in trace.state.anchors[:level])
        rows = source - start
        cell = rows // self._per_cell(trace, level)
        width = trace.features[level].grid[1]
        return rows, torch.stack([cell // width, cell % width], 1)

    def _per_cell(self, trace: Trace, level: int) -> int:
        height, width = trace.features[level].grid
        return len(trace.state.anchors[level]) // (height * width)

    def _narrow(self, trace: Trace, detections: Detections, raw: Raw, rows: Tensor, level: int) -> Trace:
        anchors = trace.state.anchors[level][rows]
        candidates = self._head.decode(raw, anchors, torch.full_like(rows, level), trace.frame)
        return trace.rows(candidates, detections)

    def _whole_level(self, trace: Trace, detections: Detections, chosen: Tensor, level: int) -> Pullback:
        """Autograd through the head at one level."""
        detections = detections[chosen]
        feature = trace.features[level]
        rows, _ = self._local(trace, detections.source, level)
        with frozen(self.network, weights=not trace.differentiable), gradients_on():
            leaf = root(feature.values, trace.differentiable)[None]
            raw = self._rows_of_level(trace, leaf, level, rows, detections.source)
            narrow = self._narrow(trace, detections, raw, rows, level)
        pull = lambda values: row_gradients(values, leaf, name=f"level {feature.name}", create_graph=trace.differentiable)[:, 0]
        return DensePullback(chosen, narrow, "exact", feature.stride, feature.values, pull, level_name(feature))

    def _rows_of_level(self, trace: Trace, leaf: Tensor, level: int, rows: Tensor, source: Tensor) -> Raw:
        """The head's outputs for some rows, (n, columns) each. rows: within the level; source: among all candidates."""
        head = self._head
        if head.branches:
            return {name: value[rows] for name, value in head.run_level(leaf, level).items()}
        # A head that is not as torchvision wrote it gets all levels, as in the pass: it may mix them.
        levels = [leaf if i == level else feature.values[None] for i, feature in enumerate(trace.features)]
        return {name: value[0][source] for name, value in self.network.head(levels).items()}

    def _windows(self, trace: Trace, detections: Detections, chosen: Tensor, level: int) -> Pullback:
        """Autograd from the target to the head's outputs at each row, then the towers' backward pass on windows."""
        detections = detections[chosen]
        feature = trace.features[level]
        rows, cells = self._local(trace, detections.source, level)
        # torchvision's heads order their rows by cell, and within it by anchor.
        anchor = rows % self._per_cell(trace, level)
        with gradients_on():
            raw = {name: root(value[detections.source], trace.differentiable) for name, value in trace.state.raw.items()}
            narrow = self._narrow(trace, detections, raw, rows, level)
        branches = self._head.at_level(level)
        radius = max(branch.radius for branch in branches)
        # FCOS's and RetinaNet's towers run level after level; SSD has others for each level.
        call = level if self._head.calls(len(trace.features)) > 1 else 0

        def pull(values: Tensor) -> Tensor:
            rectified = self._head.rectified
            seeds = _seeds(values, raw, anchor, self._per_cell(trace, level), rectified, trace.differentiable)
            total = feature.values.new_zeros((len(values), len(feature.values), 2 * radius + 1, 2 * radius + 1))
            for branch in branches:
                used = {name: seeds[name] for name in branch.predictors if name in seeds}
                if used:
                    gradient = pull_windows(
                        branch, trace.state.tape, call, used, cells, feature.grid, differentiable=trace.differentiable
                    )
                    # Windows of a branch that sees less far lie in the middle of the widest.
                    total = total + nn.functional.pad(gradient, [radius - branch.radius] * 4)
            return total

        route = "frozen" if any(branch.frozen for branch in branches) else "windows"
        return WindowPullback(chosen, narrow, route, feature.stride, feature.values, pull, cells - radius, level_name(feature))


def _seeds(values: Tensor, raw: Raw, anchor: Tensor, anchors: int, rectified: frozenset[str], differentiable: bool) -> Raw:
    """dY/d(predictor output) of every row, at its anchor's channels: (n, anchors * columns). Outputs that Y does not depend on
    are omitted; a rectified output passes no gradient where it is 0."""
    if not values.requires_grad:
        raise GradientError("the target does not depend on the candidates through differentiable operations")
    # Rows are independent, so one backward pass of the sum gives every row's gradient.
    result = torch.autograd.grad(
        values.sum(), list(raw.values()), retain_graph=True, create_graph=differentiable, allow_unused=True
    )
    gradients = cast(Sequence[Tensor | None], result)
    seeds: Raw = {}
    for (name, value), gradient in zip(raw.items(), gradients, strict=True):
        if gradient is None:
            continue
        gated = gradient * (value > 0) if name in rectified else gradient
        seed = value.new_zeros((len(value), anchors, value.shape[1]))
        seed[torch.arange(len(value), device=value.device), anchor] = gated
        seeds[name] = seed.flatten(1)
    return seeds


class _DenseHead:
    """Shared by FCOS and RetinaNet: one head that runs on all levels; candidates are ranked per level."""

    rectified: frozenset[str] = frozenset()

    def __init__(self, net: Any) -> None:
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
        return self.branches

    def calls(self, levels: int) -> int:
        """How often a tower runs in a pass."""
        return levels

    def rows_per_level(self, maps: Sequence[FeatureMap], rows: int) -> list[int]:
        cells = [grid[0] * grid[1] for grid in (feature.grid for feature in maps)]
        # These heads have as many anchors in every cell of every level; SSD's differ.
        return [count * (rows // sum(cells)) for count in cells]

    def run_level(self, feature: Tensor, level: int) -> Raw:
        """The head's outputs on one level (1,C,h,w), each (rows of the level, columns)."""
        return {name: value[0] for name, value in self.network.head([feature]).items()}

    def network_boxes(self, raw: Raw, anchors: Tensor) -> Tensor:
        """Decoded boxes (M,4), network pixels."""
        boxes: Tensor = self.network.box_coder.decode_single(raw["bbox_regression"], anchors)
        return boxes

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
        """Candidates from the head's outputs (M, columns); differentiable."""
        logits = raw["cls_logits"]
        boxes = frame.boxes_to_image(self.network_boxes(raw, anchors))
        named = dict(zip(("dx", "dy", "dw", "dh"), raw["bbox_regression"].unbind(1), strict=True))
        return Candidates(boxes, logits.sigmoid(), level, logits, named)

    def select(self, anchors: Sequence[Tensor], candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The rows and labels that torchvision's suppression gets."""
        net, start, kept = self.network, 0, []
        for of_level in anchors:
            scores = candidates.scores[start : start + len(of_level)].flatten()
            # Rows and classes are ranked together, as in torchvision: a row may give several detections.
            kept.append(start * candidates.scores.shape[1] + _best(scores, net.score_thresh, net.topk_candidates))
            start += len(of_level)
        flat = torch.cat(kept)
        return flat // candidates.scores.shape[1], flat % candidates.scores.shape[1]

    def unsuppressed(self, raw: Raw, anchors: Sequence[Tensor], candidates: Candidates, frame: Frame) -> Detections:
        """torchvision's post-processing up to its suppression, step by step, keeping each detection's row. Boxes are clipped, in
        network pixels."""
        source, labels = self.select(anchors, candidates)
        kept = {name: value[source] for name, value in raw.items()}
        boxes = clip_boxes_to_image(self.network_boxes(kept, torch.cat(list(anchors))[source]), frame.resized)
        return Detections(boxes, candidates.scores[source, labels], labels, source)

    def suppress(self, found: Detections, frame: Frame) -> Detections:
        """Apply NMS per class, keep the best, and map the boxes to the image."""
        net = self.network
        keep = greedy_rows(found.boxes, found.scores, found.labels, net.nms_thresh)[: net.detections_per_img]
        return replace(found[keep], boxes=frame.boxes_to_image(found.boxes[keep]))


class _FcosHead(_DenseHead):
    """FCOS: the score is the geometric mean of class probability and centerness; distances to the sides are rectified."""

    rectified = frozenset({"bbox_regression"})

    def network_boxes(self, raw: Raw, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.network.box_coder.decode(raw["bbox_regression"], anchors)
        return boxes

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
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


class _SsdHead(_DenseHead):
    """SSD and SSDlite: one head per level, softmax with the background in column 0; candidates are ranked per class."""

    def _branches(self, head: Any) -> tuple[Branch, ...]:
        kinds = {"cls_logits": head.classification_head, "bbox_regression": head.regression_head}
        return tuple(
            Branch(layers[:-1], {name: cast(nn.Conv2d, layers[-1])})
            for blocks in zip(*(kind.module_list for kind in kinds.values()), strict=True)
            for name, layers in zip(kinds, map(flatten_layers, blocks), strict=True)
        )

    def at_level(self, level: int) -> tuple[Branch, ...]:
        return self.branches[2 * level : 2 * level + 2]

    def calls(self, levels: int) -> int:
        return 1

    def rows_per_level(self, maps: Sequence[FeatureMap], rows: int) -> list[int]:
        anchors = self.network.anchor_generator.num_anchors_per_location()
        return [feature.grid[0] * feature.grid[1] * count for feature, count in zip(maps, anchors, strict=True)]

    def run_level(self, feature: Tensor, level: int) -> Raw:
        # One level's part of torchvision's SSDScoringHead.forward: its head runs all levels at once.
        head = self.network.head
        kinds = {"cls_logits": head.classification_head, "bbox_regression": head.regression_head}
        return {
            name: kind.module_list[level](feature)[0].permute(1, 2, 0).reshape(-1, kind.num_columns)
            for name, kind in kinds.items()
        }

    def decode(self, raw: Raw, anchors: Tensor, level: Tensor, frame: Frame) -> Candidates:
        # The boxes, deltas and logits of the general form; the scores alone are a softmax.
        candidates = super().decode(raw, anchors, level, frame)
        return replace(candidates, scores=raw["cls_logits"].softmax(-1))

    def select(self, anchors: Sequence[Tensor], candidates: Candidates) -> tuple[Tensor, Tensor]:
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


_HEADS: Mapping[str, type[_DenseHead]] = {"fcos.FCOS": _FcosHead, "retinanet.RetinaNet": _DenseHead, "ssd.SSD": _SsdHead}


def matches(module: nn.Module) -> bool:
    """Whether the module is one of torchvision's one-stage detectors, or derives from one."""
    return module_type(module) in _HEADS


def wrap(module: nn.Module, *, name: str | None = None, classes: Sequence[str] | None = None) -> OneStage:
    """The module as a whybox model."""
    return OneStage(module, name or type(module).__name__, classes or coco_classes(module))
