"""The blocks of open_clip's own transformers, of images and of texts, as attention layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import linear, normalize

from whybox.attention import AttentionLayer, opaque_layer


def block_layers(transformer: Any) -> tuple[AttentionLayer, ...]:
    """The residual blocks of an open_clip Transformer, in order."""
    # With batch_first=False the blocks take (N,B,C).
    order = _unchanged if getattr(transformer, "batch_first", True) else _swapped
    layers = (_known_or_opaque(block, f"blocks[{i}]") for i, block in enumerate(transformer.resblocks))
    return tuple(replace(layer, entering=order, returning=order) for layer in layers)


def _known_or_opaque(block: Any, name: str) -> AttentionLayer:
    """The layer of a block; an opaque one where the block is not as open_clip wrote it: replaced, or wrapped."""
    try:
        return _block_layer(block, name)
    except AttributeError:
        return opaque_layer(block, name)


def _swapped(tokens: Tensor) -> Tensor:
    return tokens.transpose(0, 1)


def _block_layer(block: Any, name: str) -> AttentionLayer:
    """A block with nn.MultiheadAttention, or one with open_clip's own attention, which may change queries, keys and results."""
    attention = block.attn
    heads = attention.num_heads
    # open_clip's own Attention has this norm, nn.MultiheadAttention has not.
    custom = hasattr(attention, "ln_inner")

    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joint = linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = joint.chunk(3, -1)
        return (*_compared(attention, queries, keys), values) if custom else (queries, keys, values)

    def out(mixed: Tensor) -> Tensor:
        projected = attention.out_proj(mixed)
        return block.ls_1(block.ln_attn(projected) if custom else projected)  # type: ignore[no-any-return]

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + attended
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]

    # With scaled cosine attention the scale is in the queries already, see `_compared`.
    scale = 1.0 if _by_cosine(attention) else (attention.in_proj_weight.shape[1] // heads) ** -0.5
    mix = _inner(attention) if custom else _unchanged
    return AttentionLayer(name, heads, scale, project, out, finish, (block,), mix, block.ln_1)


def by_head(values: Tensor, heads: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Values (B,N,E) changed head by head: `change` gets (B,N,heads,E/heads)."""
    return change(values.reshape(*values.shape[:-1], heads, -1)).flatten(-2)


def _by_cosine(attention: Any) -> bool:
    return getattr(attention, "logit_scale", None) is not None


def _compared(attention: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys before their product: normalized by layer norms, or to unit length times one scale per head."""
    heads = attention.num_heads
    if not _by_cosine(attention):
        return by_head(queries, heads, attention.ln_q), by_head(keys, heads, attention.ln_k)
    sharp = attention.logit_scale.clamp(max=attention.logit_scale_max).exp()[:, 0]
    unit = by_head(queries, heads, lambda head: normalize(head, dim=-1) * sharp)
    return unit, by_head(keys, heads, lambda head: normalize(head, dim=-1))


def _inner(attention: Any) -> Callable[[Tensor], Tensor]:
    """The operations before the output projection: one scale per head, then a norm."""

    def mix(values: Tensor) -> Tensor:
        if attention.head_scale is not None:
            values = by_head(values, attention.num_heads, lambda head: head * attention.head_scale[:, 0])
        return attention.ln_inner(values)  # type: ignore[no-any-return]

    return mix


def _unchanged(values: Tensor) -> Tensor:
    return values
