"""Hugging Face's transformer blocks as attention layers. The names of a block's submodules are probed, because they differ
between models and versions of the library."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from whybox.attention import AttentionLayer, opaque_layer
from whybox.errors import WhyboxError

Projections = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Normalized tokens (B,N,C) -> queries, keys and values (B,N,E)."""


def known_or_opaque(make: Callable[[Any, str], AttentionLayer], block: Any, name: str) -> AttentionLayer:
    """The layer of a block, or an opaque one where the block is not as the library wrote it: replaced, or wrapped."""
    try:
        return make(block, name)
    except (WhyboxError, AttributeError):
        return opaque_layer(block, name)


def pre_norm_layer(block: Any, name: str) -> AttentionLayer:
    """A pre-norm block: CLIP, SigLIP, BLIP's image encoder, ViT."""
    before = first_of(block, "layer_norm1", "layernorm_before")
    after = first_of(block, "layer_norm2", "layernorm_after")
    heads, scale, project, out = _attention(first_of(block, "self_attn", "attention"))

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + attended
        # ViT's blocks in older versions of transformers: `output` adds the residual itself.
        if hasattr(block, "intermediate"):
            after_mlp: Tensor = block.output(block.intermediate(after(tokens)), tokens)
            return after_mlp
        return tokens + block.mlp(after(tokens))  # type: ignore[no-any-return]

    return AttentionLayer(name, heads, scale, lambda tokens: project(before(tokens)), out, finish, (block,), normalize=before)


def post_norm_layer(block: Any, name: str) -> AttentionLayer:
    """A post-norm block: BERT's, without its cross-attention."""
    heads, scale, project, out = _attention(block.attention)

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = block.attention.output.LayerNorm(attended + tokens)
        after_mlp: Tensor = block.output(block.intermediate(tokens), tokens)
        return after_mlp

    # Without the block's cross-attention, which the text encoder of a dual encoder does not use.
    modules = (block.attention, block.intermediate, block.output)
    return AttentionLayer(name, heads, scale, project, out, finish, modules, entry=block)


def pooling_layer(norm: Any, head: Any, name: str) -> AttentionLayer:
    """SigLIP's attention pooling: a learned query attends to the normalized tokens.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023 (the MAP head).
    """
    attention = head.attention

    def project(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = norm(tokens)
        inputs = (head.probe.expand(len(normed), -1, -1), normed, normed)
        # nn.MultiheadAttention returns no queries and keys: its stacked projection is applied here.
        weights, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        queries, keys, values = (linear(*parts) for parts in zip(inputs, weights, bias, strict=True))
        return queries, keys, values

    def finish(tokens: Tensor, attended: Tensor) -> Tensor:
        return attended + head.mlp(head.layernorm(attended))  # type: ignore[no-any-return]

    scale = attention.head_dim**-0.5
    modules = (norm, head)
    # `modules[0]`, the norm, is what the tokens enter first.
    return AttentionLayer(
        name, attention.num_heads, scale, project, attention.out_proj, finish, modules, normalize=norm, pools=True
    )


def _attention(attention: Any) -> tuple[int, float, Projections, Callable[[Tensor], Tensor]]:
    """Number of heads, scale of q k^T, input projections and output projection."""
    inner = next((getattr(attention, name) for name in ("attention", "self") if hasattr(attention, name)), attention)
    heads = first_of(inner, "num_heads", "num_attention_heads")
    out = attention.output.dense if inner is not attention else first_of(attention, "out_proj", "o_proj", "projection")
    if hasattr(inner, "qkv"):
        width = inner.qkv.out_features // 3
        return heads, (width // heads) ** -0.5, lambda tokens: inner.qkv(tokens).chunk(3, -1), out
    to_queries = first_of(inner, "q_proj", "query")
    to_keys = first_of(inner, "k_proj", "key")
    to_values = first_of(inner, "v_proj", "value")
    scale = (to_queries.out_features // heads) ** -0.5
    return heads, scale, lambda tokens: (to_queries(tokens), to_keys(tokens), to_values(tokens)), out


def first_of(module: Any, *names: str) -> Any:
    """The first of these attributes that the module has."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise WhyboxError(f"{type(module).__name__} has no {' or '.join(names)}: this variant of it is not known to whybox")
