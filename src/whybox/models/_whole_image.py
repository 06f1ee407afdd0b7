"""Models that predict for the whole image: the common part of image-text models and classifiers.

Such a model has one candidate, the whole image, and one score column per text or class. A family provides its network layer
by layer (`ImageEncoder`, and `TextEncoder` for texts); `_image_text.py` and `_classifier.py` turn the image's embedding into
scores; traces and pullbacks are here.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from whybox.attention import Transformer, TransformerModel, TransformerPass
from whybox.errors import WeightsError, WhyboxError, unknown
from whybox.frame import Frame, Size
from whybox.models._layers import Layer, choose_layers, exact_pullbacks, find_layers, module_path, token_layer
from whybox.ops.gradients import gradients_on
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.ops.transformer import attend, embedding_from, enter_layers, in_float32, modules_from, run_layer
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, FeatureMap, Trace

Options = ParamSpec("Options")
Made = TypeVar("Made", bound="WholeImage")
NORMED = "normed"
TOKENS = "tokens"
BLOCKS = "blocks"
MOST_PATCHES = 128 * 128
"""2048x2048 pixels in patches of 16 take seconds per layer on a CPU; a mistaken size of 5000x5000 would take hours."""
_CHECKED: "WeakSet[nn.Module]" = WeakSet()
"""Networks whose image encoder, run layer by layer, was verified to reproduce its own forward pass."""


@dataclass(frozen=True)
class ImageEncoder:
    """The image encoder of a network, provided by its family.

    Attributes:
        network: The whole network.
        prepare: Images (B,3,H,W) in 0..1 of one size -> the network's input (B,3,Hn,Wn) and the frame.
        transformer: The encoder layer by layer.
        grid: Size of the network's input -> patches (h,w).
        embed: The network's input -> (B,D) by the network's own forward pass.
        first: The number of tokens before the patches.
        features: Names of layers of feature maps and their module paths, the default first; empty: tokens are the default.
        fill: (3,) the color in 0..1 that is zero after normalization.
    """

    network: nn.Module
    prepare: Callable[[Tensor], tuple[Tensor, Frame]]
    transformer: Transformer
    grid: Callable[[Size], Size]
    embed: Callable[[Tensor], Tensor]
    first: int = 1
    features: Mapping[str, str] = field(default_factory=dict)
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _State:
    """The stored results of a pass, from which it can be resumed. pixels: the network's input, (1,3,Hn,Wn)."""

    pixels: Tensor
    tokens: tuple[Tensor, ...]
    mask: Tensor | None
    embedding: Tensor


class WholeImage(TransformerModel):
    """A model that predicts for the whole image. Its one candidate is the image; a text or class is a score column.

    Layers: "normed", the output of the norm before the last attention, is a transformer's default. "tokens" is that norm's
    input: because a norm does not depend on a token's length, a gradient there is orthogonal to the token, and gradient x
    feature sums to zero. "blocks[3]" is the input of the fourth layer, "input" the pixels. The path of any module whose output
    is feature maps or patch tokens works, too.
    """

    gives = frozenset({"candidates", "features", "input", "transformer", "attention"})

    def __init__(self, image_encoder: ImageEncoder, name: str) -> None:
        self.image_encoder = image_encoder
        self.network: Any = image_encoder.network
        self.name = name
        self.fill = image_encoder.fill
        self._made_by: Callable[[], WholeImage] | None = None
        self._paths = {**image_encoder.features, **_norm_path(image_encoder)}

    def __reduce__(self) -> Any:
        """Pickle the network and the family's options; the encoders are rebuilt from these."""
        if self._made_by is None:
            return super().__reduce__()
        return _make_again, (self._made_by, self.name, self._own_classes())

    @abstractmethod
    def _own_classes(self) -> list[str] | None:
        """The texts or class names that this model was given after its family built it."""

    @abstractmethod
    def _with_classes(self, names: list[str]) -> "WholeImage":
        """This model, rebuilt in another process, with the result of `_own_classes`."""

    @abstractmethod
    def _candidates(self, embeddings: Tensor, frame: Frame) -> Candidates:
        """Embeddings (n,D) of images -> n candidates, each the whole image."""

    @abstractmethod
    def _detections(self, candidates: Candidates) -> Detections:
        """The columns of the one candidate, in the order in which they are shown."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names for `pullbacks`, the default first."""
        return (*self._paths, TOKENS, INPUT)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1, layer by layer, without a graph."""
        if differentiable:
            raise WhyboxError(f"{self.name}: a differentiable trace is available for detectors; leave differentiable out")
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = self.image_encoder.prepare(image[None])
            self._check_size(frame)
            entering, mask = enter_layers(self.image_encoder.transformer, pixels)
            embedding = self._read_out(entering[-1], mask)
            self._check(pixels, embedding)
            candidates = self._candidates(embedding, frame)
        state = _State(pixels, entering, mask, embedding)
        features = FeatureMap(self._on_grid(entering[-1][0], frame), self._stride(frame), TOKENS)
        return Trace(image, frame, (features,), candidates, self._detections(candidates), embedding=embedding, state=state)

    def _check_size(self, frame: Frame) -> None:
        height, width = self.image_encoder.grid(frame.network)
        if height * width > MOST_PATCHES:
            raise WhyboxError(
                f"{frame.network[0]}x{frame.network[1]} pixels are {height * width} patches, and the attention's cost grows with "
                f"their square: at most {MOST_PATCHES} are taken; give a smaller size"
            )

    def _read_out(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B,D) from the last layer's input; of that layer only the row that is read is computed."""
        vision = self.image_encoder.transformer
        rows = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        if vision.pooling == "mean":
            return vision.read(run_layer(vision.layers[-1], tokens, mask))
        layer = vision.layers[-1]
        attended = attend(layer, tokens, mask, rows=rows)
        return vision.read(layer.finish(tokens[:, :1], layer.out(attended.mixed)))

    def _check(self, pixels: Tensor, embedding: Tensor) -> None:
        """Once per network: run layer by layer, it must reproduce its own forward pass."""
        if self.network in _CHECKED:
            return
        own = self.image_encoder.embed(pixels).float()
        if not own.isfinite().all():
            raise WeightsError(f"{self.name} gave an embedding that is NaN or infinite: look at its weights and its input")
        check_pieces(own, embedding, f"{self.name}: the image encoder")
        _CHECKED.add(self.network)

    def predict(self, images: Tensor) -> list[Candidates]:
        """One candidate for each of the images (B,3,H,W) in 0..1 of one size, by the network's own forward pass."""
        if not len(images):
            return []
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = self.image_encoder.prepare(images)
            return [self._candidates(embedding[None], frame) for embedding in self.image_encoder.embed(pixels)]

    def _on_grid(self, tokens: Tensor, frame: Frame) -> Tensor:
        """Tokens (N,C) -> (C,h,w)"""
        height, width = self.image_encoder.grid(frame.network)
        start = self.image_encoder.first
        return tokens[start : start + height * width].T.reshape(-1, height, width)

    def _stride(self, frame: Frame) -> float:
        return frame.network[0] / self.image_encoder.grid(frame.network)[0]

    def _known(self, trace: Trace) -> _State:
        return trace.state if isinstance(trace.state, _State) else self.trace(trace.image).state

    def transformer(self, trace: Trace) -> TransformerPass:
        """The image encoder's pass, from the image's trace."""
        state = self._known(trace)

        def answer(embeddings: Tensor, detections: Detections) -> Trace:
            return trace.rows(self._candidates(embeddings, trace.frame), detections)

        return TransformerPass(
            self.image_encoder.transformer,
            state.tokens,
            torch.zeros(1, dtype=torch.long, device=state.embedding.device),
            state.embedding,
            answer,
            state.mask,
            self.image_encoder.grid(trace.frame.network),
            self.image_encoder.first,
            self._stride(trace.frame),
        )

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks to the features by autograd, from the layer on; one backward pass per detection."""
        if route not in ("auto", "exact"):
            raise unknown("route", route, ("auto", "exact"))
        if not len(detections):
            return
        wanted = layer or self.layers[0]
        state = self._known(trace)
        start = self._start(wanted)
        if start is None:
            yield from self._through_modules(trace, detections, wanted, state)
            return
        modules = modules_from(self.image_encoder.transformer, start)
        with in_float32(*modules), frozen(self.network), gradients_on():
            # A clone, because `.float()` returns the stored tensor itself where it is float32 already.
            leaf = state.tokens[start].detach().float().clone().requires_grad_()
            embedding = embedding_from(self.transformer(trace), start, leaf)
            live = replace(trace, candidates=self._candidates(embedding, trace.frame))
        grid = self.image_encoder.grid(trace.frame.network)
        tokens = token_layer(wanted, leaf, trace.frame.network, grid, self.image_encoder.first)
        for pullback in exact_pullbacks(live, detections, [tokens]):
            # The graph was recorded with float32 weights, which are half precision again by the time of the backward pass.
            yield replace(pullback, backward=_in_float32(pullback.backward, modules))

    def _start(self, wanted: str) -> int | None:
        """The index of the attention layer whose input has this name; None for other layers."""
        count = len(self.image_encoder.transformer.layers)
        if wanted == TOKENS:
            return count - 1
        if module_path(wanted) != BLOCKS:
            return None
        number = wanted.removeprefix(BLOCKS).strip("[]")
        if not number.isdigit() or int(number) >= count:
            raise unknown("layer", wanted, [f"{BLOCKS}[{i}]" for i in range(count)])
        return int(number)

    def _through_modules(self, trace: Trace, detections: Detections, wanted: str, state: _State) -> Iterator[Pullback]:
        """Pullbacks to a module's output, or to the input: the network's own forward pass with hooks."""
        named = self._paths.get(wanted, wanted)
        path = module_path(named)
        with in_float32(self.network), frozen(self.network), gradients_on():
            tensors, embedding = self._watch(path, state, trace, last=wanted == NORMED)
            live = replace(trace, candidates=self._candidates(embedding, trace.frame))
        chosen = choose_layers(self._laid_out(path, tensors, trace.frame.network), named)
        for pullback in exact_pullbacks(live, detections, chosen[-1:]):
            yield replace(pullback, backward=_in_float32(pullback.backward, (self.network,)))

    def _laid_out(self, path: str, tensors: Sequence[Tensor], network: Size) -> list[Layer]:
        """The recorded tensors as layers. As many tokens as the encoder has lie on its grid; other grids are inferred."""
        height, width = self.image_encoder.grid(network)
        last = tensors[-1]
        if path == INPUT:
            # The patch embedding drops what is left over beside the last whole patch.
            return [Layer(path, last, lambda values: values[..., : network[0], : network[1]], 1.0)]
        if last.ndim == 3 and last.shape[1] == self.image_encoder.first + height * width:
            return [token_layer(path, last, network, (height, width), self.image_encoder.first)]
        return find_layers(path, tensors, network)

    def _watch(self, path: str, state: _State, trace: Trace, *, last: bool) -> tuple[list[Tensor], Tensor]:
        """The outputs of one module, as nodes of the graph, and the embedding. last: the module is part of the last layer, and
        only that layer is run again."""
        pixels = state.pixels.float()
        if path == INPUT:
            leaf = pixels.clone().requires_grad_()
            return [leaf], self.image_encoder.embed(leaf)
        with capture(self.network, [path]) as captured:
            if last:
                start = len(state.tokens) - 1
                embedding = embedding_from(self.transformer(trace), start, state.tokens[start].detach().float())
            else:
                embedding = self.image_encoder.embed(pixels)
        return captured[path], embedding


def check_pieces(whole: Tensor, pieces: Tensor, what: str) -> None:
    """Refuse an encoder that, run layer by layer, does not reproduce its own forward pass.

    Args:
        whole: Embeddings (B,D) of the network's own forward pass.
        pieces: Embeddings (B,D) of the layers run one by one.
        what: Model and encoder, for the error.

    Raises:
        WhyboxError: They differ by more than their dtype's precision explains.
    """
    whole, layered = whole.float(), pieces.float()
    away = float(((whole - layered).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-12)).amax())
    # "not <=" and not ">", so that NaN is refused.
    if not away <= (1e-3 if pieces.dtype == torch.float32 else 5e-2):
        raise WhyboxError(
            f"{what}, run layer by layer, does not reproduce the model's forward pass (the embeddings differ by {away:.2g} of "
            "their length): whybox does not know this variant of the architecture"
        )


def whole_image(scores: Tensor, logits: Tensor, frame: Frame) -> Candidates:
    """n candidates that are the whole image, from their scores and logits (n,K)."""
    height, width = frame.image
    boxes = torch.tensor([[0.0, 0.0, width, height]], device=scores.device).expand(len(scores), 4)
    return Candidates(boxes, scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device), logits)


def whole_image_detections(candidates: Candidates, labels: Tensor) -> Detections:
    """One detection for each of the labels (n,) of the one candidate."""
    boxes = candidates.boxes.expand(len(labels), 4)
    return Detections(boxes, candidates.scores[0].detach()[labels], labels, torch.zeros_like(labels))


def _norm_path(encoder: ImageEncoder) -> dict[str, str]:
    """The module path of the norm before the last attention; empty where it is not a module of the network."""
    norm = encoder.transformer.layers[-1].normalize
    paths = [path for path, part in encoder.network.named_modules() if part is norm]
    return {NORMED: paths[0]} if paths else {}


def _in_float32(backward: Callable[[Tensor], Tensor], modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    def wide(values: Tensor) -> Tensor:
        with in_float32(*modules):
            return backward(values)

    return wide


def made_again(wrap: Callable[Options, Made]) -> Callable[Options, Made]:
    """Decorator of a family's `wrap`: its models can be pickled, and their `settings` describe its options."""

    @wraps(wrap)
    def wrapped(*parts: Options.args, **options: Options.kwargs) -> Made:
        model = wrap(*parts, **options)
        model._made_by = partial(wrapped, *parts, **options)
        model.settings = ", ".join(f"{name}={_in_words(value)}" for name, value in sorted(options.items()))
        return model

    return wrapped


def _in_words(value: Any) -> str:
    """A description that is the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, tuple, list, dict)):
        return repr(value)
    described = getattr(value, "to_dict", None)
    return f"{type(value).__name__}{sorted(described().items()) if callable(described) else ''}"


def _make_again(made_by: Callable[[], WholeImage], name: str, classes: list[str] | None) -> WholeImage:
    model = made_by()
    model.name = name
    return model if classes is None else model._with_classes(classes)
