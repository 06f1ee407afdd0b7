"""torchvision's one-stage detectors: FCOS, RetinaNet (both versions), SSD and SSDlite, on any backbone."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
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
)
from whybox.models.torchvision._conv_heads import Tape, supported
from whybox.models.torchvision._embeddings import embed_from_levels
from whybox.models.torchvision._level_windows import LevelWindows, Seeds
from whybox.models.torchvision._onestage_heads import HEADS, DenseHead, Raw
from whybox.models.torchvision._products import SharedProducts, shared_products
from whybox.ops.gradients import gradients_on, recording, root, row_gradients
from whybox.ops.hooks import frozen
from whybox.pullback import DensePullback, Pullback, WindowPullback
from whybox.types import Candidates, Detections, Trace

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
    def _head(self) -> DenseHead:
        # Read off the network anew each time: its head, or a layer of it, may have been replaced since.
        return HEADS[module_type(self.network)](self.network)

    @property
    def layers(self) -> tuple[str, ...]:
        """ "fpn", the stages of the backbone's body, and "input"."""
        return ("fpn", *body_layers(self.network), "input")

    @property
    def score_threshold(self) -> float:  # type: ignore[override]
        """torchvision's `score_thresh`."""
        return float(self.network.score_thresh)

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
            chunks = torch.split(rows, _CHUNK_ROWS)
            if self._takes_windows(trace, level, route, frozen_allowed):
                shared = self._shared_products(trace, detections.source[rows], level)
                for chunk in chunks:
                    yield self._windows(trace, detections, chunk, level, shared)
            else:
                for chunk in chunks:
                    yield self._whole_level(trace, detections, chunk, level)

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

    def _call(self, trace: Trace, level: int) -> int:
        """Which of a tower's calls was the level's."""
        # FCOS's and RetinaNet's towers run level after level; SSD has others for each level.
        return level if self._head.calls(len(trace.features)) > 1 else 0

    def _shared_products(self, trace: Trace, source: Tensor, level: int) -> Sequence[SharedProducts | None]:
        """For each branch a way to products that costs less than gradients for these candidates of a level; None: none."""
        branches = self._head.at_level(level)
        if trace.differentiable:
            return [None] * len(branches)
        _, cells = self._local(trace, source, level)
        values = trace.features[level].values
        return shared_products(branches, trace.state.tape, self._call(trace, level), values, cells)

    def _windows(
        self,
        trace: Trace,
        detections: Detections,
        chosen: Tensor,
        level: int,
        shared: Sequence[SharedProducts | None],
    ) -> Pullback:
        """Autograd from the target to the head's outputs at each row, then the towers' backward pass on windows."""
        detections = detections[chosen]
        feature = trace.features[level]
        rows, cells = self._local(trace, detections.source, level)
        with gradients_on():
            raw = {name: root(value[detections.source], trace.differentiable) for name, value in trace.state.raw.items()}
            narrow = self._narrow(trace, detections, raw, rows, level)
        per_cell = self._per_cell(trace, level)
        way = LevelWindows(
            self._head.at_level(level),
            trace.state.tape,
            self._call(trace, level),
            feature,
            cells,
            # torchvision's heads order their rows by cell, and within it by anchor.
            Seeds(raw, rows % per_cell, per_cell, self._head.rectified, trace.differentiable),
            shared,
        )
        pull, defer = way.gradients, way.defer if any(shared) else None
        values, corner = feature.values, cells - way.radius
        return WindowPullback(chosen, narrow, way.route, feature.stride, values, pull, corner, level_name(feature), defer)


def matches(module: nn.Module) -> bool:
    """Whether the module is one of torchvision's one-stage detectors, or derives from one."""
    return module_type(module) in HEADS


def wrap(module: nn.Module, *, name: str | None = None, classes: Sequence[str] | None = None) -> OneStage:
    """The module as a whybox model."""
    return OneStage(module, name or type(module).__name__, classes or coco_classes(module))
