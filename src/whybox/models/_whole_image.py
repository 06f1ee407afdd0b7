"""Models that predict for the whole image: the common part of image-text models and classifiers.

Such a model has one candidate, the whole image, and one score column per text or class. A family provides its network layer
by layer (`ImageEncoder`, and `TextEncoder` for texts); `_image_text.py` and `_classifier.py` turn the image's embedding into
scores; traces and pullbacks are here.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from whybox.attention import Transformer, TransformerModel, TransformerPass
from whybox.errors import WeightsError, WhyboxError, unknown
from whybox.frame import Frame, Size
from whybox.models._image_encoder import NORMED, ImageEncoder, altered, from_input_of, on_grid, paths_of, stride
from whybox.models._layers import Layer, choose_layers, exact_pullbacks, find_layers, module_path, token_layer
from whybox.network_state import exclusive
from whybox.ops.gradients import gradients_on
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.ops.transformer import (
    difference,
    embedding_from,
    entering_layers,
    in_float32,
    modules_from,
    widened,
)
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, FeatureMap, Trace

Options = ParamSpec("Options")
Made = TypeVar("Made", bound="WholeImage")
TOKENS = "tokens"
BLOCKS = "blocks"
MOST_PATCHES = 128 * 128
"""2048x2048 pixels in patches of 16 take seconds per layer on a CPU; a mistaken size of 5000x5000 would take hours."""


@dataclass(frozen=True)
class _State:
    """The stored results of a pass, from which it can be resumed.

    Attributes:
        pixels: The network's input, (1,3,Hn,Wn).
        tokens: What entered each layer, (1,N,C).
        embedding: (1,D).
        altered: Why the last layer cannot be run by itself; "" where it gives the pass's embedding.
    """

    pixels: Tensor
    tokens: tuple[Tensor, ...]
    embedding: Tensor
    altered: str


class WholeImage(TransformerModel):
    """A model that predicts for the whole image. Its one candidate is the image; a text or class is a score column.

    Layers: "normed", the output of the norm before the last attention, is a transformer's default. "tokens" is that norm's
    input: because a norm does not depend on a token's length, a gradient there is orthogonal to the token, and gradient x
    feature sums to zero. "blocks[3]" is the input of the fourth layer, "input" the pixels. The path of any module whose output
    is feature maps or patch tokens works, too.
    """

    gives = frozenset({"candidates", "features", "input", "transformer", "attention"})

    def __init__(self, make_encoder: Callable[[], ImageEncoder], name: str) -> None:
        self._make_encoder = make_encoder
        encoder = make_encoder()
        self.network: Any = encoder.network
        self.name = name
        self.fill = encoder.fill
        self._made_by: Callable[[], WholeImage] | None = None

    @property
    def image_encoder(self) -> ImageEncoder:
        """The image encoder of the network as it is now."""
        return self._make_encoder()

    def __reduce__(self) -> Any:
        """Pickle the network and the family's options; the encoders are rebuilt from these."""
        if self._made_by is None:
            return super().__reduce__()
        return _make_again, (self._made_by, self.name, self._own_classes())

    def _refresh(self) -> None:
        """Before a pass: compute anew what was computed with the network in another state."""

    @abstractmethod
    def _own_classes(self) -> list[Any] | None:
        """The texts or class names that this model was given after its family built it."""

    @abstractmethod
    def _with_classes(self, names: list[Any]) -> "WholeImage":
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
        return (*paths_of(self.image_encoder), TOKENS, INPUT)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """The network's own forward pass over an image (3,H,W) in 0..1, without a graph; what enters each layer is kept."""
        if differentiable:
            raise WhyboxError(f"{self.name}: a differentiable trace is available for detectors; leave differentiable out")
        self._refresh()
        encoder = self.image_encoder
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = encoder.prepare(image[None])
            self._check_size(encoder, frame)
            with entering_layers(encoder.transformer) as entered:
                embedding = encoder.embed(pixels)
            tokens = self._entered_once(encoder.transformer, entered)
            self._check_finite(embedding)
            # Now, while the network is as it was in the pass.
            reason = altered(encoder.transformer, tokens, embedding)
            candidates = self._candidates(embedding, frame)
        state = _State(pixels, tokens, embedding, reason)
        features = FeatureMap(on_grid(encoder, tokens[-1][0], frame), stride(encoder, frame), TOKENS)
        return Trace(image, frame, (features,), candidates, self._detections(candidates), embedding=embedding, state=state)

    def _entered_once(self, transformer: Transformer, entered: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        for layer, tokens in zip(transformer.layers, entered, strict=True):
            if len(tokens) != 1 or tokens[0].ndim != 3:
                raise WhyboxError(
                    f"{self.name}: {layer.name} ran {len(tokens)} times in one pass of the image encoder; whybox needs the plain "
                    "forward pass of this architecture, in which every layer runs once"
                )
        return tuple(tokens[0] for tokens in entered)

    def _check_size(self, encoder: ImageEncoder, frame: Frame) -> None:
        height, width = encoder.grid(frame.network)
        if height * width > MOST_PATCHES:
            raise WhyboxError(
                f"{frame.network[0]}x{frame.network[1]} pixels are {height * width} patches, and the attention's cost grows with "
                f"their square: at most {MOST_PATCHES} are taken; give a smaller size"
            )

    def _check_finite(self, embedding: Tensor) -> None:
        if not embedding.isfinite().all():
            raise WeightsError(f"{self.name} gave an embedding that is NaN or infinite: look at its weights and its input")

    def predict(self, images: Tensor) -> list[Candidates]:
        """One candidate for each of the images (B,3,H,W) in 0..1 of one size, by the network's own forward pass."""
        if not len(images):
            return []
        self._refresh()
        encoder = self.image_encoder
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = encoder.prepare(images)
            return [self._candidates(embedding[None], frame) for embedding in encoder.embed(pixels)]

    def _known(self, trace: Trace) -> _State:
        return trace.state if isinstance(trace.state, _State) else self.trace(trace.image).state

    def transformer(self, trace: Trace) -> TransformerPass:
        """The image encoder's pass, from the image's trace.

        Raises:
            WhyboxError: The last layer, run by itself, does not give the embedding of the network's own forward pass.
        """
        state = self._known(trace)
        if state.altered:
            raise WhyboxError(
                f"{self.name}: the last attention layer cannot be run by itself, as this method does ({state.altered}): a hook, "
                "an adapter or a replaced module changes it; method='odam' takes gradients through the network's own forward pass"
            )
        return self._pass(trace, state, self.image_encoder)

    def _pass(self, trace: Trace, state: _State, encoder: ImageEncoder) -> TransformerPass:

        def answer(embeddings: Tensor, detections: Detections) -> Trace:
            return trace.rows(self._candidates(embeddings, trace.frame), detections)

        return TransformerPass(
            encoder.transformer,
            state.tokens,
            torch.zeros(1, dtype=torch.long, device=state.embedding.device),
            state.embedding,
            answer,
            None,
            encoder.grid(trace.frame.network),
            encoder.first,
            stride(encoder, trace.frame),
        )

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks to the features by autograd, from the layer on; one backward pass per detection."""
        if route not in ("auto", "exact"):
            raise unknown("route", route, ("auto", "exact"))
        if not len(detections):
            return
        encoder, wanted = self.image_encoder, layer or self.layers[0]
        state = self._known(trace)
        start = self._start(encoder, wanted)
        if start is None:
            yield from self._through_modules(trace, detections, wanted, state, encoder)
            return
        modules = modules_from(encoder.transformer, start)
        with exclusive(self.network), in_float32(*modules), frozen(self.network), gradients_on():
            # A clone, because a tensor that is wide enough is returned as it is stored.
            leaf = widened(state.tokens[start].detach()).clone().requires_grad_()
            embedding = self._resumed(trace, state, encoder, start, leaf)
        if embedding is None:
            modules = (self.network,)
            with exclusive(self.network), in_float32(*modules), frozen(self.network), gradients_on():
                # The whole network in float32 here: its own forward pass runs more than the layers from `start` on.
                embedding = from_input_of(encoder, start, leaf, widened(state.pixels))
                self._check_same(embedding, state)
        live = replace(trace, candidates=self._with_graph(embedding, trace.frame))
        grid = encoder.grid(trace.frame.network)
        tokens = token_layer(wanted, leaf, trace.frame.network, grid, encoder.first)
        for pullback in exact_pullbacks(live, detections, [tokens]):
            # The graph was recorded with float32 weights, which are half precision again by the time of the backward pass.
            yield replace(pullback, backward=self._in_float32(pullback.backward, modules))

    def _with_graph(self, embedding: Tensor, frame: Frame) -> Candidates:
        with exclusive(self.network), in_float32(self.network), frozen(self.network), gradients_on():
            return self._candidates(embedding, frame)

    def _resumed(self, trace: Trace, state: _State, encoder: ImageEncoder, start: int, tokens: Tensor) -> Tensor | None:
        """The embedding from the layers from `start` on, run one by one; None where that is not the pass's embedding."""
        if state.altered:
            return None
        try:
            embedding = embedding_from(self._pass(trace, state, encoder), start, tokens)
        except Exception:  # a replaced layer may fail in any way; the network's own forward pass is left
            return None
        return None if difference(state.embedding, embedding) else embedding

    def _check_same(self, embedding: Tensor, state: _State) -> None:
        """Refuse a network that gives another embedding for the same image."""
        if reason := difference(state.embedding, embedding):
            raise WhyboxError(
                f"{self.name}: two passes over the same image gave different embeddings ({reason}): its forward pass must be "
                "deterministic"
            )

    def _in_float32(self, backward: Callable[[Tensor], Tensor], modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
        def wide(values: Tensor) -> Tensor:
            with exclusive(self.network), in_float32(*modules):
                return backward(values)

        return wide

    def _start(self, encoder: ImageEncoder, wanted: str) -> int | None:
        """The index of the attention layer whose input has this name; None for other layers."""
        count = len(encoder.transformer.layers)
        if wanted == TOKENS:
            return count - 1
        if module_path(wanted) != BLOCKS:
            return None
        number = wanted.removeprefix(BLOCKS).strip("[]")
        if not number.isdigit() or int(number) >= count:
            raise unknown("layer", wanted, [f"{BLOCKS}[{i}]" for i in range(count)])
        return int(number)

    def _through_modules(
        self, trace: Trace, detections: Detections, wanted: str, state: _State, encoder: ImageEncoder
    ) -> Iterator[Pullback]:
        """Pullbacks to a module's output, or to the input: the network's own forward pass with hooks."""
        named = paths_of(encoder).get(wanted, wanted)
        path = module_path(named)
        with exclusive(self.network), in_float32(self.network), frozen(self.network), gradients_on():
            tensors, embedding = self._watch(path, state, trace, encoder, last=wanted == NORMED)
            self._check_same(embedding, state)
            live = replace(trace, candidates=self._candidates(embedding, trace.frame))
        chosen = choose_layers(self._laid_out(encoder, path, tensors, trace.frame.network), named)
        for pullback in exact_pullbacks(live, detections, chosen[-1:]):
            yield replace(pullback, backward=self._in_float32(pullback.backward, (self.network,)))

    def _laid_out(self, encoder: ImageEncoder, path: str, tensors: Sequence[Tensor], network: Size) -> list[Layer]:
        """The recorded tensors as layers. As many tokens as the encoder has lie on its grid; other grids are inferred."""
        height, width = encoder.grid(network)
        last = tensors[-1]
        if path == INPUT:
            # The patch embedding drops what is left over beside the last whole patch.
            return [Layer(path, last, lambda values: values[..., : network[0], : network[1]], 1.0)]
        if last.ndim == 3 and last.shape[1] == encoder.first + height * width:
            return [token_layer(path, last, network, (height, width), encoder.first)]
        return find_layers(path, tensors, network)

    def _watch(self, path: str, state: _State, trace: Trace, encoder: ImageEncoder, *, last: bool) -> tuple[list[Tensor], Tensor]:
        """The outputs of one module, as nodes of the graph, and the embedding. last: the module is part of the last layer, and
        only that layer is run again, unless something has changed it."""
        pixels = widened(state.pixels)
        if path == INPUT:
            leaf = pixels.clone().requires_grad_()
            return [leaf], encoder.embed(leaf)
        if last and not state.altered:
            start = len(state.tokens) - 1
            with capture(self.network, [path]) as captured:
                embedding = embedding_from(self._pass(trace, state, encoder), start, widened(state.tokens[start].detach()))
            if not difference(state.embedding, embedding):
                return captured[path], embedding
        with capture(self.network, [path]) as captured:
            embedding = encoder.embed(pixels)
        return captured[path], embedding


def whole_image(scores: Tensor, logits: Tensor, frame: Frame) -> Candidates:
    """n candidates that are the whole image, from their scores and logits (n,K)."""
    height, width = frame.image
    # In float32, whatever the precision of the network: float16 has gaps between whole numbers of pixels from 2048 on.
    boxes = torch.tensor([[0.0, 0.0, width, height]], device=scores.device, dtype=torch.float32).expand(len(scores), 4)
    return Candidates(boxes, scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device), logits)


def whole_image_detections(candidates: Candidates, labels: Tensor) -> Detections:
    """One detection for each of the labels (n,) of the one candidate."""
    boxes = candidates.boxes.expand(len(labels), 4)
    return Detections(boxes, candidates.scores[0].detach()[labels], labels, torch.zeros_like(labels))


def made_again(wrap: Callable[Options, Made]) -> Callable[Options, Made]:
    """Decorator of a family's `wrap`: its models can be pickled, and their `settings` describe its options."""

    @wraps(wrap)
    def wrapped(*parts: Options.args, **options: Options.kwargs) -> Made:
        model = wrap(*parts, **options)
        # `wrapped` and not `wrap`: pickle looks functions up by their names, and the name is the decorated one's.
        model._made_by = partial(wrapped, *parts, **options)
        model.settings = ", ".join(f"{name}={_in_words(value)}" for name, value in sorted(options.items()))
        return model

    return wrapped


def _in_words(value: Any) -> str:
    """A description that is the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, tuple, list, dict)):
        return repr(value)
    described = getattr(value, "to_dict", None)
    if callable(described):
        return f"{type(value).__name__}{sorted(described().items())}"
    # A tokenizer: its vocabulary, and what else it holds in plain values, in few letters.
    vocabulary = getattr(value, "get_vocab", None)
    held = {name: entry for name, entry in getattr(value, "__dict__", {}).items() if _is_plain(entry)}
    if callable(vocabulary):
        held["vocabulary"] = vocabulary()
    if not held:
        return type(value).__name__
    words = repr(
        sorted((name, sorted(entry.items(), key=repr) if isinstance(entry, dict) else entry) for name, entry in held.items())
    )
    return f"{type(value).__name__}({blake2b(words.encode(errors='replace'), digest_size=6).hexdigest()})"


def _is_plain(value: Any) -> bool:
    """Whether a value is written alike in every process."""
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _make_again(made_by: Callable[[], WholeImage], name: str, classes: list[Any] | None) -> WholeImage:
    model = made_by()
    model.name = name
    return model if classes is None else model._with_classes(classes)
