"""Hugging Face's detectors of instances whose queries give masks and classes, and no boxes: MaskFormer and Mask2Former."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import GradientError, WhyboxError
from whybox.frame import Frame, Size, resize_maps
from whybox.models._layers import Layer, check_rows, find_layers, leading_target, same_rows
from whybox.models.hf import _hub as hf
from whybox.models.hf._images import check_processor, processed
from whybox.models.hf._passes import AutogradDetector
from whybox.network_state import device_of
from whybox.ops.gradients import gradients_on, recording, twice_differentiable
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.pullback import DensePullback
from whybox.types import Candidates, Detections, MaskLogits, Target, Trace


@dataclass(frozen=True)
class _Family:
    """One architecture's post-processing.

    Attributes:
        processor: The image processor's class.
        grid: What the processor resizes the masks' logits to, before it thresholds them; None: they stay as they are.
    """

    processor: str
    grid: Size | None


FAMILIES = {
    "MaskFormerForInstanceSegmentation": _Family("MaskFormerImageProcessor", None),
    "Mask2FormerForUniversalSegmentation": _Family("Mask2FormerImageProcessor", (384, 384)),
}
"""By the name of the class."""

_PATHS = {"backbone": "model.pixel_level_module.encoder", "pixel_decoder": "model.pixel_level_module.decoder"}


def matches(module: nn.Module) -> bool:
    """Whether the module's class, or a base class, is one of these."""
    return hf.package_of(module)[1] in FAMILIES


def knows(config: Any) -> bool:
    """Whether a configuration is of one of these."""
    return config.model_type in ("maskformer", "mask2former")


def wrap(module: nn.Module, **options: Any) -> "HuggingFaceInstances":
    """A model from a transformers module; the options are those of HuggingFaceInstances."""
    return HuggingFaceInstances(module, **options)


def build(name: str, weights: str | None = "default", **options: Any) -> "HuggingFaceInstances":
    """A model from a repository on the Hugging Face hub, its local cache, or a local folder; weights None: random ones."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor

    kinds = {getattr(transformers, kind).config_class.model_type: getattr(transformers, kind) for kind in FAMILIES}
    module = hf.fetch_network(kinds[hf.fetch(AutoConfig, name).model_type], name, weights)
    if "processor" not in options:
        options["processor"] = hf.fetch(AutoImageProcessor, name)
    return wrap(module, **{"name": f"{hf.PREFIX}/{name}", **options})


@dataclass(frozen=True)
class _Answer:
    """What a network gave for an image: logits (M,K+1), the last for "no object", and logits of masks (M,h,w)."""

    logits: Tensor
    masks: Tensor
    frame: Frame


class HuggingFaceInstances(AutogradDetector):
    """A network of masks. Its candidates are the queries; a score is the class's probability times the mean probability inside
    the mask (factors "class" and "mask"), and a box is the one around the mask, without a gradient.

    Layers: "backbone", the default, is the last stage of the backbone, `backbone[0]` its first one. "pixel_decoder" is what the
    pixel decoder gives, in Mask2Former the maps that its queries read (`pixel_decoder[0]` ...) and, last, the one that the masks
    are drawn on; each detection takes the one where the sum |gradient o features| of its class, or for targets on masks of its
    mask, is largest. "input", and the path of any module that returns maps or patch tokens, work everywhere.

    Args:
        module: The network.
        processor: The image processor that belongs to the weights; None: the one kept beside them, or the family's default.
        classes: Class names; None: those of the configuration.
        name: For reports and errors; None: from its family.
        score_threshold: `threshold` of the processor's post_process_instance_segmentation, which is reimplemented here so that
            every detection keeps its query.
    """

    gives = frozenset({"candidates", "features", "input", "masks"})

    def __init__(
        self,
        module: nn.Module,
        *,
        processor: Any = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
        score_threshold: float = 0.05,
    ) -> None:
        package, kind = hf.package_of(module)
        if kind not in FAMILIES:
            raise WhyboxError(f"{type(module).__name__} is not a supported network of masks ({', '.join(FAMILIES)})")
        self.network: Any = module
        self.name = name or f"{hf.PREFIX}/{package}"
        self.processor = check_processor(_kept_or_default(module, FAMILIES[kind].processor) if processor is None else processor)
        predictor: Any = module.class_predictor
        # The last column is "no object".
        named = hf.class_names(module.config, predictor.out_features - 1) if classes is None else classes
        self.classes: Sequence[str] = named
        self.score_threshold = score_threshold
        self._grid = FAMILIES[kind].grid

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, the default first, and "input"."""
        return (*_PATHS, INPUT)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1. The processor gets the image in 8 bits."""
        answer, layers = self._run(image, self.layers[0], gradients=differentiable, weights=differentiable)
        with recording(differentiable):
            candidates = self._candidates(answer.logits, answer.masks, answer.frame.image)
            features = layers[-1].feature_map(graph=differentiable)
        with recording(False):
            ranked = self._ranked(candidates)
            found = ranked[ranked.scores >= self.score_threshold]
        return Trace(image, answer.frame, (features,), candidates, found, differentiable=differentiable)

    def predict(self, images: Tensor) -> list[Candidates]:
        """The queries' predictions for images (B,3,H,W) in 0..1 of one size, without a graph."""
        if not len(images):
            return []
        with frozen(self.network), recording(False):
            logits, masks, frame = self._forward(images)
            return [self._candidates(*row, frame.image) for row in zip(logits, masks, strict=True)]

    def unsuppressed(self, trace: Trace) -> Detections:
        """What the processor gives for scores over `unsuppressed_threshold`."""
        with recording(False):
            ranked = self._ranked(trace.candidates)
            return ranked[ranked.scores > self.unsuppressed_threshold]

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """With their masks, as the processor draws them."""
        masks = trace.candidates.masks
        if masks is None:
            return detections
        with recording(False):
            inside = self._on_grid(masks[detections.source].logits().detach()) > 0
            return replace(detections, masks=resize_maps(inside.byte(), trace.frame.image, mode="nearest").bool())

    def _by_autograd(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str
    ) -> Iterator[DensePullback]:
        for pullback in super()._by_autograd(branch, trace, detections, layer, route):
            yield replace(pullback, backward=partial(self._backward, pullback))

    def _backward(self, pullback: DensePullback, values: Tensor) -> Tensor:
        """As the pullback's own; where no gradient comes back, with the reason that these networks have."""
        try:
            return pullback.backward(values)
        except GradientError as error:
            raise GradientError(
                f"the explained value of {self.name} has no gradient at layer {pullback.layer!r}: boxes are drawn around the "
                "masks (explain 'mask:edge' instead), and classes do not read the maps that are there for the masks alone"
            ) from error

    def _live(self, trace: Trace, name: str, branch: str) -> tuple[_Answer, list[Layer]]:
        """The network's answer again, with its graph from a layer on; masks come with every pass."""
        return self._run(trace.image, name, gradients=True, weights=trace.differentiable)

    def _found_again(self, made: _Answer, trace: Trace, detections: Detections) -> tuple[Trace, Detections]:
        """A trace of the detections' queries alone, one candidate each."""
        check_rows(trace.candidates, detections.source)
        with gradients_on():
            # A clone, because autograd cannot save an index that is an inference tensor.
            source = detections.source.clone()
            # Chosen before anything is resized, so that the graph holds these masks alone.
            candidates = self._candidates(made.logits[source], made.masks[source], made.frame.image)
        order = torch.arange(len(detections), device=source.device)
        rows = same_rows(candidates, trace.candidates[source], order)
        return replace(trace, candidates=candidates), replace(detections, source=rows)

    def _leading(self, branch: str) -> Target:
        """Its mask, or the probability of its class. Not its score, which depends on the map that masks are drawn on, too: there
        a logit of a class has no gradient."""
        return leading_target(branch) if branch else _class_probability

    def _run(self, image: Tensor, name: str, *, gradients: bool, weights: bool = False) -> tuple[_Answer, list[Layer]]:
        """A pass that records the module of layer `name`. weights: whether the graph reaches down to the network's weights."""
        path = _PATHS.get(name, name)
        frozen_here = frozen(self.network, weights=not weights)
        with frozen_here, twice_differentiable(weights), capture(self.network, [path], gradients=gradients) as captured:
            (logits,), (masks,), frame = self._forward(image[None])
        return _Answer(logits, masks, frame), find_layers(name, captured[path], frame.network)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor, Frame]:
        """Logits (B,M,K+1), the last for "no object", and logits of masks (B,M,h,w) of images (B,3,H,W) of one size."""
        given = processed(self.processor, images)
        pixels = given["pixel_values"].to(device_of(self.network), self.network.dtype)
        padding = given.get("pixel_mask")
        if padding is not None and not padding.all():
            raise WhyboxError(
                f"the processor of {self.name} pads images, and then stretches their masks: give one with pad_size=None"
            )
        output = self.network(pixel_values=pixels, return_dict=True)
        network = (pixels.shape[-2], pixels.shape[-1])
        frame = Frame((images.shape[-2], images.shape[-1]), network, network)
        return output.class_queries_logits, output.masks_queries_logits, frame

    def _on_grid(self, logits: Tensor) -> Tensor:
        """Logits of masks (n,h,w) on the grid where the processor thresholds them."""
        return logits if self._grid is None else resize_maps(logits, self._grid)

    def _candidates(self, logits: Tensor, masks: Tensor, image: Size) -> Candidates:
        """logits (M,K+1), the last for "no object"; logits of masks (M,h,w)."""
        # The last column takes part in the softmax.
        probabilities, masks = logits.softmax(-1)[:, :-1], masks.float()
        drawn = self._on_grid(masks)
        inside = drawn.detach() > 0
        cells = inside.to(drawn.dtype)
        sure = (drawn.sigmoid() * cells).flatten(1).sum(1) / (cells.flatten(1).sum(1) + 1e-6)
        sure = sure.to(probabilities.dtype)
        level = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
        return Candidates(
            _boxes_around(inside, image),
            probabilities * sure[:, None],
            level,
            logits[:, :-1],
            factors={"class": probabilities, "mask": sure},
            masks=MaskLogits(masks),
        )

    def _ranked(self, candidates: Candidates) -> Detections:
        """The processor's instances of any score, in its order: of all pairs of a query and a class as many as there are queries,
        those with the highest probability of the class, less those whose mask is empty in the image."""
        probabilities = candidates.factors["class"]
        pairs = probabilities.flatten().topk(len(candidates), sorted=False).indices
        source, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
        found = Detections(candidates.boxes[source], candidates.scores[source, labels], labels, source)
        return found[found.boxes[:, 2] > found.boxes[:, 0]]


def _class_probability(trace: Trace) -> Tensor:
    return trace.candidates.factors["class"][trace.detections.source, trace.detections.labels]


def _boxes_around(inside: Tensor, image: Size) -> Tensor:
    """The boxes (M,4) xyxy, in image pixels, around masks (M,h,w) bool that nearest neighbor draws in the image; 0 where it shows
    none of the mask."""
    rows, columns = (_cells_of(cells, pixels, inside.device) for cells, pixels in zip(inside.shape[1:], image, strict=True))
    # Where the image is the smaller one, some cells are left out: a mask that lies in them alone is not in it.
    shown = torch.zeros_like(inside[0])
    shown[rows[:, None], columns] = True
    inside = inside & shown
    left, right = _ends(inside.any(1)[:, columns])
    top, bottom = _ends(inside.any(2)[:, rows])
    return torch.stack([left, top, right, bottom], -1).float()


def _cells_of(cells: int, pixels: int, device: torch.device) -> Tensor:
    """(pixels,) the cell that each pixel of a row shows, by the framework's own nearest neighbor."""
    numbers = torch.arange(cells, dtype=torch.float32, device=device)
    return resize_maps(numbers[None, None], (1, pixels), mode="nearest")[0, 0].long()


def _ends(shown: Tensor) -> tuple[Tensor, Tensor]:
    """(M,n) bool -> (M,) the first place that is shown, and the one after the last; 0 and 0 where none is."""
    numbers = shown.byte()
    any_shown = shown.any(1)
    return numbers.argmax(1) * any_shown, (shown.shape[1] - numbers.flip(1).argmax(1)) * any_shown


def _kept_or_default(module: Any, name: str) -> Any:
    import transformers
    from transformers import AutoImageProcessor

    kept = hf.kept(AutoImageProcessor, module)
    return getattr(transformers, name)() if kept is None else kept
