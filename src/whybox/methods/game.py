"""GAME (generic attention-model explainability): relevance carried through all attention, weighed by its gradient."""

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
    """A-bar = mean over heads of ReLU(dY/dA o A): both (..., heads,n,N) -> (..., n,N).

    Source: Chefer, Gur, Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, eq. 5.
    """
    return (gradient * probabilities).relu().mean(-3)


def normalize_relevance(carried: Tensor) -> Tensor:
    """R-bar: carried = R - I (N,N), divided by its rows' sums, plus I. A row that nothing was carried to is a row of I.

    Source: Chefer et al., eqs. 8 and 9.
    """
    total = carried.sum(-1, keepdim=True)
    identity = torch.eye(len(carried), device=carried.device, dtype=carried.dtype)
    return torch.where(total > 0, carried / torch.where(total > 0, total, 1), 0) + identity


def carry_back(read: Tensor, weighed: Sequence[Tensor], pools: Sequence[bool]) -> Tensor:
    """read (R - I): the rows' parts in what is read (B,n), A-bar of each layer (B,n,N), the first layer's first -> (B,N).

    From the last layer down, so that only vectors are multiplied with matrices. A layer that pools carries all of its row.
    Source: Chefer et al., eq. 6.
    """
    carried = torch.zeros_like(read)
    for matrix, pooled in zip(reversed(weighed), reversed(pools), strict=True):
        step = ((read + carried)[:, None] @ matrix)[:, 0]
        carried, read = (step, torch.zeros_like(step)) if pooled else (carried + step, read)
    return carried


@dataclass(frozen=True)
class Relevance:
    """What was carried so far. image: (N,N) among the encoder's tokens; queries: (M,M) among object queries; cross: (M,N)
    from the encoder's tokens to the queries.

    The first two are R - I: beside the ones of I, small relevance would drown in rounding.
    """

    image: Tensor
    queries: Tensor
    cross: Tensor

    def add(self, kind: str, weighed: Tensor) -> "Relevance":
        """After one attention layer, with its A-bar. Source: Chefer et al., eqs. 6 and 7, and eq. 10 for cross attention."""
        if kind == "image":
            return replace(self, image=self.image + weighed + weighed @ self.image)
        if kind == "query":
            queries = self.queries + weighed + weighed @ self.queries
            return replace(self, queries=queries, cross=self.cross + weighed @ self.cross)
        added = normalize_relevance(self.queries).T @ weighed @ normalize_relevance(self.image)
        return replace(self, cross=self.cross + added)


@dataclass(frozen=True)
class Game(Method):
    """GAME over all layers from `start_layer` on, for image-text models, classifiers and detection transformers.

    Transformers that read one row, or the mean of the patches' rows: R = I, and after each layer R + mean_h ReLU(dA o A) R;
    the map is the row of R - I that is read. A layer that pools has no row before it, so that its row is A-bar R.
    Detectors with object queries: the paper's rules for encoder, decoder and cross attention; the map is the detection's
    query. There start_layer counts the encoder's layers.
    """

    start_layer: int = 0

    name: ClassVar[str] = "game"
    title: ClassVar[str] = "GAME"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})
    source: ClassVar[str] = "Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021, eqs. 5 to 10"

    def __call__(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target."""
        draw = self._draw_image if model.whole_image else self._draw_queries
        with gradients_on():
            maps = draw(model, trace, ordinary(detections), targets) if len(detections) else [()] * len(targets)
        return [self.heat_maps(native, trace.frame, target) for native, target in zip(maps, targets, strict=True)]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """The texts' side: one TokenMaps per target; detection i stands for the text of its label."""
        with gradients_on():
            passed = model.text_transformer(trace, detections.labels)
            maps = self._draw_texts(passed, ordinary(detections), targets)
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        return [self.token_maps(own_tokens(values, passed), texts, target) for values, target in zip(maps, targets, strict=True)]

    def _draw_texts(self, passed: TransformerPass, detections: Detections, targets: Sequence[Target]) -> list[Tensor]:
        """For every target (n,N), where detection i is item i; in chunks that fit memory."""
        start = check_layer("start_layer", self.start_layer, len(passed.transformer.layers))
        rows = torch.arange(len(detections))
        parts = [
            _carry_texts(chosen_texts(passed, chunk), start, detections[chunk], targets)
            for chunk in chunk_rows(rows, _numbers(passed, start))
        ]
        if not parts:
            return [passed.embedding[:, :0]] * len(targets)
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _draw_image(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[tuple[Tensor, ...]]:
        """For every target n maps (h,w): one forward pass, and one backward pass per detection."""
        passed = model.transformer(trace)
        start = check_layer("start_layer", self.start_layer, len(passed.transformer.layers))
        with ready(*modules_from(passed.transformer, start)):
            probabilities, embedding = live_attention(passed, start)
            live = passed.answer(embedding.expand(len(detections), -1), detections)
            rows = [[_carry(passed, start, probabilities, value) for value in target(live)] for target in targets]
        return [maps_on_grid(torch.cat(of_one), passed) for of_one in rows]

    def _draw_queries(
        self, model: AttentionModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[tuple[Tensor, ...]]:
        """For every target n maps (h,w): one forward pass, and one backward pass per detection."""
        live, shown = model.attentions(trace, detections)
        encoder = [one for one in shown if one.kind == "image"]
        start = check_layer("start_layer", self.start_layer, len(encoder))
        kept = encoder[start:] + [one for one in shown if one.kind != "image"]
        grid, count = live.features[-1].grid, len(trace.candidates)
        maps = []
        for target in targets:
            carried = [_carry_to_queries(kept, value, count) for value in target(live)]
            rows = [one[source] for one, source in zip(carried, detections.source.tolist(), strict=True)]
            maps.append(tuple(row[-grid[0] * grid[1] :].reshape(grid) for row in rows))
        return maps


def _carry(passed: TransformerPass, start: int, probabilities: Sequence[Tensor], value: Tensor) -> Tensor:
    """(B,N) the relevance of all tokens for what is read, from the gradient of one value."""
    gradients = level_gradients(value[None], probabilities)
    weighed = [weigh_attention(one.detach(), slope[0]) for one, slope in zip(probabilities, gradients, strict=True)]
    return carry_back(rows_read(passed), weighed, [layer.pools for layer in passed.transformer.layers[start:]])


def _carry_texts(passed: TransformerPass, start: int, detections: Detections, targets: Sequence[Target]) -> list[Tensor]:
    """For every target (n,N), where detection i is item i: texts stand apart, so one backward pass serves all."""
    with ready(*modules_from(passed.transformer, start)):
        probabilities, embeddings = live_attention(passed, start)
        live = passed.answer(embeddings, detections)
        return [_carry(passed, start, probabilities, target(live).sum()) for target in targets]


def _numbers(passed: TransformerPass, start: int) -> int:
    """How many probabilities one item has in the layers from `start` on."""
    layers, count = passed.transformer.layers[start:], passed.tokens[start].shape[1]
    return sum(layer.heads * count * (1 if layer.pools else count) for layer in layers)


def _carry_to_queries(shown: Sequence[AttentionMap], value: Tensor, count: int) -> Tensor:
    """(M,N) the relevance of the encoder's tokens for the `count` queries; where the queries are the encoder's last tokens,
    (M,N-M) that of its other tokens."""
    tensors = [one.probabilities for one in shown]
    gradients = level_gradients(value[None], tensors)
    tokens, queries = tensors[0].shape[-1], count if shown[-1].kind == "cross" else 0
    relevance = Relevance(*(tensors[0].new_zeros(shape) for shape in ((tokens, tokens), (queries, queries), (queries, tokens))))
    for one, slope in zip(shown, gradients, strict=True):
        relevance = relevance.add(one.kind, weigh_attention(one.probabilities.detach(), slope[0])[0])
    return relevance.cross if queries else relevance.image[-count:, :-count]
