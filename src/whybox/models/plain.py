"""Any detector, through one small function of the user's that reads boxes and scores off the network's output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from whybox.errors import GradientError, WhyboxError, unknown
from whybox.frame import Frame, Size
from whybox.model import Model
from whybox.models._layers import Layer, choose_layers, exact_pullbacks, find_layers, module_path, same_rows
from whybox.ops.gradients import recording, twice_differentiable
from whybox.ops.hooks import INPUT, capture, frozen, map_tensors, tensors_in
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, Trace

Resize = Literal["letterbox", "corner", "stretch"]
ReadOutput = Callable[[Any], Any]
"""The network's output for a batch of one image -> boxes (M,4) xyxy in network pixels and scores (M,K), both differentiable;
a third value is each candidate's level (M,), an index into the feature maps. Or a dictionary with the fields of Candidates."""


def matches(module: nn.Module) -> bool:
    """Never by itself: this family is asked for by giving `candidates=`."""
    return False


def wrap(module: nn.Module, candidates: ReadOutput, features: Sequence[str], **options: Any) -> "Plain":
    """A model from the user's module; the options are the fields of Plain."""
    return Plain(module, candidates, features, **options)


@dataclass(frozen=True)
class Preparation:
    """How an image (3,H,W) in 0..1 becomes the network's input.

    size: (h, w) of the input; None: the image as it is, padded at the bottom and right to a multiple of `multiple`.
    resize: "letterbox" keeps the aspect ratio and pads on both sides, "corner" pads at the bottom and right, "stretch" does
    not keep it. Bilinear, without antialiasing. pad: the padding's grey, in 0..1.
    The values are multiplied by `scale` (255 where the network wants 0..255), brought to the order blue, green, red if
    `bgr`, and normalized: minus `mean`, divided by `std`, both in the network's units and channel order.
    """

    size: Size | None = None
    multiple: int = 1
    resize: Resize = "letterbox"
    pad: float = 114 / 255
    scale: float = 1.0
    bgr: bool = False
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise unknown("resize", str(self.resize), get_args(Resize))
        whole = isinstance(self.size, tuple | list) and len(self.size) == 2 and all(isinstance(n, int) for n in self.size)
        if self.size is not None and not (whole and min(self.size) > 0):
            raise WhyboxError(f"size must be (height, width) in pixels, or None, got {self.size!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise WhyboxError(f"{name} must hold three numbers, one a channel, got {len(values)}")
        if self.multiple < 1 or 0 in self.std:
            raise WhyboxError("multiple must be at least 1, and no channel's std 0")

    def frame(self, image: Size) -> Frame:
        """Where an image of that size comes to stand on the canvas."""
        if self.size is None:
            height, width = (-(-extent // self.multiple) * self.multiple for extent in image)
            return Frame(image, image, (height, width))
        if self.resize == "stretch":
            return Frame(image, self.size, self.size)
        ratio = min(self.size[0] / image[0], self.size[1] / image[1])
        resized = (max(1, round(image[0] * ratio)), max(1, round(image[1] * ratio)))
        centered = self.resize == "letterbox"
        offset = ((self.size[0] - resized[0]) // 2, (self.size[1] - resized[1]) // 2) if centered else (0, 0)
        return Frame(image, resized, self.size, offset)

    def canvas(self, image: Tensor, frame: Frame) -> Tensor:
        """Image (3,H,W) in 0..1 -> the network's input (3,h,w)."""
        canvas = frame.image_to_network(image)
        if frame.resized != frame.network:
            inside = frame.image_to_network(image.new_ones((1, *frame.image)))
            canvas = canvas + self.pad * (1 - inside)
        canvas = (canvas.flip(0) if self.bgr else canvas) * self.scale
        mean, std = (
            torch.tensor(values, dtype=canvas.dtype, device=canvas.device)[:, None, None] for values in (self.mean, self.std)
        )
        return (canvas - mean) / std


@dataclass(frozen=True)
class Suppression:
    """From candidates to detections: each candidate with its best class, class by class non-maximum suppression.

    nms_iou: boxes of one class that overlap more than this are duplicates; None: none are.
    """

    score_threshold: float = 0.05
    nms_iou: float | None = 0.5
    max_detections: int = 100

    def detections(self, candidates: Candidates, image: Size) -> Detections:
        """The detections, best first, clipped to the image; `source` is the candidate's row."""
        if not candidates.scores.numel():
            return Detections.empty(candidates.scores)
        scores, labels = candidates.scores.max(1)
        source = (scores > self.score_threshold).nonzero()[:, 0]
        boxes = candidates.boxes_of(source, labels[source])
        if self.nms_iou is None:
            kept = scores[source].argsort(descending=True, stable=True)
        else:
            kept = batched_nms(boxes.float(), scores[source].float(), labels[source], self.nms_iou)
        kept = kept[: self.max_detections]
        source = source[kept]
        limit = boxes.new_tensor([image[1], image[0], image[1], image[0]])
        return Detections(boxes[kept].clamp(min=0).minimum(limit), scores[source], labels[source], source)


class Plain(Model):
    """A detector of any origin.

    module: takes a tensor (1,3,h,w). candidates: reads its output (see ReadOutput). features: the paths of the modules whose
    outputs are the feature maps; a module that gives several counts as several, `neck[0]`, `neck[1]` ...
    classes: names of the scores' columns. The other options are those of Preparation and Suppression.

    Where there are several feature maps, a detection is explained on the level that the user's function named for it, else
    on the one where its score's sum |gradient o features| is largest. `layer` may also be any module's path, or "input".
    """

    gives = frozenset({"candidates", "features", "input"})

    def __init__(
        self,
        module: nn.Module,
        candidates: ReadOutput,
        features: Sequence[str],
        *,
        classes: Sequence[str] | None = None,
        name: str = "plain",
        **options: Any,
    ) -> None:
        if isinstance(features, str) or not features:
            raise WhyboxError(f"features must be a list of module paths, such as ['neck.0'], got {features!r}")
        self.name = name
        self.classes = classes
        self.network = module
        self.read = candidates
        self.features = tuple(features)
        self.preparation, self.suppression = _split_options(options)
        self._takes_batches: dict[int, bool] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.features, INPUT)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1."""
        trace, layers = self._run(image, self.features, gradients=differentiable, weights=differentiable)
        return replace(trace, state=tuple(layers)) if differentiable else trace

    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates for images (B,3,H,W) in 0..1 of one size, without a graph.

        The network gets the whole batch if its output then falls apart into the outputs for single images, which the first
        batch of a size shows; otherwise it gets them one by one.
        """
        if not len(images):
            return []
        frame = self.preparation.frame((images.shape[-2], images.shape[-1]))
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            outputs = self._outputs(torch.stack([self._input(image, frame) for image in images]))
            return [_detached(self._candidates(output, frame, 1)) for output in outputs]

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Ways back to the features, by autograd through the module: another forward pass, and a backward pass a detection."""
        if route not in ("auto", "exact"):
            raise unknown("route", route, ("auto", "exact"))
        if not len(detections):
            return
        if trace.differentiable and layer is None:
            live, layers = trace, list(trace.state)
        else:
            names = self.features if layer is None else [module_path(layer)]
            live, layers = self._run(trace.image, names, gradients=True, weights=trace.differentiable)
        layers = layers if layer is None else choose_layers(layers, layer)
        rows = same_rows(live.candidates, trace.candidates, detections.source)
        detections = replace(detections, source=rows)
        level = live.candidates.level[rows]
        known = layer is None and bool((level >= 0).all())
        yield from exact_pullbacks(live, detections, layers, level if known else None)

    def _run(self, image: Tensor, names: Sequence[str], *, gradients: bool, weights: bool = False) -> tuple[Trace, list[Layer]]:
        """A pass that records the modules `names`. weights: the graph leads down to the network's weights."""
        frame = self.preparation.frame((image.shape[-2], image.shape[-1]))
        frozen_here, watched = frozen(self.network, weights=not weights), capture(self.network, names, gradients=gradients)
        with frozen_here, twice_differentiable(weights), watched as captured:
            output = self.network(self._input(image, frame)[None])
            layers = [layer for name in names for layer in find_layers(name, captured[name], frame.network)]
            candidates = self._candidates(output, frame, len(layers))
            if tuple(names) == self.features:
                _check_levels(candidates.level, len(layers))
        if gradients:
            self._check_connected(output, candidates, names)
        else:
            candidates = _detached(candidates)
        with torch.inference_mode(False), torch.no_grad():
            detections = self.suppression.detections(candidates, frame.image)
        with recording(weights):
            features = tuple(layer.feature_map(graph=weights) for layer in layers)
        return Trace(image, frame, features, candidates, detections, differentiable=weights), layers

    def _input(self, image: Tensor, frame: Frame) -> Tensor:
        canvas = self.preparation.canvas(image, frame)
        weight = next((weight for weight in self.network.parameters() if weight.is_floating_point()), canvas)
        return canvas.to(weight.device, weight.dtype)

    def _outputs(self, canvases: Tensor) -> list[Any]:
        """The module's output for each canvas, as for a batch of one."""
        count = len(canvases)
        if count == 1 or self._takes_batches.get(count) is False:
            return [self.network(canvas[None]) for canvas in canvases]
        together = self.network(canvases)
        outputs = [_sample(together, i, count) for i in range(count)]
        if count not in self._takes_batches:
            self._takes_batches[count] = _same(outputs[-1], self.network(canvases[-1:]))
        return outputs if self._takes_batches[count] else self._outputs(canvases)

    def _candidates(self, output: Any, frame: Frame, levels: int) -> Candidates:
        given = _read_fields(self.read(output))
        boxes, scores = given.pop("boxes"), given.pop("scores")
        scores = scores[:, None] if scores.ndim == 1 else scores
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes):
            shapes = f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
            raise WhyboxError(f"candidates() must return boxes (M, 4) and scores (M, K) without a batch axis, got {shapes}")
        level = given.pop("level", None)
        if level is None:  # with one level it is known; with several, -1 says that it is not
            level = torch.full((len(boxes),), 0 if levels == 1 else -1, device=boxes.device)
        wide = torch.promote_types(boxes.dtype, torch.float32)
        try:
            return Candidates(frame.boxes_to_image(boxes.to(wide)), scores.to(wide), level.long(), **given)
        except ValueError as error:
            raise WhyboxError(f"candidates(): {error}") from error

    def _check_connected(self, output: Any, candidates: Candidates, names: Sequence[str]) -> None:
        if candidates.scores.requires_grad or candidates.boxes.requires_grad:
            return
        live = any(tensor.requires_grad for tensor in tensors_in(output))
        culprit = "candidates(), the function that reads the output," if live else "the module's forward"
        raise GradientError(
            f"{culprit} cuts the scores off from {', '.join(names)}: a detach, .data, no_grad or integer operation stands between"
        )


def _split_options(options: Mapping[str, Any]) -> tuple[Preparation, Suppression]:
    prepare, suppress = (tuple(field.name for field in fields(kind)) for kind in (Preparation, Suppression))
    for name in options:
        if name not in prepare + suppress:
            raise unknown("option", name, prepare + suppress)
    return (
        Preparation(**{name: options[name] for name in prepare if name in options}),
        Suppression(**{name: options[name] for name in suppress if name in options}),
    )


def _read_fields(read: Any) -> dict[str, Any]:
    """What the user's function returned, by name; every value a tensor, or a mapping of tensors by name."""
    if isinstance(read, tuple | list) and len(read) in (2, 3):
        read = dict(zip(("boxes", "scores", "level"), read, strict=False))
    if not isinstance(read, Mapping):
        raise WhyboxError(
            f"candidates() must return (boxes, scores), (boxes, scores, level) or a dictionary, got {type(read).__name__}"
        )
    for name, value in read.items():
        _check_field(str(name), value)
    if missing := {"boxes", "scores"} - read.keys():
        raise WhyboxError(f"candidates() must return boxes and scores; {' and '.join(sorted(missing))} did not come")
    count = len(read["scores"])
    for name in read.keys() - {"boxes", "scores"}:
        for part in _parts(read[name]):
            if not part.ndim or len(part) != count:
                raise WhyboxError(f"candidates(): {name} has the shape {tuple(part.shape)}, and there are {count} scores")
    return dict(read)


def _check_field(name: str, value: Any) -> None:
    known = tuple(field.name for field in fields(Candidates))
    if name not in known:
        raise unknown("entry of candidates()", name, known)
    for part in _parts(value):
        if not isinstance(part, Tensor):
            raise WhyboxError(f"candidates(): {name} must be a torch tensor, got {type(part).__name__}")


def _parts(value: Any) -> list[Any]:
    """The tensors of one field of Candidates: of a mapping, its values; of None, none."""
    return list(value.values()) if isinstance(value, Mapping) else [] if value is None else [value]


def _check_levels(level: Tensor, count: int) -> None:
    """-1 in all rows says that the levels are not known."""
    if len(level) and not (level == -1).all() and not 0 <= int(level.min()) <= int(level.max()) < count:
        raise WhyboxError(f"candidates(): level runs from {int(level.min())} to {int(level.max())}, of {count} feature maps")


def _detached(candidates: Candidates) -> Candidates:
    """Ordinary tensors without a graph, also from a forward that ran under inference_mode."""
    with torch.inference_mode(False), torch.no_grad():
        return Candidates(**{name: map_tensors(value, lambda t: t.detach().clone()) for name, value in vars(candidates).items()})


def _sample(output: Any, i: int, count: int) -> Any:
    """The output for one image of a batch, its batch axis kept."""
    return map_tensors(output, lambda tensor: tensor[i : i + 1] if tensor.ndim and len(tensor) == count else tensor)


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors, but for rounding; outputs without tensors are never the same."""
    a, b = tensors_in(one), tensors_in(other)
    return len(a) == len(b) > 0 and all(
        x.shape == y.shape and torch.allclose(x.float(), y.float(), rtol=1e-3, atol=1e-4) for x, y in zip(a, b, strict=True)
    )
