"""GAME (generic attention-model explainability): relevance propagated through gradient-weighted attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from whybox.attention import AttentionMap, AttentionModel, ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.method import Method
from whybox.ops.attention_flow import (
    check_layer,
    chosen_texts,
    live_attention,
    maps_on_grid,
    own_tokens,
    ready,
    rows_read,
)
from whybox.ops.gradients import chunk_rows, gradients_on, level_gradients
from whybox.ops.maps import ordinary
from whybox.ops.transformer import modules_from
from whybox.types import Detections, HeatMaps, Target, Trace


def weigh_attention(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """A-bar = mean over heads of ReLU(dY/dA o A).

    Args:
        probabilities: A (..., heads,n,N).
        gradient: dY/dA, of the same shape.

    Returns:
        (..., n,N)

    Source: Chefer, Gur, Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, eq. 5.
    """
    # ReLU head by head, before the mean: what speaks against in one head does not cancel another's evidence.
    return (gradient * probabilities).relu().mean(-3)


def normalize_relevance(carried: Tensor) -> Tensor:
    """R-bar: R - I, normalized row by row to sum 1, plus I. A row of zeros becomes a row of I.

    Args:
        carried: R - I (N,N).

    Returns:
        (N,N)

    Source: Chefer et al., eqs. 8 and 9.
    """
    total = carried.sum(-1, keepdim=True)
    identity = torch.eye(len(carried), device=carried.device, dtype=carried.dtype)
    return torch.where(total > 0, carried / torch.where(total > 0, total, 1), 0) + identity


def carry_back(read: Tensor, weighed: Sequence[Tensor], pools: Sequence[bool]) -> Tensor:
    """read (R - I), for R of eq. 6.

    Args:
        read: (B,n) the weight of each row in what is read.
        weighed: A-bar (B,n,N) of each layer, the first layer first.
        pools: Whether each layer is an attention pooling head, which has no residual.

    Returns:
        (B,N)

    Source: Chefer et al., eq. 6.
    """
    # From the last layer down: vectors times matrices, instead of products of matrices.
    carried = torch.zeros_like(read)
    for matrix, pooled in zip(reversed(weighed), reversed(pools), strict=True):
        step = ((read + carried)[:, None] @ matrix)[:, 0]
        # Without a residual R is A-bar R, not R + A-bar R: what was read above ends at the pooling.
        carried, read = (step, torch.zeros_like(step)) if pooled else (carried + step, read)
    return carried


@dataclass(frozen=True)
class Relevance:
    """Relevance matrices after some layers. The first two are stored as R - I: added to the ones of I, small relevance would be
    lost to rounding.

    Attributes:
        image: (N,N) among the encoder's tokens.
        queries: (M,M) among the object queries.
        cross: (M,N) from the encoder's tokens to the queries.
    """

    image: Tensor
    queries: Tensor
    cross: Tensor

    def add(self, kind: str, weighed: Tensor) -> "Relevance":
        """The relevance after one more layer.

        Args:
            kind: The layer's attention, as in `AttentionMap.kind`: "image", "query" or "cross".
            weighed: A-bar (n,N) of the layer.

        Returns:
            The new matrices.

        Source: Chefer et al., eqs. 6, 7, and 10 for cross-attention.
        """
        if kind == "image":
            # R <- R + A R for R = I + image: I + (image + A + A image).
            return replace(self, image=self.image + weighed + weighed @ self.image)
        if kind == "query":
            queries = self.queries + weighed + weighed @ self.queries
            return replace(self, queries=queries, cross=self.cross + weighed @ self.cross)
        added = normalize_relevance(self.queries).T @ weighed @ normalize_relevance(self.image)
        return replace(self, cross=self.cross + added)


@dataclass(frozen=True)
class Game(Method):
    """GAME over all layers from `start_layer` on, for image-text models, classifiers and detection transformers.

    Encoders: R = I, then R + mean_h ReLU(dA o A) R after each layer; the map is the row of R - I that the embedding is read
    from (the class token), or the mean of the patches' rows. Attention pooling has no residual: its row is A-bar R.
    Detectors with object queries: the paper's rules for encoder, decoder and cross-attention; the map is the row of the
    detection's query.

    Attributes:
        start_layer: The first layer, counted from 0; in detectors with object queries, of the encoder.
    """

    start_layer: int = 0

    name: ClassVar[str] = "game"
    title: ClassVar[str] = "GAME"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})
    source: ClassVar[str] = "Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021, eqs. 5 to 10"

    def __call__(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.
        """
        draw = self._draw_image if model.whole_image else self._draw_queries
        with gradients_on():
            maps = draw(model, trace, ordinary(detections), targets) if len(detections) else [()] * len(targets)
        return [self.heat_maps(native, trace.frame, target) for native, target in zip(maps, targets, strict=True)]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """Draw maps of the texts: one number per token.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The T scalars to explain.

        Returns:
            T TokenMaps of N texts each; map i is of the text that is detection i's label.
        """
        with gradients_on():
            transformer_pass = model.text_transformer(trace, detections.labels)
            maps = self._draw_texts(transformer_pass, ordinary(detections), targets)
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        return [
            self.token_maps(own_tokens(values, transformer_pass), texts, target)
            for values, target in zip(maps, targets, strict=True)
        ]

    def _draw_texts(self, transformer_pass: TransformerPass, detections: Detections, targets: Sequence[Target]) -> list[Tensor]:
        """For every target (n,N), where detection i is text i; in chunks that fit memory."""
        start = check_layer("start_layer", self.start_layer, len(transformer_pass.transformer.layers))
        rows = torch.arange(len(detections))
        parts = [
            _carry_texts(chosen_texts(transformer_pass, chunk), start, detections[chunk], targets)
            for chunk in chunk_rows(rows, _numbers(transformer_pass, start))
        ]
        if not parts:
            return [transformer_pass.embedding[:, :0]] * len(targets)
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _draw_image(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[tuple[Tensor, ...]]:
        """For every target n maps (h,w): one forward pass, and one backward pass per detection."""
        transformer_pass = model.transformer(trace)
        start = check_layer("start_layer", self.start_layer, len(transformer_pass.transformer.layers))
        with ready(*modules_from(transformer_pass.transformer, start)):
            probabilities, embedding = live_attention(transformer_pass, start)
            # The image has one embedding: the rows differ in their text or class alone.
            live = transformer_pass.answer(embedding.expand(len(detections), -1), detections)
            rows = [[_carry(transformer_pass, start, probabilities, value) for value in target(live)] for target in targets]
        return [maps_on_grid(torch.cat(of_target), transformer_pass) for of_target in rows]

    def _draw_queries(
        self, model: AttentionModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[tuple[Tensor, ...]]:
        """For every target n maps (h,w): one forward pass, and one backward pass per detection."""
        live, shown = model.attentions(trace, detections)
        encoder = [attention for attention in shown if attention.kind == "image"]
        start = check_layer("start_layer", self.start_layer, len(encoder))
        kept = encoder[start:] + [attention for attention in shown if attention.kind != "image"]
        grid, count = live.features[-1].grid, len(trace.candidates)
        maps = []
        for target in targets:
            carried = [_carry_to_queries(kept, value, count) for value in target(live)]
            rows = [relevance[source] for relevance, source in zip(carried, detections.source.tolist(), strict=True)]
            # The patches are the last of the tokens: a class token may stand before them (YOLOS).
            maps.append(tuple(row[-grid[0] * grid[1] :].reshape(grid) for row in rows))
        return maps


def _carry(transformer_pass: TransformerPass, start: int, probabilities: Sequence[Tensor], value: Tensor) -> Tensor:
    """(B,N) the relevance of all tokens, from the gradient of one value."""
    gradients = level_gradients(value[None], probabilities)
    weighed = [weigh_attention(each.detach(), gradient[0]) for each, gradient in zip(probabilities, gradients, strict=True)]
    return carry_back(
        rows_read(transformer_pass), weighed, [layer.pools for layer in transformer_pass.transformer.layers[start:]]
    )


def _carry_texts(
    transformer_pass: TransformerPass, start: int, detections: Detections, targets: Sequence[Target]
) -> list[Tensor]:
    """For every target (n,N), where detection i is text i. Texts are independent, so one backward pass of the sum serves all."""
    with ready(*modules_from(transformer_pass.transformer, start)):
        probabilities, embeddings = live_attention(transformer_pass, start)
        live = transformer_pass.answer(embeddings, detections)
        return [_carry(transformer_pass, start, probabilities, target(live).sum()) for target in targets]


def _numbers(transformer_pass: TransformerPass, start: int) -> int:
    """The number of attention probabilities of one item in the layers from `start` on."""
    layers, count = transformer_pass.transformer.layers[start:], transformer_pass.tokens[start].shape[1]
    return sum(layer.heads * count * (1 if layer.pools else count) for layer in layers)


def _carry_to_queries(shown: Sequence[AttentionMap], value: Tensor, count: int) -> Tensor:
    """(M,N) the relevance of the encoder's tokens for the `count` queries; where the queries are the encoder's last tokens,
    (M,N-M) that of its other tokens."""
    tensors = [attention.probabilities for attention in shown]
    gradients = level_gradients(value[None], tensors)
    # Without cross-attention at the end there is no decoder: the queries are among the encoder's own tokens.
    tokens, queries = tensors[0].shape[-1], count if shown[-1].kind == "cross" else 0
    relevance = Relevance(*(tensors[0].new_zeros(shape) for shape in ((tokens, tokens), (queries, queries), (queries, tokens))))
    for attention, gradient in zip(shown, gradients, strict=True):
        weighed = weigh_attention(attention.probabilities.detach(), gradient[0])[0]
        relevance = relevance.add(attention.kind, weighed)
    return relevance.cross if queries else relevance.image[-count:, :-count]
