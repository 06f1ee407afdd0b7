"""Grad-ECLIP: which patches of an image, and which tokens of a text, made a contrastive model's image and text match."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from whybox.attention import AttentionLayer, ImageTextModel, TokenMaps, Transformer, TransformerModel, TransformerPass
from whybox.errors import WhyboxError, unknown
from whybox.method import Method
from whybox.ops.attention_flow import maps_on_grid, own_tokens, ready
from whybox.ops.gradients import check_connected, gradients_on
from whybox.ops.maps import ordinary
from whybox.ops.transformer import Attended, attend, check_layers, loosened_attention, modules_from, take_rows, widened
from whybox.types import Detections, HeatMaps, Target, Trace

Heads = Literal["native", "single"]
Weighting = Literal["cosine", "projected", "logits", "none"]
TEXT_LAYERS = 2 / 3
"""The share of the text encoder's layers that are explained: 8 of 12 in the paper."""


def grad_eclip_map(gradient: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """sum_c g_c lam_i v_ic for every token i; signed: the paper's map is its ReLU.

    Args:
        gradient: g (n,R,E) at the attention output of the R rows that are read.
        values: v (n,N,E).
        weights: lam (n,R,N), the spatial weights of each row.

    Returns:
        (n,N)

    Source: Zhao, Wang, Zeng, Zhao, Chan: Gradient-based Visual Explanation for Transformer-based CLIP, ICML 2024, eqs. 7, 8.
    """
    return ((gradient @ values.transpose(-1, -2)) * weights).sum(1)


@dataclass(frozen=True)
class _Watched:
    """One explained layer of a pass with a graph. mixed: the node whose gradient is the channel weight."""

    layer: AttentionLayer
    attended: Attended
    mixed: Tensor


@dataclass(frozen=True)
class GradEclip(Method):
    """Grad-ECLIP, for the class token of an image encoder, its attention pooling, or the end token of a text.

    Attributes:
        heads: "native" explains the model as it is; "single" runs the explained layers with one head over the full width, as
            the published code does, and thereby explains another function: the result's options hold both scores.
        weighting: The spatial weight, min-max scaled over the patches (over the text's own tokens): "cosine" of query and key,
            as in the published notebooks and the authors' later paper; "projected", the same after the output projection with
            its bias, as in their evaluation code; "logits", q k / sqrt(width), another reading of the formula; "none".
        layers: How many of the last layers of the image encoder are explained.
        text_layers: The same for the text encoder; None: two thirds, the paper's 8 of 12.
        text_kept: The tokens of the min-max scaling in texts: "text", the text's own, or "all" positions of the padded
            context, as in the published code.
    """

    heads: Heads = "native"
    weighting: Weighting = "cosine"
    layers: int = 1
    text_layers: int | None = None
    text_kept: Literal["text", "all"] = "text"

    name: ClassVar[str] = "grad_eclip"
    title: ClassVar[str] = "Grad-ECLIP"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    source: ClassVar[str] = "Zhao et al.: Grad-ECLIP, ICML 2024, eqs. 7 and 8; arXiv 2502.18816"

    def __post_init__(self) -> None:
        for option, known in (
            ("heads", ("native", "single")),
            ("weighting", ("cosine", "projected", "logits", "none")),
            ("text_kept", ("text", "all")),
        ):
            if getattr(self, option) not in known:
                raise unknown(option, str(getattr(self, option)), known)
        for option in ("layers", "text_layers"):
            value = getattr(self, option)
            if value is not None and (type(value) is not int or value < 1):
                raise WhyboxError(f"{option} must be a whole number from 1 on, got {value!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each; their options hold the explained score and the model's own.

        Raises:
            WhyboxError: `layers` is more than the encoder has.
        """
        with gradients_on():
            transformer_pass = model.transformer(trace)
            count = _at_most("layers", self.layers, len(transformer_pass.transformer.layers))
            explained = self._explain(
                transformer_pass, ordinary(detections), targets, count, transformer_pass.patches, sum_first=False
            )
        return [
            self.heat_maps(maps_on_grid(maps, transformer_pass), trace.frame, target, options=self._options(scores))
            for (maps, scores), target in zip(explained, targets, strict=True)
        ]

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
            transformer_pass = model.text_transformer(trace, detections.labels, padded=self.text_kept == "all")
            depth = len(transformer_pass.transformer.layers)
            count = _at_most("text_layers", self.text_layers or max(1, round(TEXT_LAYERS * depth)), depth)
            assert transformer_pass.words is not None
            kept = torch.ones_like(transformer_pass.words) if self.text_kept == "all" else transformer_pass.words
            explained = self._explain(transformer_pass, ordinary(detections), targets, count, kept, sum_first=True)
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        return [
            self.token_maps(own_tokens(maps, transformer_pass), texts, target, options=self._options(scores))
            for (maps, scores), target in zip(explained, targets, strict=True)
        ]

    def _options(self, scores: "_Scores") -> dict[str, Any]:
        """The settings, with the scores that were explained and the model's own scores, one number per detection."""
        return asdict(self) | {"explained_score": scores.explained, "own_score": scores.native}

    def _explain(
        self,
        transformer_pass: TransformerPass,
        detections: Detections,
        targets: Sequence[Target],
        count: int,
        kept: Tensor | slice,
        *,
        sum_first: bool,
    ) -> "list[tuple[Tensor, _Scores]]":
        """For every target, the maps (n,N) over all tokens, and the scores."""
        transformer = transformer_pass.transformer
        if not len(detections):
            return [
                (transformer_pass.embedding.new_zeros((0, transformer_pass.tokens[0].shape[1])), _Scores([], [])) for _ in targets
            ]
        start = len(transformer.layers) - count
        # Then only the row that is read reaches the embedding: the gradients of all others are zero.
        alone = count == 1 and transformer.pooling == "token"
        with ready(*modules_from(transformer, start)):
            run = self._read_row if alone else self._run_layers
            watched, embeddings = run(transformer_pass, len(detections), start)
            live = transformer_pass.answer(embeddings, detections)
            # To be reported beside the explained score: with one head, that is another function's.
            native = transformer_pass.answer(widened(transformer_pass.embedding).expand(len(detections), -1), detections)
            results = []
            for target in targets:
                gradients = _gradients(target(live), [layer.mixed for layer in watched])
                parts = [
                    self._draw(layer, gradient, transformer_pass, kept)
                    for layer, gradient in zip(watched, gradients, strict=True)
                ]
                # As in the published code: the layers of a text are summed before the ReLU, those of an image after it.
                maps = torch.stack(parts).sum(0).relu() if sum_first else torch.stack(parts).relu().sum(0)
                results.append((maps, _Scores(target(live).tolist(), target(native).tolist())))
        return results

    def _read_row(self, transformer_pass: TransformerPass, count: int, start: int) -> tuple[list[_Watched], Tensor]:
        """The last layer, of which only one row reaches the embedding: with n copies of that row, one backward pass gives the n
        gradients, at the cost of n tokens."""
        layer, tokens = transformer_pass.transformer.layers[start], widened(transformer_pass.tokens[start])
        with torch.no_grad():
            attended = attend(layer, tokens, transformer_pass.mask, rows=transformer_pass.row, single_head=self.heads == "single")
            before = take_rows(tokens, transformer_pass.row)
        # A clone, because gradients per row need memory per row: expand shares one.
        mixed = attended.mixed.expand(count, -1, -1).clone().requires_grad_()
        after = layer.finish(before.expand(count, -1, -1), layer.out(mixed))
        return [_Watched(layer, attended, mixed)], transformer_pass.transformer.read(after)

    def _run_layers(self, transformer_pass: TransformerPass, count: int, start: int) -> tuple[list[_Watched], Tensor]:
        """The last layers with their graph. A single image is run once and shared by all n rows."""
        tokens, watched = widened(transformer_pass.tokens[start]), []
        for layer in transformer_pass.transformer.layers[start:]:
            attended = attend(layer, tokens, transformer_pass.mask, single_head=self.heads == "single")
            # The first explained layer's attention is in no graph, because the weights are frozen: it becomes a leaf.
            mixed = attended.mixed if attended.mixed.requires_grad else attended.mixed.detach().requires_grad_()
            watched.append(_Watched(layer, attended, mixed))
            tokens = layer.finish(tokens, layer.out(mixed))
        check_layers(transformer_pass, start)
        everything = transformer_pass.transformer.pooling == "mean"
        embeddings = transformer_pass.transformer.read(tokens if everything else take_rows(tokens, transformer_pass.row))
        # An image has one embedding for all n rows; of texts there are n already.
        return watched, embeddings.expand(count, -1)

    def _draw(self, watched: _Watched, gradient: Tensor, transformer_pass: TransformerPass, kept: Tensor | slice) -> Tensor:
        """Signed maps (n,N) of one layer from its gradient (n,R,E)."""
        attended = watched.attended
        queries = attended.queries.detach()
        if _one_row_is_read(watched.layer, transformer_pass.transformer):
            # There is one row already where the layer pools, and where no other was computed.
            gradient = take_rows(gradient, transformer_pass.row.expand(len(gradient))) if gradient.shape[1] > 1 else gradient
            queries = take_rows(queries, transformer_pass.row) if queries.shape[1] > 1 else queries
        # Detached: lam and v are weights of the gradient in eqs. 7 and 8, not something to differentiate.
        weights = self._weights(watched.layer, queries, attended.keys.detach(), kept)
        return grad_eclip_map(gradient, attended.values.detach(), weights)

    def _weights(self, layer: AttentionLayer, queries: Tensor, keys: Tensor, kept: Tensor | slice) -> Tensor:
        """lam (B,R,N): queries (B,R,E), keys (B,N,E)."""
        if self.weighting == "none":
            return keys.new_ones((len(keys), queries.shape[1], keys.shape[1]))
        if self.weighting == "projected":
            queries, keys = layer.out(queries), layer.out(keys)
        raw = self.weighting == "logits"
        # Row by row: the cosine of all rows and keys at once would hold (B,R,N,E) numbers.
        rows = [loosened_attention(row[:, None], keys, kept, normalize=not raw) for row in queries.unbind(1)]
        return torch.stack(rows, 1)


@dataclass(frozen=True)
class _Scores:
    """explained: the target's values that the gradient was taken of; native: those of the model's own forward pass."""

    explained: list[float]
    native: list[float]


def _at_most(option: str, count: int, depth: int) -> int:
    if count > depth:
        raise WhyboxError(f"{option} must be at most {depth}, as many as there are, got {count}")
    return count


def _one_row_is_read(layer: AttentionLayer, transformer: Transformer) -> bool:
    """Whether one row of the layer is read, or all: below attention pooling, all rows are."""
    return transformer.pooling == "token" and (layer.pools or not transformer.layers[-1].pools)


def _gradients(values: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
    """dY_i/do of each node, (n,R,E). Where value i depends on item i alone, one backward pass of the sum serves all."""
    check_connected(values)
    if len(nodes[0]) == len(values):
        return list(torch.autograd.grad(values.sum(), nodes, retain_graph=True))
    rows = [torch.autograd.grad(value, nodes, retain_graph=True) for value in values]
    return [torch.cat(column) for column in zip(*rows, strict=True)]
