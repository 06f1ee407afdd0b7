"""torchvision's two-stage detectors: Faster R-CNN (all variants), Mask R-CNN and Keypoint R-CNN, on any backbone."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.models._keypoints import keypoint_names
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
    module_pullbacks,
    module_type,
)
from whybox.models.torchvision._embeddings import embed_from_regions
from whybox.models.torchvision._final_heads import FinalHead, KeypointHead, MaskHead
from whybox.models.torchvision._regions import Regions, levels_of, pool_regions
from whybox.ops.gradients import recording
from whybox.ops.hooks import frozen
from whybox.pullback import Pullback
from whybox.suppression.greedy import greedy_rows
from whybox.types import Candidates, Detections, Trace

ROUTES = ("auto", "exact", "fast")
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

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """What every R-CNN gives, and masks or keypoints where it has a head for them."""
        return frozenset({"candidates", "features", "input", "roi", *(f"{branch}s" for branch in self._final_heads())})

    @property
    def keypoints(self) -> Sequence[str]:  # type: ignore[override]
        """A person's keypoints as COCO names them, where there are 17 of them; else their numbers."""
        head = self._final_heads().get("keypoint")
        return () if head is None else keypoint_names(getattr(head.predictor, "out_channels", 0))

    @property
    def layers(self) -> tuple[str, ...]:
        """ "fpn", "roi", the stages of the backbone's body, and "input"."""
        return ("fpn", "roi", *body_layers(self.network), "input")

    @property
    def score_threshold(self) -> float:  # type: ignore[override]
        """torchvision's `score_thresh`."""
        return float(self.network.roi_heads.score_thresh)

    @property
    def most_detections(self) -> int:
        """torchvision's `detections_per_img`."""
        return int(self.network.roi_heads.detections_per_img)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass, without the mask and keypoint heads, which run where they are asked for. The proposals are detached,
        as in torchvision."""
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
            for head in self._final_heads().values():
                head.prepare(kept, passed.batch.image_sizes)
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
        return levels_of(self.network.roi_heads.box_roi_pool, proposals)

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
        pool = lambda proposals: pool_regions(self.network.roi_heads.box_roi_pool, trace, proposals).detach()
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
        proposals, level = trace.state.proposals[detections.source], trace.candidates.level[detections.source]

        def read(rows: Tensor, pooled: Tensor) -> Trace:
            return trace.rows(self._read(pooled, proposals[rows], level[rows], trace.frame)[0], detections[rows])

        with recording(trace.differentiable):
            pooled = trace.state.pooled[detections.source]
        pool = self.network.roi_heads.box_roi_pool
        yield from Regions(self.network, trace, pool, proposals, level, pooled, read).pullbacks(layer, route)

    def branch_pullbacks(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks through the mask or the keypoint head, which reads the feature map around the final box; the box itself is
        fixed, as in torchvision. Arguments as for `pullbacks`; "fpn" is the level that this head pools from."""
        if route not in ROUTES:
            raise WhyboxError(f"route must be one of {', '.join(ROUTES)}, got {route!r}")
        head = self._final_heads().get(branch)
        if head is None:
            raise WhyboxError(f"{self.name} has no {branch} head")
        if not len(detections):
            return
        if layer in (None, "fpn", "roi"):
            yield from head.regions(trace, detections).pullbacks(layer, route)
            return

        def run() -> Candidates:
            passed = self._pass([self._fitting(trace.image)])
            return head.read_features(passed.features, trace, detections)

        yield from module_pullbacks(self.network, layer, run, trace, detections, branch)

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """With masks or keypoints: the mask or the keypoint head runs on these detections, as in torchvision's own call."""
        with frozen(self.network), recording(False):
            for head in self._final_heads().values():
                detections = head.complete(trace, detections)
        return detections

    def _final_heads(self) -> dict[str, FinalHead]:
        """Its mask and its keypoint head, by the branch's name."""
        heads = self.network.roi_heads
        found: dict[str, FinalHead] = {}
        if heads.has_mask():
            found["mask"] = MaskHead(self.network, heads.mask_roi_pool, heads.mask_head, heads.mask_predictor)
        if heads.has_keypoint():
            found["keypoint"] = KeypointHead(self.network, heads.keypoint_roi_pool, heads.keypoint_head, heads.keypoint_predictor)
        # A trace keeps the feature maps that the box head reads: a head that reads others is not explained.
        kept = list(heads.box_roi_pool.featmap_names)
        return {branch: head for branch, head in found.items() if list(head.pool.featmap_names) == kept}


def matches(module: nn.Module) -> bool:
    """Whether the module is one of torchvision's R-CNNs, or derives from one."""
    return module_type(module) in _KINDS


def wrap(module: nn.Module, *, name: str | None = None, classes: Sequence[str] | None = None) -> TwoStage:
    """The module as a whybox model."""
    return TwoStage(module, name or type(module).__name__, classes or coco_classes(module))
