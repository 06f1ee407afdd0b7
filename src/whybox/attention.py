"""The nouns of transformers: one taken apart into attention layers, a forward pass through it, kept, and the maps of a text."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whybox.frame import Size
from whybox.model import Model
from whybox.types import Detections, Trace


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer with what follows it, taken apart. Every piece runs the model's own modules, so a gradient through
    the pieces is the model's gradient.

    project: tokens (B,N,C) -> queries (B,Nq,E), keys (B,N,E), values (B,N,E), the heads side by side, as
    softmax(scale * q k^T) v takes them; Nq is N, or 1 where `pools` and the query is learned.
    mix: (B,n,E) -> (B,n,E), what stands between weights times values and the output projection; most often nothing.
    out: (B,n,E) -> (B,n,C'), the output projection and whatever else acts before the residual is added.
    finish: tokens (B,n,C) of some rows and what `out` gave for them -> the rows after the layer: residual and MLP, row by
    row. A layer that pools does not look at the tokens. normalize: (B,N,C) -> (B,N,C), the norm before the attention.
    modules: those whose weights the pieces use.
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


@dataclass(frozen=True)
class Transformer:
    """An encoder of images or texts: input -> tokens -> layers -> embedding.

    embed: the network's input, a batch -> tokens (B,N,C), and what is added to the attention's logits, broadcastable to
    (B,1,N,N), or None. read: rows (B,n,C) after the last layer -> embedding (B,D); of the row that is read (n = 1), or of
    all rows where pooling is "mean". modules: those that `read` uses.
    """

    layers: tuple[AttentionLayer, ...]
    embed: Callable[[Any], tuple[Tensor, Tensor | None]]
    read: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    pooling: Literal["token", "mean"] = "token"


@dataclass(frozen=True)
class TransformerPass:
    """One forward pass, kept without a graph: from here any layer can be run again, with gradients or changed.

    tokens: what enters each layer, (B,N,C) each; an image stands alone (B = 1), texts stand together.
    mask: added to the attention's logits, broadcastable to (B,1,N,N), or None.
    row: (B,) the row of the tokens that is read: the class token's, the end of the text; 0 where the last layer pools.
    grid: (h,w) of an image's patches, row by row from the token `first` on; None for texts.
    words: (B,N) which tokens are the text's own, neither start, end nor padding; None for images.
    embedding: (B,D) as the pass gave it. stride: network pixels a patch.
    answer: embeddings (n,D), one for each of the detections -> the trace narrowed to them, differentiable, so that
    detection i is candidate i: what a target takes.
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
    """The probabilities of one attention layer, a node of the graph: (1,heads,Nq,Nk). kind: "image" (patches among themselves),
    "query" (object queries among themselves) or "cross" (queries at patches)."""

    probabilities: Tensor
    kind: Literal["image", "query", "cross"]
    name: str = ""


@dataclass(frozen=True)
class Text:
    """One text as a model reads it.

    tokens: the pieces of its own, without start, end and padding, as a reader would write them. spans: where each stands in
    `text`, (start, end) of characters. cut: what did not fit into the model's context, "" where nothing was cut. unknown: what
    the model's vocabulary does not hold, and reads as one and the same token.
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
        """The words between blanks that have a token."""
        return tuple(self.text[start:end] for start, end in self.word_spans())

    def word_of(self) -> tuple[int, ...]:
        """For each token the word that it belongs to."""
        places = self.word_spans()
        return tuple(next(i for i, (_, end) in enumerate(places) if start < end) for start, _ in self.spans)

    def word_spans(self) -> list[tuple[int, int]]:
        """Where each word stands in the text: runs of characters between blanks that hold a token's start."""
        found, start = [], 0
        for piece in self.text.split():
            start = self.text.index(piece, start)
            end = start + len(piece)
            if any(start <= begin < end for begin, _ in self.spans):
                found.append((start, end))
            start = end
        return found


@dataclass(frozen=True)
class TokenMaps:
    """T maps of texts: values[t] (L,) holds one number for every token of texts[t], raw, as the method defines it."""

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
        """(W,) the sum over each word's tokens, for text `index`."""
        values, text = self.values[index], self.texts[index]
        words = values.new_zeros(len(text.words))
        return words.index_add(0, torch.tensor(text.word_of(), dtype=torch.long, device=values.device), values)


class TransformerModel(Model):
    """A model that gives "transformer": its image encoder can be taken apart."""

    @abstractmethod
    def transformer(self, trace: Trace) -> TransformerPass:
        """The image's pass, from its trace."""


class ImageTextModel(TransformerModel):
    """A model that gives "text", too: its classes are texts, and their encoder can be taken apart."""

    texts: Sequence[Text]

    @abstractmethod
    def text_transformer(self, trace: Trace, labels: Tensor | None = None, *, padded: bool = False) -> TransformerPass:
        """The pass of the texts `labels` (n,), one item each, or of all; answered with the image of the trace. padded: to the
        full context."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(K,D) unit embeddings of other texts."""


class AttentionModel(Model):
    """A detector that can show its attention: it gives "attention" where it does."""

    @abstractmethod
    def attentions(self, trace: Trace, detections: Detections) -> tuple[Trace, tuple[AttentionMap, ...]]:
        """The trace narrowed to the detections, with its graph, and all attention in that graph, the first layer first."""
