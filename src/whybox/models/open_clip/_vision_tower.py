"""open_clip's image towers layer by layer: its vision transformers, with CoCa's pooling, and CLIP's ResNets."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from whybox.attention import AttentionLayer, Transformer
from whybox.errors import WhyboxError
from whybox.frame import Size, resize_maps
from whybox.models.open_clip._blocks import block_layers


@dataclass(frozen=True)
class Tower:
    """An image tower.

    Attributes:
        transformer: The encoder layer by layer.
        patch: (height, width) of a patch, in pixels.
        sized: Size of the network's input -> a context in which the tower, and its own forward pass, take that size.
        first: The number of tokens before the patches.
        features: As in ImageEncoder, with paths within the tower.
    """

    transformer: Transformer
    patch: Size
    sized: Callable[[Size], AbstractContextManager[None]]
    first: int = 1
    features: Mapping[str, str] = field(default_factory=dict)

    def grid(self, network: Size) -> Size:
        """(h, w) of the patches."""
        return network[0] // self.patch[0], network[1] // self.patch[1]


def vision_transformer(visual: Any) -> Tower:
    """open_clip's VisionTransformer: the class token or the mean of the patches is read, or an attention pool's first query."""
    pooled = visual.attn_pool is not None
    if visual.pool_type != "tok" and (pooled or visual.pool_type != "avg"):
        raise refused(f"a vision transformer that pools by {getattr(visual, 'attn_pool_type', '') or visual.pool_type!r}")
    sized = partial(_positions_for, visual, visual.grid_size, visual.patch_size)

    def read(rows: Tensor) -> Tensor:
        before = rows if visual.final_ln_after_pool and not pooled else visual.ln_post(rows)
        # open_clip's mean leaves the class token out.
        row = before[:, 1:].mean(1) if visual.pool_type == "avg" else before[:, 0]
        # The norm acts before the pooling or after it, never twice.
        row = visual.ln_post(row) if before is rows else row
        return row if visual.proj is None else row @ visual.proj

    layers = block_layers(visual.transformer)
    if pooled:
        layers += (_attention_pool(visual.attn_pool),)
    # A ParameterList, because the projection is a parameter of the tower itself, and modules are needed.
    used = (visual.ln_post, nn.ParameterList([] if visual.proj is None else [visual.proj]))
    transformer = Transformer(layers, no_mask, read, used, "mean" if visual.pool_type == "avg" else "token")
    return Tower(transformer, visual.patch_size, sized)


def _attention_pool(pool: Any) -> AttentionLayer:
    """CoCa's attention pooling: learned queries attend to all tokens. Only the first query's output enters the embedding."""
    attention = pool.attn

    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if attention.in_proj_weight is None:
            weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
        else:
            weights = attention.in_proj_weight.chunk(3)
        biases = attention.in_proj_bias.chunk(3)
        # Attention rows do not depend on one another, so that the other queries need not be computed.
        query, seen = pool.ln_q(pool.query)[:1].expand(len(tokens), 1, -1), pool.ln_k(tokens)
        queries, keys, values = (linear(*parts) for parts in zip((query, seen, seen), weights, biases, strict=True))
        return queries, keys, values

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        return attended

    scale = attention.head_dim**-0.5
    out = attention.out_proj
    return AttentionLayer("pool", attention.num_heads, scale, project, out, finish, (pool,), normalize=pool.ln_k, pools=True)


def resnet(visual: Any) -> Tower:
    """CLIP's ResNet: its attention pool is the only layer. The tokens are the mean of the feature map, which is read, and the
    feature map's cells, each with its position embedding.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section 2.4.
    """
    side = round((len(visual.attnpool.positional_embedding) - 1) ** 0.5)
    sized = partial(_positions_for, visual.attnpool, (side, side), (32, 32))

    transformer = Transformer((_resnet_pool(visual.attnpool),), no_mask, _first_row, ())
    return Tower(transformer, (32, 32), sized, features={"features": "layer4"})


def _resnet_pool(pool: Any) -> AttentionLayer:
    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pool.q_proj(tokens), pool.k_proj(tokens), pool.v_proj(tokens)

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        return attended

    def entering(cells: Tensor) -> Tensor:
        cells = cells.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1)
        positions: Tensor = pool.positional_embedding
        return tokens + positions.to(tokens.dtype)

    scale = (pool.q_proj.out_features // pool.num_heads) ** -0.5
    # returning=None: the mean and the positions are added on the way in, so that the tokens do not give the feature map back.
    return AttentionLayer("pool", pool.num_heads, scale, project, pool.c_proj, finish, (pool,), entering=entering, returning=None)


def no_mask(inputs: Any) -> None:
    """Patches attend to all patches."""
    return None


def _first_row(rows: Tensor) -> Tensor:
    return rows[:, 0]


def _positions_for(module: Any, own: Size, patch: Size, network: Size) -> AbstractContextManager[None]:
    grid = (network[0] // patch[0], network[1] // patch[1])
    return resized_positions(module.positional_embedding, own, grid)


@contextmanager
def resized_positions(weight: Tensor, own: Size, grid: Size) -> Iterator[None]:
    """Inside, position embeddings (..., N, C) of the grid `own` are interpolated to `grid` (bicubic, corners not aligned), except
    those of tokens before the patches. Afterwards they are the same tensor as before."""
    if own == grid:
        yield
        return
    kept = weight.data
    rows = kept.flatten(0, -2)
    first = len(rows) - own[0] * own[1]
    cells = resize_maps(rows[first:].float().T.reshape(-1, *own), grid, mode="bicubic").flatten(1).T
    try:
        # `.data` is swapped, because the forward pass reads this parameter by its name.
        weight.data = torch.cat([rows[:first], cells.to(kept.dtype)]).reshape(*kept.shape[:-2], -1, kept.shape[-1])
        yield
    finally:
        weight.data = kept


def refused(what: str) -> WhyboxError:
    """The error for an unsupported tower."""
    return WhyboxError(
        f"open_clip: {what} is not supported; supported are VisionTransformer, CoCa, CLIP's ResNets, and timm's vision "
        "transformers without rotary or relative positions"
    )
