"""Models that answer for the whole image: contrastive image-text models, with texts as their classes, and classifiers.

Such a model has one candidate, the whole image, and a column of scores for each text or class. A family says how its
network is taken apart (`Encoders`); everything else is here, once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, ParamSpec
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from whybox.attention import ImageTextModel, Text, Transformer, TransformerPass
from whybox.errors import WeightsError, WhyboxError, unknown
from whybox.frame import Frame, Size
from whybox.models._layers import Layer, choose_layers, exact_pullbacks, find_layers, module_path, token_layer
from whybox.ops.attention_flow import chosen_texts
from whybox.ops.gradients import gradients_on
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.ops.transformer import attend, embedding_from, in_float32, modules_from, read_embedding, run_layer
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, FeatureMap, Trace

Options = ParamSpec("Options")
NORMED = "normed"
TOKENS = "tokens"
BLOCKS = "blocks"
MOST_PATCHES = 128 * 128
"""2048x2048 pixels in patches of 16: seconds a layer on a processor; a slip such as 5000x5000 would take hours unsaid."""
_CHECKED: "WeakSet[nn.Module]" = WeakSet()
_CHECKED_TEXTS: "WeakSet[nn.Module]" = WeakSet()
"""Networks whose image encoder, and whose text encoder, was seen to answer alike taken apart and whole."""


@dataclass(frozen=True)
class TokenBatch:
    """Texts as a network takes them. inputs: what its text encoder is called with. row (T,): the position that is read.
    words (T,N): which positions hold the text's own tokens, in order. texts: T of them."""

    inputs: Any
    row: Tensor
    words: Tensor
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Encoders:
    """A network taken apart by its family.

    prepare: images (B,3,H,W) in 0..1 of one size -> the network's input (B,3,Hn,Wn) and the frame. vision: its image
    encoder; grid: network size -> patches (h,w); first: tokens before the patches. embed_image: input -> (B,D) by the
    network's own forward.
    For image-text models: text, its text encoder; tokenize: texts, and whether to pad them to the full context -> TokenBatch;
    embed_text: inputs -> (T,D) by the network's own forward; scale: () -> factor and offset of cosine to logit.
    For classifiers: classify: embeddings (n,D) -> logits (n,K); classes: K names or None.
    features: names of layers of maps and the modules behind them, the default first; none: tokens are the default.
    fill: (3,) the color in 0..1 that the network sees as zero.
    """

    net: nn.Module
    prepare: Callable[[Tensor], tuple[Tensor, Frame]]
    vision: Transformer
    grid: Callable[[Size], Size]
    embed_image: Callable[[Tensor], Tensor]
    first: int = 1
    text: Transformer | None = None
    tokenize: Callable[[Sequence[str], bool], TokenBatch] | None = None
    embed_text: Callable[[Any], Tensor] | None = None
    scale: Callable[[], tuple[float, float]] = lambda: (1.0, 0.0)
    classify: Callable[[Tensor], Tensor] | None = None
    classes: Sequence[str] | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _State:
    """What a pass is continued from. pixels: the network's input, (1,3,Hn,Wn)."""

    pixels: Tensor
    tokens: tuple[Tensor, ...]
    mask: Tensor | None
    embedding: Tensor


class WholeImage(ImageTextModel):
    """A network that answers for the whole image. Its one candidate is the image; a text or class is a column.

    For image-text models the score is the cosine of the embeddings, the logit what the network makes of it (scale and
    offset); `prompt` gives the same model with texts as its classes. For classifiers the score is the probability.
    layers: "normed", what the norm of the last attention layer gives, is the default of a transformer; "tokens" is what enters
    that norm: a gradient there is at right angles to the token, because a norm takes no notice of its length, so gradient x
    feature is nothing. "blocks[3]" is what enters the fourth layer; "input" the pixels; any module's path that gives maps or
    patch tokens works too.
    """

    def __init__(self, encoders: Encoders, name: str, texts: Sequence[str] = ()) -> None:
        self.encoders = encoders
        self.network: Any = encoders.net
        self.name = name
        self.texts: tuple[Text, ...] = ()
        self.gives = frozenset({"candidates", "features", "input", "transformer", "attention"})
        self.kind = "classifier" if encoders.classify is not None else "image-text"
        self.fill = encoders.fill
        self._made_by: Callable[[], WholeImage] | None = None
        self._paths = {**encoders.features, **_norm_path(encoders)}
        if encoders.tokenize is not None:
            self.gives |= {"text"}
            if texts:
                self._read(texts)

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.texts)} texts>" if self.takes_text else f"<{self.name}>"

    def _read(self, texts: Sequence[str]) -> None:
        assert self.encoders.tokenize is not None
        batch = self.encoders.tokenize(texts, False)
        self.texts = batch.texts
        self._embeddings = self._embed(batch.inputs)

    @property
    def classes(self) -> Sequence[str] | None:
        """The texts, or a classifier's class names."""
        return [text.text for text in self.texts] if self.takes_text else self.encoders.classes

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        if self.takes_text:
            raise WhyboxError(f"{self.name} has texts for its classes: leave classes out, and give text")
        self.encoders = replace(self.encoders, classes=None if names is None else list(names))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that `pullbacks` takes, the default first."""
        return (*self._paths, TOKENS, INPUT)

    def prompt(self, texts: Sequence[str]) -> "WholeImage":
        """The same model asked about these texts; they are encoded once, here: after a change of weights, prompt anew."""
        if self.encoders.tokenize is None:
            raise WhyboxError(f"{self.name} reads no text: it has classes of its own; leave text out")
        asked = WholeImage(self.encoders, self.name, texts)
        asked.settings, asked._made_by = self.settings, self._made_by
        return asked

    def __reduce__(self) -> Any:
        """To a worker go the network and the family's options; there it is taken apart again."""
        if self._made_by is None:
            return super().__reduce__()
        own = None if self.takes_text else self.encoders.classes
        return _make_again, (self._made_by, self.name, [text.text for text in self.texts], own)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(K,D) unit embeddings of texts."""
        assert self.encoders.tokenize is not None
        return self._embed(self.encoders.tokenize(texts, False).inputs)

    def _embed(self, inputs: Any) -> Tensor:
        assert self.encoders.embed_text is not None
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            return normalize(self.encoders.embed_text(inputs).float(), dim=-1)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1, layer by layer, without a graph."""
        if differentiable:
            raise WhyboxError(f"{self.name}: a differentiable trace is available for detectors; leave differentiable out")
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = self.encoders.prepare(image[None])
            self._check_size(frame)
            tokens, mask = self.encoders.vision.embed(pixels)
            entering = [tokens]
            for layer in self.encoders.vision.layers[:-1]:
                entering.append(run_layer(layer, entering[-1], mask))
            embedding = self._read_out(entering[-1], mask)
            self._check(pixels, embedding)
            candidates = self._candidates(embedding, frame)
        state = _State(pixels, tuple(entering), mask, embedding)
        features = FeatureMap(self._on_grid(entering[-1][0], frame), self._stride(frame), TOKENS)
        return Trace(image, frame, (features,), candidates, self._detections(candidates), embedding=embedding, state=state)

    def _check_size(self, frame: Frame) -> None:
        height, width = self.encoders.grid(frame.network)
        if height * width > MOST_PATCHES:
            raise WhyboxError(
                f"{frame.network[0]}x{frame.network[1]} pixels are {height * width} patches, and the attention's cost grows with "
                f"their square: at most {MOST_PATCHES} are taken; give a smaller size"
            )

    def answer(self, trace: Trace) -> Trace:
        """A trace that was made before these texts were asked about, answered with them: the image is not encoded again."""
        candidates = self._candidates(self._image_embedding(trace), trace.frame)
        return replace(trace, candidates=candidates, detections=self._detections(candidates))

    def _read_out(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B,D) from what enters the last layer; of that layer only the row that is read is computed."""
        vision = self.encoders.vision
        rows = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        if vision.pooling == "mean":
            return vision.read(run_layer(vision.layers[-1], tokens, mask))
        layer = vision.layers[-1]
        attended = attend(layer, tokens, mask, rows=rows)
        return vision.read(layer.finish(tokens[:, :1], layer.out(attended.mixed)))

    def _check(self, pixels: Tensor, embedding: Tensor) -> None:
        """Once for each network: taken apart, it must answer as it does by its own forward pass."""
        if self.network in _CHECKED:
            return
        own = self.encoders.embed_image(pixels).float()
        if not own.isfinite().all():
            raise WeightsError(f"{self.name} gave an embedding that is NaN or infinite: look at its weights and its input")
        self._compare(own, embedding.float(), embedding.dtype, "the image encoder")
        _CHECKED.add(self.network)

    def _compare(self, whole: Tensor, apart: Tensor, dtype: torch.dtype, what: str) -> None:
        away = float(((whole - apart).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-12)).amax())
        if not away <= (1e-3 if dtype == torch.float32 else 5e-2):
            raise WhyboxError(
                f"{self.name}: taken apart into its layers, {what} answers otherwise than by its own forward pass (they differ "
                f"by {away:.2g} of the embedding's length): this variant of its architecture is not known to whybox"
            )

    def predict(self, images: Tensor) -> list[Candidates]:
        """One candidate for each of the images (B,3,H,W) in 0..1 of one size, by the network's own forward pass."""
        if not len(images):
            return []
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            pixels, frame = self.encoders.prepare(images)
            return [self._candidates(one[None], frame) for one in self.encoders.embed_image(pixels)]

    def _candidates(self, embeddings: Tensor, frame: Frame) -> Candidates:
        """Embeddings (n,D) -> n candidates, each the whole image."""
        if self.encoders.classify is None:
            unit = normalize(embeddings.float(), dim=-1)
            return self._of_cosines(unit @ self._text_embeddings(embeddings).T, frame)
        logits = self.encoders.classify(embeddings).float()
        return Candidates(*_whole(logits.softmax(-1), frame), logits)

    def _of_cosines(self, cosines: Tensor, frame: Frame) -> Candidates:
        """Cosines (n,T) of the image with the texts -> n candidates."""
        with torch.no_grad():
            scale, offset = self.encoders.scale()
        return Candidates(*_whole(cosines, frame), scale * cosines + offset)

    def _text_embeddings(self, like: Tensor) -> Tensor:
        if not self.texts:
            return like.new_zeros((0, like.shape[-1]), dtype=torch.float32)
        return self._embeddings.to(like.device)

    def _detections(self, candidates: Candidates) -> Detections:
        """Every text, or a classifier's classes from the best on."""
        scores = candidates.scores[0].detach()
        labels = torch.arange(len(scores), device=scores.device)
        if self.encoders.classify is not None:
            labels = scores.argsort(descending=True, stable=True)
        count = len(labels)
        return Detections(candidates.boxes.expand(count, 4), scores[labels], labels, torch.zeros_like(labels))

    def _on_grid(self, tokens: Tensor, frame: Frame) -> Tensor:
        """Tokens (N,C) -> (C,h,w)"""
        height, width = self.encoders.grid(frame.network)
        start = self.encoders.first
        return tokens[start : start + height * width].T.reshape(-1, height, width)

    def _stride(self, frame: Frame) -> float:
        return frame.network[0] / self.encoders.grid(frame.network)[0]

    def _known(self, trace: Trace) -> _State:
        return trace.state if isinstance(trace.state, _State) else self.trace(trace.image).state

    def transformer(self, trace: Trace) -> TransformerPass:
        """The image's pass, from its trace."""
        state = self._known(trace)

        def answer(embeddings: Tensor, detections: Detections) -> Trace:
            return trace.rows(self._candidates(embeddings, trace.frame), detections)

        return TransformerPass(
            self.encoders.vision,
            state.tokens,
            torch.zeros(1, dtype=torch.long, device=state.embedding.device),
            state.embedding,
            answer,
            state.mask,
            self.encoders.grid(trace.frame.network),
            self.encoders.first,
            self._stride(trace.frame),
        )

    def text_transformer(self, trace: Trace, labels: Tensor | None = None, *, padded: bool = False) -> TransformerPass:
        """The pass of the texts `labels` (n,), one item each, or of all; answered with the image of the trace. padded: to the
        full context, as the reference code of Grad-ECLIP has it; the answer does not depend on it."""
        encoders, embeddings = self.encoders, self._text_embeddings(self._image_embedding(trace))
        if encoders.text is None or encoders.tokenize is None:
            raise WhyboxError(f"{self.name} has no text encoder that can be taken apart")
        rows = torch.arange(len(self.texts)) if labels is None else labels
        # No text is no batch that a tokenizer takes: one is read and left out again.
        read = rows.tolist() or [0]
        batch = encoders.tokenize([self.texts[row].text for row in read], padded)
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            tokens, mask = encoders.text.embed(batch.inputs)
            entering = [tokens]
            for layer in encoders.text.layers[:-1]:
                entering.append(run_layer(layer, entering[-1], mask))
            last = run_layer(encoders.text.layers[-1], entering[-1], mask)
            embedding = read_embedding(encoders.text, last, batch.row)
            if self.network not in _CHECKED_TEXTS and encoders.embed_text is not None:
                self._compare(encoders.embed_text(batch.inputs).float(), embedding.float(), embedding.dtype, "the text encoder")
                _CHECKED_TEXTS.add(self.network)
        answer = partial(self._answer_texts, trace, embeddings)
        passed = TransformerPass(encoders.text, tuple(entering), batch.row, embedding, answer, mask, words=batch.words)
        return passed if len(rows) else chosen_texts(passed, rows)

    def _answer_texts(self, trace: Trace, known: Tensor, embeddings: Tensor, detections: Detections) -> Trace:
        """The image's cosines with all texts, of which that of detection i is with embedding i."""
        image = normalize(self._image_embedding(trace).float(), dim=-1)
        own = (normalize(embeddings.float(), dim=-1) * image).sum(-1)
        columns = torch.arange(len(known), device=known.device)
        cosines = torch.where(columns == detections.labels.to(known.device)[:, None], own[:, None], image @ known.T)
        return trace.rows(self._of_cosines(cosines, trace.frame), detections)

    def _image_embedding(self, trace: Trace) -> Tensor:
        return self._known(trace).embedding if trace.embedding is None else trace.embedding

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Ways back to the features by autograd, from the layer on; a backward pass a detection."""
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
        modules = modules_from(self.encoders.vision, start)
        with in_float32(*modules), frozen(self.network), gradients_on():
            leaf = state.tokens[start].detach().float().clone().requires_grad_()
            embedding = embedding_from(self.transformer(trace), start, leaf)
            live = replace(trace, candidates=self._candidates(embedding, trace.frame))
        grid = self.encoders.grid(trace.frame.network)
        found = token_layer(wanted, leaf, trace.frame.network, grid, self.encoders.first)
        for way in exact_pullbacks(live, detections, [found]):
            yield replace(way, backward=_in_float32(way.backward, modules))

    def _start(self, wanted: str) -> int | None:
        """The attention layer that a layer's name enters, None for what is no such name."""
        count = len(self.encoders.vision.layers)
        if wanted == TOKENS:
            return count - 1
        if module_path(wanted) != BLOCKS:
            return None
        number = wanted.removeprefix(BLOCKS).strip("[]")
        if not number.isdigit() or int(number) >= count:
            raise unknown("layer", wanted, [f"{BLOCKS}[{i}]" for i in range(count)])
        return int(number)

    def _through_modules(self, trace: Trace, detections: Detections, wanted: str, state: _State) -> Iterator[Pullback]:
        """The layer is a module's output, or the input: the network's own forward pass with hooks on it."""
        named = self._paths.get(wanted, wanted)
        path = module_path(named)
        with in_float32(self.network), frozen(self.network), gradients_on():
            tensors, embedding = self._watch(path, state, trace, last=wanted == NORMED)
            live = replace(trace, candidates=self._candidates(embedding, trace.frame))
        chosen = choose_layers(self._laid_out(path, tensors, trace.frame.network), named)
        for way in exact_pullbacks(live, detections, chosen[-1:]):
            yield replace(way, backward=_in_float32(way.backward, (self.network,)))

    def _laid_out(self, path: str, tensors: Sequence[Tensor], network: Size) -> list[Layer]:
        """The recorded tensors as layers: as many tokens as the encoder has lie on its grid, and nobody has to guess it."""
        height, width = self.encoders.grid(network)
        last = tensors[-1]
        if path == INPUT:
            # The network's input may be wider than the patches that it is cut into.
            return [Layer(path, last, lambda values: values[..., : network[0], : network[1]], 1.0)]
        if last.ndim == 3 and last.shape[1] == self.encoders.first + height * width:
            return [token_layer(path, last, network, (height, width), self.encoders.first)]
        return find_layers(path, tensors, network)

    def _watch(self, path: str, state: _State, trace: Trace, *, last: bool) -> tuple[list[Tensor], Tensor]:
        """The tensors of one module, as nodes of the graph, and the embedding. last: it is part of the last layer, and that
        alone is run again."""
        pixels = state.pixels.float()
        if path == INPUT:
            leaf = pixels.clone().requires_grad_()
            return [leaf], self.encoders.embed_image(leaf)
        with capture(self.network, [path]) as captured:
            if last:
                start = len(state.tokens) - 1
                embedding = embedding_from(self.transformer(trace), start, state.tokens[start].detach().float())
            else:
                embedding = self.encoders.embed_image(pixels)
        return captured[path], embedding


def _whole(scores: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """boxes, scores and level of candidates that are the whole image, from their scores (n,K)."""
    height, width = frame.image
    boxes = torch.tensor([[0.0, 0.0, width, height]], device=scores.device).expand(len(scores), 4)
    return boxes, scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device)


def _norm_path(encoders: Encoders) -> dict[str, str]:
    """Where the norm of the last attention layer stands in the network; nothing where it is no module of it."""
    norm = encoders.vision.layers[-1].normalize
    paths = [path for path, part in encoders.net.named_modules() if part is norm]
    return {NORMED: paths[0]} if paths else {}


def _in_float32(backward: Callable[[Tensor], Tensor], modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    def wide(values: Tensor) -> Tensor:
        with in_float32(*modules):
            return backward(values)

    return wide


def made_again(wrap: Callable[Options, WholeImage]) -> Callable[Options, WholeImage]:
    """For a family's `wrap`: what it gives can be sent to other processes, and `settings` says in words what it was given."""

    @wraps(wrap)
    def wrapped(*parts: Options.args, **options: Options.kwargs) -> WholeImage:
        model = wrap(*parts, **options)
        model._made_by = partial(wrapped, *parts, **options)
        model.settings = ", ".join(f"{name}={_in_words(value)}" for name, value in sorted(options.items()))
        return model

    return wrapped


def _in_words(value: Any) -> str:
    """The same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, tuple, list, dict)):
        return repr(value)
    described = getattr(value, "to_dict", None)
    return f"{type(value).__name__}{sorted(described().items()) if callable(described) else ''}"


def _make_again(made_by: Callable[[], WholeImage], name: str, texts: Sequence[str], classes: Sequence[str] | None) -> WholeImage:
    model = made_by()
    model.name = name
    if classes is not None:
        model.classes = classes
    return model.prompt(texts) if texts else model
