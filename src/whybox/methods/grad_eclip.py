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
from whybox.ops.transformer import Attended, attend, loosened_attention, modules_from, take_rows
from whybox.types import Detections, HeatMaps, Target, Trace

Heads = Literal["native", "single"]
Weighting = Literal["cosine", "projected", "logits", "none"]
TEXT_LAYERS = 2 / 3
"""The paper takes 8 of the text encoder's 12 layers."""


def grad_eclip_map(gradient: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """sum_c g_c lam_i v_ic for every token i: gradient (n,R,E) at the rows that are read, values (n,N,E), weights (n,R,N) of
    each row -> (n,N), signed: the map is its ReLU.

    Source: Zhao, Wang, Zeng, Zhao, Chan: Gradient-based Visual Explanation for Transformer-based CLIP, ICML 2024, eqs. 7, 8.
    """
    return ((gradient @ values.transpose(-1, -2)) * weights).sum(1)


@dataclass(frozen=True)
class _Watched:
    """One explained layer of a live pass: what its attention did, and the node whose gradient is the channel weight."""

    layer: AttentionLayer
    attended: Attended
    mixed: Tensor


@dataclass(frozen=True)
class GradEclip(Method):
    """Grad-ECLIP, for the class token of an image encoder, its pooling layer, or the end of a text.

    heads: "native" explains the model as it is; "single" takes the explained layers with one head over the full width, as the
    published code does, and thereby explains another function: the options of the result hold both scores.
    weighting: the spatial weight, min-max over the patches (over the text's own tokens) of: "cosine" of query and key, as the
    published notebooks and the authors' later paper have it; "projected", the same after the output projection with its
    bias, as their evaluation code has it; "logits", q k / sqrt(width), as the formula is also read; "none" leaves it out.
    layers: how many of the last layers of the image encoder; text_layers: of the text encoder, None for two thirds, the
    paper's 8 of 12. text_kept: "text" looks for the min-max among the text's own tokens, "all" among all positions of the
    padded context, as the published code does.
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
        """One HeatMaps per target."""
        with gradients_on():
            passed = model.transformer(trace)
            count = _at_most("layers", self.layers, len(passed.transformer.layers))
            found = self._explain(passed, ordinary(detections), targets, count, passed.patches, sum_first=False)
        return [
            self.heat_maps(maps_on_grid(maps, passed), trace.frame, target, options=self._options(scores))
            for (maps, scores), target in zip(found, targets, strict=True)
        ]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """The texts' side: one TokenMaps per target; detection i stands for the text of its label."""
        with gradients_on():
            passed = model.text_transformer(trace, detections.labels, padded=self.text_kept == "all")
            depth = len(passed.transformer.layers)
            count = _at_most("text_layers", self.text_layers or max(1, round(TEXT_LAYERS * depth)), depth)
            assert passed.words is not None
            kept = torch.ones_like(passed.words) if self.text_kept == "all" else passed.words
            found = self._explain(passed, ordinary(detections), targets, count, kept, sum_first=True)
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        return [
            self.token_maps(own_tokens(maps, passed), texts, target, options=self._options(scores))
            for (maps, scores), target in zip(found, targets, strict=True)
        ]

    def _options(self, scores: "_Scores") -> dict[str, Any]:
        """The settings, and the score that was explained beside the model's own, one number per detection."""
        return asdict(self) | {"explained_score": scores.explained, "own_score": scores.own}

    def _explain(
        self,
        passed: TransformerPass,
        detections: Detections,
        targets: Sequence[Target],
        count: int,
        kept: Tensor | slice,
        *,
        sum_first: bool,
    ) -> "list[tuple[Tensor, _Scores]]":
        """For every target the maps (n,N) over all tokens, and the scores."""
        transformer = passed.transformer
        if not len(detections):
            return [(passed.embedding.new_zeros((0, passed.tokens[0].shape[1])), _Scores([], [])) for _ in targets]
        start = len(transformer.layers) - count
        alone = count == 1 and transformer.pooling == "token"
        with ready(*modules_from(transformer, start)):
            run = self._read_row if alone else self._run_layers
            watched, embeddings = run(passed, len(detections), start)
            live = passed.answer(embeddings, detections)
            native = passed.answer(passed.embedding.float().expand(len(detections), -1), detections)
            results = []
            for target in targets:
                gradients = _gradients(target(live), [one.mixed for one in watched])
                parts = [self._draw(one, gradient, passed, kept) for one, gradient in zip(watched, gradients, strict=True)]
                maps = torch.stack(parts).sum(0).relu() if sum_first else torch.stack(parts).relu().sum(0)
                results.append((maps, _Scores(target(live).tolist(), target(native).tolist())))
        return results

    def _read_row(self, passed: TransformerPass, count: int, start: int) -> tuple[list[_Watched], Tensor]:
        """The last layer, of which only the read row reaches the answer: n copies of that row make n gradients in one
        backward pass, at the price of n tokens."""
        layer, tokens = passed.transformer.layers[start], passed.tokens[start].float()
        with torch.no_grad():
            attended = attend(layer, tokens, passed.mask, rows=passed.row, single_head=self.heads == "single")
            before = take_rows(tokens, passed.row)
        mixed = attended.mixed.expand(count, -1, -1).clone().requires_grad_()
        after = layer.finish(before.expand(count, -1, -1), layer.out(mixed))
        return [_Watched(layer, attended, mixed)], passed.transformer.read(after)

    def _run_layers(self, passed: TransformerPass, count: int, start: int) -> tuple[list[_Watched], Tensor]:
        """The last layers with their graph. An image alone is run once and shared by all n rows."""
        tokens, watched = passed.tokens[start].float(), []
        for layer in passed.transformer.layers[start:]:
            attended = attend(layer, tokens, passed.mask, single_head=self.heads == "single")
            mixed = attended.mixed if attended.mixed.requires_grad else attended.mixed.detach().requires_grad_()
            watched.append(_Watched(layer, attended, mixed))
            tokens = layer.finish(tokens, layer.out(mixed))
        everything = passed.transformer.pooling == "mean"
        embeddings = passed.transformer.read(tokens if everything else take_rows(tokens, passed.row))
        return watched, embeddings.expand(count, -1)

    def _draw(self, one: _Watched, gradient: Tensor, passed: TransformerPass, kept: Tensor | slice) -> Tensor:
        """Signed maps (n,N) of one layer from its gradient (n,R,E)."""
        attended = one.attended
        queries = attended.queries.detach()
        if _one_row_is_read(one.layer, passed.transformer):
            gradient = take_rows(gradient, passed.row.expand(len(gradient))) if gradient.shape[1] > 1 else gradient
            queries = take_rows(queries, passed.row) if queries.shape[1] > 1 else queries
        weights = self._weights(one.layer, queries, attended.keys.detach(), kept)
        return grad_eclip_map(gradient, attended.values.detach(), weights)

    def _weights(self, layer: AttentionLayer, queries: Tensor, keys: Tensor, kept: Tensor | slice) -> Tensor:
        """lam (B,R,N): queries (B,R,E), keys (B,N,E)."""
        if self.weighting == "none":
            return keys.new_ones((len(keys), queries.shape[1], keys.shape[1]))
        if self.weighting == "projected":
            queries, keys = layer.out(queries), layer.out(keys)
        raw = self.weighting == "logits"
        rows = [loosened_attention(row[:, None], keys, kept, normalize=not raw) for row in queries.unbind(1)]
        return torch.stack(rows, 1)


@dataclass(frozen=True)
class _Scores:
    """explained: the value that the gradient was taken of; own: the same value of the model's own pass."""

    explained: list[float]
    own: list[float]


def _at_most(option: str, count: int, depth: int) -> int:
    if count > depth:
        raise WhyboxError(f"{option} must be at most {depth}, as many as there are, got {count}")
    return count


def _one_row_is_read(layer: AttentionLayer, transformer: Transformer) -> bool:
    """Whether one row of the layer is read, or all: below a layer that pools, every token is looked at."""
    return transformer.pooling == "token" and (layer.pools or not transformer.layers[-1].pools)


def _gradients(values: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
    """dY_i/do of each node, (n,R,E). Where every value has items of its own in the node, one backward pass serves all."""
    check_connected(values)
    if len(nodes[0]) == len(values):
        return list(torch.autograd.grad(values.sum(), nodes, retain_graph=True))
    rows = [torch.autograd.grad(value, nodes, retain_graph=True) for value in values]
    return [torch.cat(column) for column in zip(*rows, strict=True)]
