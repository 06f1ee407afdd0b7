"""Hugging Face's detection transformers: every class of transformers called ...ForObjectDetection that takes no text."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import AttentionMap, AttentionModel
from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.models._layers import Layer, find_layers, no_map, same_rows, token_layer
from whybox.models._masks import masks_on_image
from whybox.models.hf import _hub as hf
from whybox.models.hf._attention import attention_modules, shown_attention
from whybox.models.hf._detection_classes import (
    FAMILIES,
    REFUSED,
    class_columns,
    default_processor,
    known_class,
    layer_paths,
    made_class,
    refuse,
)
from whybox.models.hf._images import processed
from whybox.models.hf._mask_heads import MASK_HEADS, hooked, in_boxes, on_canvas, recorded, replayed
from whybox.models.hf._passes import AutogradDetector
from whybox.network_state import device_of, exclusive
from whybox.ops.gradients import gradients_on, recording, twice_differentiable
from whybox.ops.hooks import INPUT, capture, frozen, record, replay
from whybox.types import Candidates, Detections, MaskLogits, Trace


def matches(module: nn.Module) -> bool:
    """Whether the module's class, or a base class, is one of transformers' object detectors that take no text."""
    return known_class(module) is not None


def knows(config: Any) -> bool:
    """Whether a configuration is of such a detector."""
    package = config.model_type.replace("-", "_")  # "table-transformer" and "dab-detr" are written with hyphens
    return package in FAMILIES or made_class(config) in REFUSED


def wrap(module: nn.Module, **options: Any) -> "HuggingFaceDetection":
    """A model from a transformers module; the options are those of HuggingFaceDetection."""
    return HuggingFaceDetection(module, **options)


def build(name: str, weights: str | None = "default", **options: Any) -> "HuggingFaceDetection":
    """A model from a repository on the Hugging Face hub, its local cache, or a local folder; weights None: random ones."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

    config = hf.fetch(AutoConfig, name)
    made = made_class(config)
    refuse(made)
    if made in MASK_HEADS:
        # By its own class: as a detector alone it would get random weights, because those of the file have other names.
        module = hf.fetch_network(getattr(transformers, made), name, weights)
    elif weights is None:
        module = AutoModelForObjectDetection.from_config(config)
    else:
        module = hf.fetch(AutoModelForObjectDetection, name)
    if "processor" not in options:
        options["processor"] = hf.fetch(AutoImageProcessor, name)
    return wrap(module, **{"name": f"{hf.PREFIX}/{name}", **options})


@dataclass(frozen=True)
class _State:
    """What pullbacks need of a pass. grids: of the default layer's maps. output: its module's whole output. read: by name, the
    outputs that the mask head reads."""

    grids: tuple[Size, ...]
    output: Any
    read: dict[str, Any] = field(default_factory=dict)


class HuggingFaceDetection(AutogradDetector, AttentionModel):
    """A detection transformer. Its candidates are the queries; `raw` holds cx, cy, w, h relative to the image, as predicted, and
    of corners (PP-DocLayoutV4) cx, cy and dx1, dy1 to dx4, dy4 from there.

    Layers: "backbone", the default, is the last stage of the backbone, `backbone[0]` its first stage where the network uses
    several. "encoder" is the encoder's output; of its levels (`encoder[0]` ...) each detection takes the one where its score's
    sum |gradient o features| is largest. YOLOS has "tokens" instead: the patch tokens that enter its last block, the last ones
    that the output depends on. "input", and the path of any module that returns maps or tokens, work everywhere.

    Args:
        module: The network; one with a mask head runs as a whole only where masks are asked for, else the detector in it.
        processor: The image processor that belongs to the weights; None: the family's default.
        classes: Class names; None: those of the configuration.
        name: For reports and errors; None: from its family.
        score_threshold: `threshold` of the processor's post_process_object_detection, which is reimplemented here so that
            every detection keeps its query.
        top: The same function's `top_k`; None: the family's default.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        processor: Any = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
        score_threshold: float = 0.05,
        top: int | None = None,
    ) -> None:
        known = known_class(module)
        if known is None:
            raise WhyboxError(f"{type(module).__name__} is not a supported detection transformer ({', '.join(FAMILIES)})")
        family, kind = known
        refuse(kind)
        self._head = MASK_HEADS.get(kind)
        self.whole: Any = module if self._head else None
        if self._head:
            module = module.get_submodule(self._head.detector)
        self.network: Any = module
        self.name = name or f"{hf.PREFIX}/{family}"
        self.family = FAMILIES[family]
        beside = [("attention", self.family.dense), ("masks", self._head or self.family.masks), ("corners", self.family.quads)]
        self.gives = frozenset({"candidates", "features", "input", *(name for name, given in beside if given)})
        self.processor = default_processor(self.family) if processor is None else processor
        config: Any = module.config
        self.classes: Sequence[str] = hf.class_names(config, class_columns(module, self.family)) if classes is None else classes
        self.score_threshold = score_threshold
        self.top = self.family.top if top is None else top
        # Deformable DETR's second form chooses its queries, too.
        self.fixed_rows = not (self.family.chosen or getattr(config, "two_stage", False))
        self._paths = layer_paths(module)

    @property
    def layers(self) -> tuple[str, ...]:
        """The family's layers, the default first, and "input"."""
        return (*self._paths, INPUT)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1. The processor gets the image in 8 bits."""
        first = self.layers[0]
        if differentiable:
            return self._run(image, first, gradients=True, weights=True)[0]
        reads = self._head.reads if self._head else ()
        with record(self.network, self._paths[first]) as outputs, recorded(self.network, reads) as kept:
            trace, layers = self._run(image, first, gradients=False)
        grids = tuple(layer.feature_map().grid for layer in layers)
        return replace(trace, state=_State(grids, outputs[0], {name: made for name, (made,) in kept.items()}))

    def predict(self, images: Tensor) -> list[Candidates]:
        """The queries' predictions for images (B,3,H,W) in 0..1 of one size, without a graph."""
        if not len(images):
            return []
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            inputs, frame = self._inputs(images)
            output = self.network(**inputs, return_dict=True)
            return [self._candidates(*row, frame) for row in zip(output.logits, output.pred_boxes, strict=True)]

    def unsuppressed(self, trace: Trace) -> Detections:
        """What the processor gives for scores over `unsuppressed_threshold`, boxes clipped; of ranked pairs, as many as there are
        queries or more."""
        with torch.no_grad():
            ranked = self._ranked(trace.candidates, max(len(trace.candidates), self.top or 0))
            found = self._kept(ranked, self.unsuppressed_threshold)
            height, width = trace.frame.image
            limit = found.boxes.new_tensor([width, height, width, height])
            return replace(found, boxes=found.boxes.clamp(min=0).minimum(limit))

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """With their four corners, or their masks, where the network predicts these."""
        if (corners := trace.candidates.corners) is not None:
            return replace(detections, corners=corners[detections.source].detach())
        if "masks" not in self.gives:
            return detections
        masks = trace.candidates.masks
        masks = self._masks_of(trace, detections) if masks is None else masks[detections.source]
        with torch.inference_mode(False), torch.no_grad():
            # Only a box that the logits are cut by is one of the picture, too.
            boxes = detections.boxes if self.family.masks else None
            return replace(detections, masks=masks_on_image(masks, trace.frame, boxes))

    def _masks_of(self, trace: Trace, detections: Detections) -> MaskLogits:
        """The mask head's, of what the trace's own pass left for it; where it left nothing, of another pass."""
        read = trace.state.read if isinstance(trace.state, _State) else {}
        with frozen(self.whole), recording(False), replayed(self.network, read):
            inputs, frame = self._inputs(trace.image[None])
            output = self.whole(**inputs, return_dict=True)
            live = self._candidates(output.logits[0], output.pred_boxes[0], frame)
            return on_canvas(output.pred_masks[0], frame)[same_rows(live, trace.candidates, detections.source)]

    def _runs(self, branch: str) -> Any:
        """For masks the whole network, where its mask head is a part of its own."""
        return self.whole if branch == "mask" and self.whole is not None else self.network

    def _live(self, trace: Trace, name: str, branch: str) -> tuple[Trace, list[Layer]]:
        """The pass again, with its graph from a layer on."""
        known = self._known(trace)
        weights = trace.differentiable
        # The stored output of the backbone has no graph: with it a loss on maps could not reach the backbone's weights.
        with nullcontext() if weights else self._without_backbone(name, known):
            return self._run(trace.image, name, gradients=True, weights=weights, grids=known.grids, masks=branch == "mask")

    def _known(self, trace: Trace) -> "_State":
        """What the trace's pass left; where it is another's or was stored, what a pass of now leaves."""
        state = trace.state if isinstance(trace.state, _State) else self.trace(trace.image).state
        assert isinstance(state, _State)
        return state

    def attentions(self, trace: Trace, detections: Detections) -> tuple[Trace, tuple[AttentionMap, ...]]:
        """The trace restricted to the detections, with its graph, and all attention maps in that graph, in layer order.

        The rows of "query" and "cross" attention are the candidates. YOLOS has "image" attention alone, among the class token,
        the patches and, last, the candidates. The trace's features have the grid of the patches.

        Raises:
            WhyboxError: The network uses deformable attention.
        """
        if not self.family.dense:
            raise WhyboxError(f"{self.name} attends to a few sampled places (deformable attention): it has no attention to show")
        known = self._known(trace)
        # The tokens as they enter the first block: every attention map has to lie behind the recorded layer.
        name = "vit.embeddings" if hasattr(self.network, "vit") else self.layers[0]
        shown_here = shown_attention(self.network, attention_modules(self.network))
        with exclusive(self.network), shown_here as shown, self._without_backbone(name, known):
            live, _ = self._run(trace.image, name, gradients=True, grids=known.grids)
        rows = same_rows(live.candidates, trace.candidates, detections.source)
        with gradients_on():
            narrowed = live.rows(live.candidates[rows.clone()], detections)
        return narrowed, tuple(shown)

    def _without_backbone(self, name: str, known: "_State") -> AbstractContextManager[None]:
        """Inside, the backbone's stored output replaces it, unless the layer is in it or before it."""
        backbone = self._paths.get("backbone")
        if backbone is None or name == INPUT or name.startswith(f"{backbone}."):
            return nullcontext()
        if hooked(self.network.get_submodule(backbone)):
            return nullcontext()
        return replay(self.network, backbone, known.output)

    def _run(
        self,
        image: Tensor,
        name: str,
        *,
        gradients: bool,
        weights: bool = False,
        grids: Sequence[Size] = (),
        masks: bool = False,
    ) -> tuple[Trace, list[Layer]]:
        """A pass that records the module of layer `name`. grids: the backbone's, known from an earlier pass. weights: whether
        the graph reaches down to the network's weights. masks: whether the whole network runs, where it has a mask head."""
        path = self._paths.get(name, name)
        masks = masks and self.whole is not None
        network = self.whole if masks else self.network
        # The parts of the detector by their own names, also inside the whole network.
        root = network if path == INPUT else self.network
        with (
            frozen(network, weights=not weights),
            twice_differentiable(weights),
            capture(root, [path], gradients=gradients) as captured,
        ):
            inputs, frame = self._inputs(image[None])
            output = network(**inputs, return_dict=True)
            candidates = self._candidates(output.logits[0], output.pred_boxes[0], frame)
            if masks:
                candidates = replace(candidates, masks=on_canvas(output.pred_masks[0], frame))
            elif self.family.masks:
                sides, _ = _of_centers(output.pred_boxes[0])
                candidates = replace(candidates, masks=in_boxes(output.out_masks[0], sides))
        layers = self._layers(name, captured[path], frame.network, grids)
        with torch.inference_mode(False), torch.no_grad():
            detections = self._detections(candidates)
        with recording(weights):
            features = layers[-1].feature_map(graph=weights)
        return Trace(image, frame, (features,), candidates, detections, differentiable=weights), layers

    def _inputs(self, images: Tensor) -> tuple[dict[str, Tensor], Frame]:
        """The network's input for images of one size."""
        given = processed(self.processor, images)
        values, mask = given["pixel_values"].to(device_of(self.network), self.network.dtype), given.get("pixel_mask")
        network = (values.shape[-2], values.shape[-1])
        # Processors pad at the bottom and on the right; the mask tells where the image ends.
        resized = network if mask is None else (int(mask[0, :, 0].sum()), int(mask[0, 0].sum()))
        inputs = {"pixel_values": values}
        # Not every family's forward takes the mask, though its processor gives one.
        if mask is not None and "pixel_mask" in inspect.signature(self.network.forward).parameters:
            inputs["pixel_mask"] = mask.to(device_of(self.network))
        return inputs, Frame((images.shape[-2], images.shape[-1]), resized, network)

    def _candidates(self, logits: Tensor, boxes: Tensor, frame: Frame) -> Candidates:
        """logits (M,K) or, with "no object" last, (M,K+1); boxes (M,4) as cx, cy, w, h relative to the image."""
        if self.family.rule == "best":
            # The last column is "no object"; it takes part in the softmax.
            scores, logits = logits.softmax(-1)[:, :-1], logits[:, :-1]
        else:
            scores = logits.sigmoid()
        # In float32, also of half-precision networks: their numbers are too coarse for pixels.
        size = torch.tensor([frame.image[1], frame.image[0]] * 2, dtype=torch.float32, device=boxes.device)
        level = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        if not self.family.quads:
            sides, raw = _of_centers(boxes)
            return Candidates(sides * size, scores, level, logits, raw)
        corners, raw = _of_corners(boxes)
        around = torch.cat([corners.amin(1), corners.amax(1)], -1)
        return Candidates(around * size, scores, level, logits, raw, corners=corners * size[:2])

    def _detections(self, candidates: Candidates) -> Detections:
        """The processor's post_process_object_detection for one image, keeping each detection's query. They come in its order,
        those of PP-DocLayout by their scores, not in the order of reading."""
        return self._kept(self._ranked(candidates, len(candidates) if self.top is None else self.top), self.score_threshold)

    def _ranked(self, candidates: Candidates, top: int) -> Detections:
        """Every query with its best class; or the `top` best of all (query, class) pairs, best first."""
        if self.family.rule == "best":
            scores, labels = candidates.scores.max(-1)
            source = torch.arange(len(scores), device=scores.device)
        else:
            classes = candidates.scores.shape[1]
            # The same topk as the processor's, so that equal scores come in its order.
            scores, pair = candidates.scores.reshape(-1).topk(min(top, candidates.scores.numel()))
            source, labels = pair // classes, pair % classes
        return Detections(candidates.boxes[source], scores, labels, source)

    def _kept(self, found: Detections, threshold: float) -> Detections:
        # Above it, not at it, in most processors.
        return found[found.scores >= threshold if self.family.inclusive else found.scores > threshold]

    def _layers(self, name: str, tensors: Sequence[Tensor], network: Size, grids: Sequence[Size]) -> list[Layer]:
        """The recorded tensors as layers."""
        # Tokens on known grids only: object queries are tokens, too, but lie on no grid.
        if tensors[0].ndim != 3:
            return find_layers(name, tensors, network)
        tokens = tensors[-1]
        first, levels = self._token_levels(tokens.shape[1], network, grids)
        if not levels or len(tokens) != 1:
            raise no_map(name, tokens)
        layers = []
        for i, grid in enumerate(levels):
            layers.append(token_layer(name if len(levels) == 1 else f"{name}[{i}]", tokens, network, grid, first))
            first += grid[0] * grid[1]
        return layers

    def _token_levels(self, count: int, network: Size, grids: Sequence[Size]) -> tuple[int, list[Size]]:
        """The first token on a grid, and the grids; none where the count fits no known grids."""
        extra = getattr(self.network.config, "num_detection_tokens", None)
        if extra is not None:
            patch = self.network.config.patch_size
            height, width = (patch, patch) if isinstance(patch, int) else patch
            grid = (network[0] // height, network[1] // width)
            return 1, [grid] if count == 1 + grid[0] * grid[1] + extra else []
        return 0, _levels_of(count, grids)


def _levels_of(count: int, grids: Sequence[Size]) -> list[Size]:
    """The grids of `count` tokens: the last stage's alone, or every stage's and further ones of half the size each, as Deformable
    DETR makes them by convolutions of stride 2."""
    if grids and grids[-1][0] * grids[-1][1] == count:
        return [grids[-1]]
    levels = list(grids)
    while levels and sum(height * width for height, width in levels) < count:
        height, width = levels[-1]
        levels.append(((height + 1) // 2, (width + 1) // 2))
    return levels if sum(height * width for height, width in levels) == count else []


def _of_centers(boxes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Boxes (M,4) as cx, cy, w, h -> x1, y1, x2, y2 (M,4), and the columns by name."""
    x, y, width, height = boxes.unbind(-1)
    corners = torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], -1)
    return corners, {"cx": x, "cy": y, "w": width, "h": height}


def _of_corners(quads: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Four corners (M,10), see Family.quads -> x and y of each (M,4,2), and the columns by name."""
    center, offsets = quads[:, None, :2], quads[:, 2:].reshape(-1, 4, 2) - 0.5
    columns = {f"d{axis}{i + 1}": offsets[:, i, j] for i in range(4) for j, axis in enumerate("xy")}
    return center + offsets, {"cx": quads[:, 0], "cy": quads[:, 1], **columns}
