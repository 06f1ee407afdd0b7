"""timm's vision transformers as open_clip's image towers: with a class token, a mean or an attention pool (SigLIP); EVA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from whybox.attention import AttentionLayer, Transformer
from whybox.frame import Size
from whybox.models.open_clip._blocks import by_head
from whybox.models.open_clip._vision_tower import Tower, no_mask, refused, resized_positions

_BLOCKS = ("Block", "ResPostBlock", "EvaBlock", "EvaBlockPostNorm")
_ATTENTION = ("Attention", "EvaAttention")


def timm_tower(visual: Any) -> Tower:
    """A TimmModel whose trunk is one of timm's vision transformers."""
    trunk = visual.trunk
    _refuse_unknown(trunk)
    own = tuple(trunk.patch_embed.grid_size)
    patch = (visual.image_size[0] // own[0], visual.image_size[1] // own[1])

    layers = tuple(_block_layer(block, f"blocks[{i}]") for i, block in enumerate(trunk.blocks))
    pooled = trunk.attn_pool is not None
    if pooled:
        layers += (_latent_pool(trunk),)

    def read(rows: Tensor) -> Tensor:
        if not pooled:
            # forward_head pools by itself: from the one row that it gets, or from all.
            return visual.head(trunk.forward_head(trunk.norm(rows)))  # type: ignore[no-any-return]
        return visual.head(trunk.head(trunk.fc_norm(rows[:, 0])))  # type: ignore[no-any-return]

    used = (trunk.norm, trunk.fc_norm, trunk.head_drop, trunk.head, visual.head)
    row = pooled or trunk.global_pool == "token"
    transformer = Transformer(layers, no_mask, read, used, "token" if row else "mean")
    return Tower(
        transformer,
        patch,
        lambda network: _sized(trunk, own, (network[0] // patch[0], network[1] // patch[1])),
        trunk.num_prefix_tokens,
    )


def _refuse_unknown(trunk: Any) -> None:
    """Refuse trunks whose forward pass differs from the layers here."""
    kind = type(trunk).__name__
    blocks = getattr(trunk, "blocks", None)
    if not blocks or kind not in ("VisionTransformer", "Eva"):
        raise refused(f"timm's {kind}")
    for block in blocks:
        attention = getattr(block, "attn", None)
        if type(block).__name__ not in _BLOCKS or type(attention).__name__ not in _ATTENTION:
            raise refused(f"timm's {kind} of {type(block).__name__} with {type(attention).__name__}")
        if getattr(attention, "gate", None) is not None:
            raise refused("attention with a gate")
    if getattr(trunk, "rope", None) is not None:
        raise refused(f"timm's {kind} with rotary position embeddings")
    pool = trunk.attn_pool
    if pool is not None and (not hasattr(pool, "latent") or trunk.num_prefix_tokens or pool.pos_embed is not None):
        raise refused(f"timm's {kind} with {type(pool).__name__} behind class tokens or with positions of its own")
    if pool is not None and pool.pool != "token" and pool.latent_len > 1:
        raise refused("an attention pool with the mean of several queries")


@contextmanager
def _sized(trunk: Any, own: Size, grid: Size) -> Iterator[None]:
    """Inside, the trunk takes images with another grid. Trunks with dynamic_img_size interpolate their positions themselves."""
    if own == grid or getattr(trunk, "dynamic_img_size", False) or trunk.pos_embed is None:
        yield
        return
    strict = trunk.patch_embed.strict_img_size
    with resized_positions(trunk.pos_embed, own, grid):
        try:
            # Otherwise PatchEmbed refuses every size but its own.
            trunk.patch_embed.strict_img_size = False
            yield
        finally:
            trunk.patch_embed.strict_img_size = strict


def _block_layer(block: Any, name: str) -> AttentionLayer:
    """A pre-norm block, or one that normalizes the outputs of attention and MLP, as in EVA-02's largest model and Swin v2."""
    attention = block.attn
    post = type(block).__name__ in ("ResPostBlock", "EvaBlockPostNorm")
    before, after = (nn.Identity(), block.norm1) if post else (block.norm1, _scale_of(block, 1))
    before_mlp, after_mlp = (nn.Identity(), block.norm2) if post else (block.norm2, _scale_of(block, 2))

    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = _project(attention, before(tokens))
        heads = attention.num_heads
        return by_head(queries, heads, attention.q_norm), by_head(keys, heads, attention.k_norm), values

    def out(mixed: Tensor) -> Tensor:
        return after(attention.proj(mixed))

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + attended
        return tokens + after_mlp(block.mlp(before_mlp(tokens)))

    return AttentionLayer(name, attention.num_heads, attention.scale, project, out, finish, (block,), attention.norm, before)


def _project(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if attention.qkv is None:
        return attention.q_proj(tokens), attention.k_proj(tokens), attention.v_proj(tokens)
    if getattr(attention, "q_bias", None) is None:
        joint = attention.qkv(tokens)
    else:
        # EVA trains no bias of the keys: k_bias is a buffer of zeros.
        joint = linear(tokens, attention.qkv.weight, torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]))
    queries, keys, values = joint.chunk(3, -1)
    return queries, keys, values


def _scale_of(block: Any, number: int) -> Callable[[Tensor], Tensor]:
    """LayerScale: a module, or, in EVA's blocks, a weight or none."""
    if hasattr(block, f"ls{number}"):
        return getattr(block, f"ls{number}")  # type: ignore[no-any-return]

    def scale(values: Tensor) -> Tensor:
        weight = getattr(block, f"gamma_{number}")
        return values if weight is None else weight * values

    return scale


def _latent_pool(trunk: Any) -> AttentionLayer:
    """SigLIP's attention pooling: a learned query attends to the tokens after the last norm; an MLP follows.

    Source: Zhai et al., Scaling Vision Transformers, CVPR 2022, section 2.1, "MAP" head.
    """
    pool = trunk.attn_pool
    heads = pool.num_heads

    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = pool.kv(trunk.norm(tokens)).chunk(2, -1)
        query = pool.q(pool.latent[:, :1]).expand(len(tokens), -1, -1)
        return by_head(query, heads, pool.q_norm), by_head(keys, heads, pool.k_norm), values

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        return attended if pool.mlp is None else attended + pool.mlp(pool.norm(attended))

    return AttentionLayer(
        "pool",
        heads,
        pool.scale,
        project,
        pool.proj,
        finish,
        (pool, trunk.norm),
        normalize=trunk.norm,
        pools=True,
        entry=trunk.norm,
    )
