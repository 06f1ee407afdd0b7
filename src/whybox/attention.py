"""Data types of transformers: an encoder as a sequence of attention layers, a stored forward pass, and maps of texts."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.model import Model
from whybox.types import Detections, Target, Trace


@dataclass(frozen=True)
class AttentionLayer:
    """One transformer block, or attention pooling head, split at its attention. Every function runs the model's own modules,
    so a gradient through them is the model's gradient.

    Attributes:
        name: For reports and errors.
        heads: Number of attention heads.
        scale: Factor on q k^T before the softmax.
        project: Tokens (B,N,C) -> queries (B,Nq,E), keys (B,N,E), values (B,N,E), heads concatenated; Nq is N, or 1 where the
            layer pools with a learned query.
        out: (B,n,E) -> (B,n,C'), the output projection and whatever else acts before the residual is added.
        finish: Tokens (B,n,C) of some rows and the result of `out` for them -> the rows after the layer: residual and MLP, row
            by row. A layer that pools ignores the tokens.
        modules: The modules whose weights these functions use.
        mix: (B,n,E) -> (B,n,E), between the attention-weighted values and the output projection; the identity in most models.
        normalize: (B,N,C) -> (B,N,C), the norm before the attention.
        pools: Whether the layer is an attention pooling head.
        entry: The module whose first input, in the network's own forward pass, is the layer's input; None: the first of
            `modules`.
        entering: That input -> tokens (B,N,C); the identity in most models.
        returning: Tokens (B,N,C) -> that input; None where it cannot be computed from them.
    """

    name: str
    heads: int
    scale: float
    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    out: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    mix: Callable[[Tensor], Tensor] = lambda values: values
    normalize: Callable[[Tensor], Tensor] = lambda tokens: tokens
    pools: bool = False
    entry: nn.Module | None = None
    entering: Callable[[Tensor], Tensor] = lambda tokens: tokens
    returning: Callable[[Tensor], Tensor] | None = lambda tokens: tokens


def opaque_layer(block: nn.Module, name: str) -> AttentionLayer:
    """A block whose attention is not known: it has its place in the network's own forward pass, and cannot be run by itself."""

    def refuse(*tokens: Tensor) -> Any:
        raise WhyboxError(f"{name} is a {type(block).__name__}, whose attention whybox does not know")

    # Heads and scale are never used: every function refuses.
    return AttentionLayer(name, 1, 1.0, refuse, refuse, refuse, (block,), normalize=refuse)


@dataclass(frozen=True)
class Transformer:
    """An encoder of images or texts: input -> tokens -> layers -> embedding.

    Attributes:
        layers: From the first to the last.
        mask: A batch of the network's input -> the additive attention mask, broadcastable to (B,1,N,N), or None.
        read: Rows (B,n,C) after the last layer -> embedding (B,D): of the row that is read (n = 1), or of all rows where
            pooling is "mean".
        modules: The modules that `read` uses.
        pooling: "token": the embedding is read from one row, such as the class token; "mean": from the mean of the patches.
    """

    layers: tuple[AttentionLayer, ...]
    mask: Callable[[Any], Tensor | None]
    read: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    pooling: Literal["token", "mean"] = "token"


@dataclass(frozen=True)
class TransformerPass:
    """One forward pass of a transformer, stored without a graph: any layer can be run again from it, with gradients or changed.

    Attributes:
        transformer: The encoder.
        tokens: The input of each layer in the network's own forward pass, (B,N,C) each; B is 1 for an image, the number of
            texts for texts.
        row: (B,) the row of the tokens that is read: the class token, or the end of the text; 0 where the last layer pools.
        embedding: (B,D) of the pass.
        answer: Embeddings (n,D), one per detection -> the trace restricted to them, differentiable, so that detection i is
            candidate i: the input of a target.
        mask: Additive attention mask, broadcastable to (B,1,N,N), or None.
        grid: (h,w) of an image's patches, row by row from the token `first` on; None for texts.
        first: The index of the first patch token.
        stride: Network pixels per patch.
        words: (B,N) which tokens are the text's own, neither start, end nor padding; None for images.
    """

    transformer: Transformer
    tokens: tuple[Tensor, ...]
    row: Tensor
    embedding: Tensor
    answer: Callable[[Tensor, Detections], Trace]
    mask: Tensor | None = None
    grid: Size | None = None
    first: int = 0
    stride: float = 0.0
    words: Tensor | None = None

    @property
    def patches(self) -> slice:
        """The tokens on the grid."""
        assert self.grid is not None
        return slice(self.first, self.first + self.grid[0] * self.grid[1])


@dataclass(frozen=True)
class AttentionMap:
    """The probabilities of one attention layer, a node of the autograd graph.

    Attributes:
        probabilities: (1,heads,Nq,Nk).
        kind: "image" (self-attention of the patches), "query" (self-attention of the object queries) or "cross" (from the
            queries to the patches).
        name: The layer's module path.
    """

    probabilities: Tensor
    kind: Literal["image", "query", "cross"]
    name: str = ""


@dataclass(frozen=True)
class Text:
    """One text as a model reads it.

    Attributes:
        text: As the user wrote it.
        tokens: The text's own tokens, without start, end and padding, in readable form.
        spans: Where each token lies in `text`, (start, end) in characters.
        cut: The part that did not fit into the model's context; "" where nothing was cut.
        unknown: Words outside the model's vocabulary, all read as the same token.
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    cut: str = ""
    unknown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.spans):
            raise ValueError(f"{len(self.tokens)} tokens and {len(self.spans)} spans")

    @property
    def words(self) -> tuple[str, ...]:
        """The words, separated by whitespace, that have a token."""
        return tuple(self.text[start:end] for start, end in self.word_spans())

    def word_of(self) -> tuple[int, ...]:
        """For each token, the index of its word."""
        places = self.word_spans()
        # By the end: a token that begins with the whitespace before its word starts ahead of it.
        return tuple(next(i for i, (_, end) in enumerate(places) if start < end) for start, _ in self.spans)

    def word_spans(self) -> list[tuple[int, int]]:
        """Where each word lies in the text: runs of characters between whitespace that contain a token's start."""
        spans, start = [], 0
        for piece in self.text.split():
            # From the end of the last word on, because a word may occur twice.
            start = self.text.index(piece, start)
            end = start + len(piece)
            if any(start <= begin < end for begin, _ in self.spans):
                spans.append((start, end))
            start = end
        return spans


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """A text given as its embedding: an ensemble of prompts, a learned prompt, or the embedding of another image.

    Attributes:
        name: What it is called in results.
        values: (D,), in the joint space of images and texts; its length does not matter.
    """

    name: str
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or not self.values.is_floating_point():
            raise ValueError(f"an embedding must be floats (D,), got {self.values.dtype} {tuple(self.values.shape)}")


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """T maps of texts.

    Attributes:
        values: T tensors (L,), one number per token of each text, raw, as the method defines it.
        texts: The T texts.
        method: The method's name.
        target: The target's name.
        options: The method's settings.
    """

    values: tuple[Tensor, ...]
    texts: tuple[Text, ...]
    method: str
    target: str = "score"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for values, text in zip(self.values, self.texts, strict=True):
            if values.shape != (len(text.tokens),):
                raise ValueError(f"{len(text.tokens)} tokens and values {tuple(values.shape)}")

    def __len__(self) -> int:
        return len(self.values)

    def word_values(self, index: int) -> Tensor:
        """(W,) one number per word of text `index`: the sum over its tokens."""
        values, text = self.values[index], self.texts[index]
        words = values.new_zeros(len(text.words))
        return words.index_add(0, torch.tensor(text.word_of(), dtype=torch.long, device=values.device), values)


class TransformerModel(Model):
    """A model that gives "transformer": its image encoder can be run layer by layer."""

    @abstractmethod
    def transformer(self, trace: Trace) -> TransformerPass:
        """The image encoder's pass, from the image's trace."""


class ImageTextModel(TransformerModel):
    """A model that also gives "text": its classes are texts, and the text encoder can be run layer by layer."""

    texts: Sequence[Text]

    @abstractmethod
    def text_transformer(self, trace: Trace, labels: Tensor | None = None, *, padded: bool = False) -> TransformerPass:
        """The text encoder's pass, whose `answer` compares with the image of the trace.

        Args:
            trace: The image's trace.
            labels: (n,) indices of the texts, one item each; None: all.
            padded: Whether the texts are padded to the full context.
        """

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(K,D) L2-normalized embeddings of K texts."""

    def prompt_embeddings(self) -> Tensor:
        """(K,D) L2-normalized embeddings of the texts that the model is prompted with, also of those given as embeddings."""
        return self.embed_texts([text.text for text in self.texts])


class GroundingModel(Model):
    """A prompted detector that can say which tokens of its texts made a box."""

    texts: Sequence[Text]

    @abstractmethod
    def prompt(self, texts: Sequence[str]) -> Model:
        """The same network, prompted with these texts."""

    @abstractmethod
    def answer(self, trace: Trace) -> Trace:
        """A trace, possibly made with other prompts, with its candidates for this model's texts."""

    @abstractmethod
    def token_values(self, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[tuple[Tensor, ...]]:
        """Gradient x input at the tokens, for every target.

        Args:
            trace: A trace of this model.
            detections: N detections.
            targets: The scalars to explain.

        Returns:
            For each target, N tensors (L,): one number per token of the text that is the detection's label.
        """


def grounding(model: Model) -> GroundingModel | None:
    """The prompted detector that can say which tokens made a box, also inside one with another rule of duplicate removal; None
    for other models."""
    inner = getattr(model, "inner", model)
    return inner if isinstance(inner, GroundingModel) else None


class AttentionModel(Model):
    """A detector that may expose its attention probabilities; it gives "attention" where it does."""

    @abstractmethod
    def attentions(self, trace: Trace, detections: Detections) -> tuple[Trace, tuple[AttentionMap, ...]]:
        """The trace restricted to the detections, with its graph, and all attention maps in that graph, in layer order."""
