"""torchvision's two-stage detectors: Faster R-CNN (all variants), Mask R-CNN and Keypoint R-CNN, on any backbone."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from whybox.errors import GradientError, WhyboxError
from whybox.frame import Frame, Size
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
from whybox.models.torchvision._embeddings import embed_from_regions
from whybox.models.torchvision._roi_align import align_weights, pool_by_matrices, spread_pooled
from whybox.ops.gradients import gradients_on, recording, root, row_gradients
from whybox.ops.hooks import frozen
from whybox.placement import Windows
from whybox.pullback import DensePullback, FeatureGradient, PooledPullback, Pullback, RegionPullback
from whybox.suppression.greedy import greedy_rows
from whybox.types import Candidates, Detections, Trace

ROUTES = ("auto", "exact", "fast")
_WINDOW_BYTES = 2**25
_KINDS = ("faster_rcnn.FasterRCNN", "mask_rcnn.MaskRCNN", "keypoint_rcnn.KeypointRCNN")


@dataclass(frozen=True)
class _State:
    """What pullbacks need of a pass.

    Attributes:
        proposals: (M,4) xyxy in network pixels, fixed for every gradient, as torchvision itself detaches them.
        pooled: (M,C,7,7) the features pooled from them.
    """

    proposals: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class _Pass:
    """A forward pass over a batch.

    Attributes:
        batch: torchvision's ImageList.
        features: By level, (B,C,h,w).
        proposals: Per image (M,4).
        outputs: The network's own detections, where it was called as a whole; else None.
    """

    batch: Any
    features: OrderedDict[str, Tensor]
    proposals: list[Tensor]
    outputs: Sequence[Mapping[str, Tensor]] | None = None


class TwoStage(TorchvisionDetector):
    """A torchvision R-CNN. Candidates are the proposals after the box head, with class-specific boxes.

    Layers: "fpn" (the pyramid level that the proposal is pooled from), "roi" (the pooled features, 7x7, pasted back over
    the proposal), the stages of the backbone's body, "input", and any module's path.
    """

    gives = frozenset({"candidates", "features", "input", "roi"})

    @property
    def layers(self) -> tuple[str, ...]:
        """ "fpn", "roi", the stages of the backbone's body, and "input"."""
        return ("fpn", "roi", *body_layers(self.network), "input")

    @property
    def most_detections(self) -> int:
        """torchvision's `detections_per_img`."""
        return int(self.network.roi_heads.detections_per_img)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass, without the mask and keypoint branches. The proposals are detached, as in torchvision."""
        with frozen(self.network, weights=not differentiable), recording(differentiable):
            passed = self._pass([self._fitting(image)])
            features, proposals = passed.features, passed.proposals[0]
            frame = frame_of(image, passed.batch)
            pooled = self._pool(features, [proposals], passed.batch.image_sizes)
            # After the pooling, which infers the pool's scales from the maps of its first call.
            levels = self._levels(proposals)
            candidates, on_canvas = self._read(pooled, proposals, levels, frame)
            pooled_from = self.network.roi_heads.box_roi_pool.featmap_names
            # The pyramid's last level, "pool", is for the proposals alone.
            kept = OrderedDict((name, value) for name, value in features.items() if name in pooled_from)
            with torch.no_grad():
                detections = self._suppress(candidates, on_canvas, frame)
                if passed.outputs is not None:
                    check_detections(self.network, self.name, passed.outputs, detections)
            maps = feature_maps(kept, frame)
        state = _State(proposals, pooled)
        return Trace(image, frame, maps, candidates, detections, state=state, differentiable=differentiable)

    def _candidates(self, images: list[Tensor]) -> list[Candidates]:
        passed = self._pass(images)
        proposals, batch = passed.proposals, passed.batch
        pooled = torch.split(self._pool(passed.features, proposals, batch.image_sizes), [len(boxes) for boxes in proposals])
        return [
            self._read(part, boxes, self._levels(boxes), frame_of(image, batch, i))[0]
            for i, (image, part, boxes) in enumerate(zip(images, pooled, proposals, strict=True))
        ]

    def _pass(self, images: list[Tensor]) -> "_Pass":
        """A forward pass up to the proposals. A network that is not as torchvision wrote it is called as a whole."""
        net = self.network
        # What is called as a whole, backbone, RPN and box head, need not be torchvision's.
        if is_stock(net, net.transform, net.roi_heads):
            batch, _ = net.transform(images)
            features = as_features(net.backbone(batch.tensors))
            return _Pass(batch, features, net.rpn(batch, features)[0])
        call = call_itself(net, images, ("transform", "backbone", "rpn"), self.name)
        batch, features, proposals = call.parts.values()
        return _Pass(batch[0], as_features(features), proposals[0], call.outputs)

    def _pool(self, features: OrderedDict[str, Tensor], proposals: list[Tensor], sizes: Any) -> Tensor:
        pooled: Tensor = self.network.roi_heads.box_roi_pool(features, proposals, sizes)
        return pooled

    def _levels(self, proposals: Tensor) -> Tensor:
        """(M,) index of the pyramid level that each proposal is pooled from."""
        pool = self.network.roi_heads.box_roi_pool
        if len(pool.scales) == 1:
            return torch.zeros(len(proposals), dtype=torch.long, device=proposals.device)
        levels: Tensor = pool.map_levels([proposals])
        return levels

    def _read(self, pooled: Tensor, proposals: Tensor, level: Tensor, frame: Frame) -> tuple[Candidates, Tensor]:
        """Box head and predictor on pooled features (n,C,7,7): candidates, and their boxes (n,K,4) in network pixels."""
        heads = self.network.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        on_canvas = heads.box_coder.decode(deltas, [proposals]).reshape(*logits.shape, 4)
        scores = logits.softmax(-1)
        named = zip(("dx", "dy", "dw", "dh"), deltas.reshape(*logits.shape, 4).unbind(-1), strict=True)
        return Candidates(frame.boxes_to_image(on_canvas), scores, level, logits, dict(named)), on_canvas

    def unsuppressed(self, trace: Trace) -> Detections:
        """What torchvision's suppression gets: scores over its threshold, in every class, boxes clipped, none without area."""
        with torch.no_grad():
            # The boxes on the canvas are not kept: those in image pixels, mapped back, are theirs.
            found = self._unsuppressed(trace.candidates, trace.frame.boxes_to_network(trace.candidates.boxes), trace.frame)
            return replace(found, boxes=trace.frame.boxes_to_image(found.boxes))

    def embed_detections(self, trace: Trace, detections: Detections) -> Tensor:
        """By the head's output for each detection's region."""
        pool = lambda proposals: self._pool_rows(trace, proposals).detach()
        return embed_from_regions(self.network, self.name, pool, trace, detections)

    def _unsuppressed(self, candidates: Candidates, on_canvas: Tensor, frame: Frame) -> Detections:
        """torchvision's post-processing up to its suppression, step by step, keeping each detection's row; column 0 is the
        background. Boxes in network pixels."""
        boxes = clip_boxes_to_image(on_canvas, frame.resized)[:, 1:].reshape(-1, 4)
        scores = candidates.scores[:, 1:].reshape(-1)
        index = torch.where(scores > self.network.roi_heads.score_thresh)[0]
        # 1e-2 as in RoIHeads.postprocess_detections.
        index = index[remove_small_boxes(boxes[index], min_size=1e-2)]
        foreground = candidates.scores.shape[1] - 1
        return Detections(boxes[index], scores[index], index % foreground + 1, index // foreground)

    def _suppress(self, candidates: Candidates, on_canvas: Tensor, frame: Frame) -> Detections:
        """torchvision's suppression, and the boxes mapped to the image."""
        heads = self.network.roi_heads
        found = self._unsuppressed(candidates, on_canvas, frame)
        keep = greedy_rows(found.boxes, found.scores, found.labels, heads.nms_thresh)[: heads.detections_per_img]
        return replace(found[keep], boxes=frame.boxes_to_image(found.boxes[keep]))

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks to the features. Proposals are independent, so one backward pass serves all rows.

        Args:
            trace: A trace of this model.
            detections: The detections to explain.
            layer: One of `layers` or a module's path; None: "fpn".
            route: "auto" and "fast" use windows of the level around the proposals, which are exact; "exact" autograd through
                the whole level.
            frozen_allowed: Without effect: the box head's gradient is always exact.
        """
        if route not in ROUTES:
            raise WhyboxError(f"route must be one of {', '.join(ROUTES)}, got {route!r}")
        if layer not in (None, "fpn", "roi"):
            run = lambda: self._candidates([self._fitting(trace.image)])[0]
            yield from module_pullbacks(self.network, layer, run, trace, detections)
            return
        level_of = trace.candidates.level[detections.source]
        for level in sorted(set(level_of.tolist())):
            rows = torch.nonzero(level_of == level)[:, 0]
            if layer == "roi":
                yield self._pooled(trace, detections, rows, level)
            elif route == "exact" or not is_stock(self.network.roi_heads.box_roi_pool):
                yield self._whole_level(trace, detections, rows, level)
            else:
                yield self._windows(trace, detections, rows, level)

    def _narrow(self, trace: Trace, detections: Detections, pooled: Tensor, proposals: Tensor) -> Trace:
        level = trace.candidates.level[detections.source]
        return trace.rows(self._read(pooled, proposals, level, trace.frame)[0], detections)

    def _pool_rows(self, trace: Trace, proposals: Tensor, *, level: int = -1, leaf: Tensor | None = None) -> Tensor:
        """The proposals (n,4) pooled as in the pass, (n,C,7,7). leaf: (1,C,h,w) in the place of the features of a level."""
        features = OrderedDict((feature.name, feature.values[None]) for feature in trace.features)
        if leaf is not None:
            features[trace.features[level].name] = leaf
        return self._pool(features, [proposals], [trace.frame.resized])

    def _bins(self, proposals: Tensor, level: int, origin: Tensor, size: Size, grid: Size) -> tuple[Tensor, Tensor]:
        """RoIAlign's two matrices for each proposal, (n,p,k) and (n,q,l), from a window of `size` at `origin` of the level."""
        pool = self.network.roi_heads.box_roi_pool
        box = proposals * pool.scales[level]
        down = align_weights(box[:, 1], box[:, 3], pool.output_size[0], pool.sampling_ratio, grid[0], origin[:, 0], size[0])
        across = align_weights(box[:, 0], box[:, 2], pool.output_size[1], pool.sampling_ratio, grid[1], origin[:, 1], size[1])
        return down, across

    def _whole_level(self, trace: Trace, detections: Detections, rows: Tensor, level: int) -> Pullback:
        detections = detections[rows]
        feature = trace.features[level]
        proposals = trace.state.proposals[detections.source]
        with frozen(self.network, weights=not trace.differentiable), gradients_on():
            leaf = root(feature.values, trace.differentiable)[None]
            if trace.differentiable and is_stock(self.network.roi_heads.box_roi_pool):
                # torchvision's RoIAlign kernel has no double backward (pytorch/vision#1982).
                down, across = self._bins(proposals, level, torch.zeros_like(proposals[:, :2]).long(), feature.grid, feature.grid)
                pooled = pool_by_matrices(leaf[0], down, across)
            else:
                pooled = self._pool_rows(trace, proposals, level=level, leaf=leaf)
            narrow = self._narrow(trace, detections, pooled, proposals)
        pull = lambda values: row_gradients(values, leaf, name=f"level {feature.name}", create_graph=trace.differentiable)[:, 0]
        return DensePullback(rows, narrow, "exact", feature.stride, feature.values, pull, level_name(feature))

    def _pooled(self, trace: Trace, detections: Detections, rows: Tensor, level: int) -> PooledPullback:
        """At the pooled features; the 7x7 maps are pasted back over their proposals."""
        detections = detections[rows]
        feature = trace.features[level]
        proposals = trace.state.proposals[detections.source]
        with recording(trace.differentiable):
            pooled = trace.state.pooled[detections.source]
        with frozen(self.network, weights=not trace.differentiable), gradients_on():
            leaf = root(pooled, trace.differentiable)
            narrow = self._narrow(trace, detections, leaf, proposals)
        cells = proposals * self.network.roi_heads.box_roi_pool.scales[level]
        backward = lambda values: _joint_gradient(values, leaf, trace.differentiable)
        return PooledPullback(rows, narrow, "exact", feature.stride, pooled, backward, cells, feature.grid, "roi")

    def _windows(self, trace: Trace, detections: Detections, rows: Tensor, level: int) -> Pullback:
        """One backward pass to the pooled features of all rows, then RoIAlign's transpose to a window around each region.
        Windows are grouped by size, because all windows of a group have the size of the largest."""
        pooled = self._pooled(trace, detections, rows, level)
        feature = trace.features[level]
        proposals = trace.state.proposals[detections.source[rows]]
        cells = proposals * self.network.roi_heads.box_roi_pool.scales[level]
        start, size = _reach(cells, feature.grid)
        order = size.prod(1).argsort()

        def spread(gradient: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
            """Gradients (n,C,7,7) at the pooled features -> for some rows at a time, theirs in windows of the level's grid."""
            for chunk in _similar(size[order], len(feature.values) * feature.values.element_size()):
                part = order[chunk]
                height, width = size[part].amax(0).tolist()
                # Moved inwards where the largest size of the group would reach beyond the grid.
                origin = torch.minimum(start[part], start.new_tensor(feature.grid) - start.new_tensor([height, width]))
                down, across = self._bins(proposals[part], level, origin, (height, width), feature.grid)
                placement = Windows(origin, (height, width), feature.grid)
                yield part, FeatureGradient(spread_pooled(gradient[part], down, across), feature.values, placement)

        return RegionPullback(
            rows, pooled.trace, "windows", feature.stride, feature.values, pooled.backward, spread, level_name(feature)
        )


def _joint_gradient(values: Tensor, features: Tensor, differentiable: bool) -> Tensor:
    """dY_i/dA_i of independent rows: one backward pass of the sum."""
    if not values.requires_grad:
        raise GradientError("the target does not depend on the candidates through differentiable operations")
    return torch.autograd.grad(values.sum(), features, retain_graph=True, create_graph=differentiable)[0]


def _reach(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """First cell (n,2) and size (n,2), as (rows, columns), of the window that RoIAlign reads for boxes (n,4) in cells; it widens
    a box to at least one cell."""
    limit = torch.tensor(grid, device=boxes.device)
    first, last = boxes[:, [1, 0]], boxes[:, [3, 2]]
    last = torch.maximum(last, first + 1)
    # A sample reads the cell at its floor and the next one; one more on either side leaves rounding some room.
    start = torch.minimum((first.floor().long() - 1).clamp(min=0), limit - 1)
    end = torch.minimum(last.floor().long() + 3, limit)
    return start, (end - start).clamp(min=1)


def _similar(sizes: Tensor, cell_bytes: int) -> Iterator[slice]:
    """Slices of rows, sorted by area, whose windows fit the memory limit at the size of the largest."""
    begin, widest = 0, sizes.new_zeros(2)
    for i, size in enumerate(sizes):
        wider = torch.maximum(widest, size)
        # A single window may be above the limit: it cannot be split.
        if i > begin and int(wider.prod()) * (i + 1 - begin) * cell_bytes > _WINDOW_BYTES:
            yield slice(begin, i)
            begin, wider = i, size
        widest = wider
    if len(sizes):
        yield slice(begin, len(sizes))


def matches(module: nn.Module) -> bool:
    """Whether the module is one of torchvision's R-CNNs, or derives from one."""
    return module_type(module) in _KINDS


def wrap(module: nn.Module, *, name: str | None = None, classes: Sequence[str] | None = None) -> TwoStage:
    """The module as a whybox model."""
    return TwoStage(module, name or type(module).__name__, classes or coco_classes(module))
