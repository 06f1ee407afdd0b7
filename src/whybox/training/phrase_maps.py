"""Heat maps of the model in training, of many images and phrases at once: constants that a loss weighs regions with."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, scaled_dot_product_attention

from whybox.errors import WhyboxError
from whybox.methods.grad_eclip import grad_eclip_map
from whybox.models.image_text_pass import ImagePass, read_everywhere
from whybox.ops.transformer import in_float32, join_heads, loosened_attention, modules_from, split_heads, widened

AT_ONCE = 64
"""Phrases of one backward pass of Grad-CAM, whose memory grows with phrases x patches."""


def phrase_maps(kind: str, seen: ImagePass, phrases: Tensor, owner: Tensor) -> Tensor:
    """The map of each phrase in its image, as `whybox.explain(method=kind)` draws it, negative parts at 0.

    Args:
        kind: "grad_eclip", "gradcam" or "maskclip", with default options.
        seen: A pass over B images.
        phrases: (T,D) embeddings of phrases.
        owner: (T,) the image of each.

    Returns:
        (T,h*w) from 0 on, in float32, without a graph.
    """
    if not len(phrases):
        return seen.tokens.new_zeros((0, seen.grid[0] * seen.grid[1]), dtype=torch.float32)
    last = len(seen.transformer.layers) - 1
    # What weights and tokens stand for here are numbers: the graph ends at them.
    with torch.enable_grad(), in_float32(*modules_from(seen.transformer, last)):
        maps = _MAPS[kind](seen, widened(phrases.detach()), owner)
    return maps.detach().relu()


def _grad_eclip(seen: ImagePass, phrases: Tensor, owner: Tensor) -> Tensor:
    queries, keys, values = (widened(part.detach()) for part in seen.projected)
    queries = queries[:, :1]
    with torch.no_grad():
        mixed = _attended(seen, queries, keys, values)[owner]
    leaf = mixed.clone().requires_grad_()
    after = seen.layer.finish(widened(seen.tokens.detach())[:, :1][owner], seen.layer.out(leaf))
    gradient = _gradient(seen, after, phrases, leaf)
    weights = loosened_attention(queries, keys, seen.patches)[owner, None]
    return grad_eclip_map(gradient, values[owner], weights)[:, seen.patches]


def _gradcam(seen: ImagePass, phrases: Tensor, owner: Tensor) -> Tensor:
    """Of the output of the norm before the last attention, which is the default layer of Grad-CAM on transformers."""
    if not isinstance(seen.layer.normalize, nn.Module):
        raise WhyboxError(f"{seen.layer.name} has no norm before its attention, where Grad-CAM is drawn; choose other maps")
    tokens, starts = widened(seen.tokens.detach()), range(0, len(owner), AT_ONCE)
    parts = [_gradcam_of(seen, tokens[owner[i : i + AT_ONCE]], phrases[i : i + AT_ONCE]) for i in starts]
    return torch.cat(parts)


def _gradcam_of(seen: ImagePass, tokens: Tensor, phrases: Tensor) -> Tensor:
    """Tokens (T,N,C) and phrases (T,D) -> (T,h*w)"""
    leaves: list[Tensor] = []

    def swap(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handle = seen.layer.normalize.register_forward_hook(swap)  # type: ignore[attr-defined]
    try:
        queries, keys, values = seen.layer.project(tokens)
    finally:
        handle.remove()
    after = seen.layer.finish(tokens[:, :1], seen.layer.out(_attended(seen, queries[:, :1], keys, values)))
    gradient = _gradient(seen, after, phrases, leaves[0])[:, seen.patches]
    return (leaves[0].detach()[:, seen.patches] @ gradient.mean(1)[..., None])[..., 0]


def _maskclip(seen: ImagePass, phrases: Tensor, owner: Tensor) -> Tensor:
    with torch.no_grad():
        values = seen.layer.out(seen.layer.mix(widened(seen.projected[2])[:, seen.patches]))
        features = read_everywhere(seen.transformer, seen.layer.finish(widened(seen.tokens)[:, seen.patches], values))
        return (normalize(features, dim=-1)[owner] @ normalize(phrases, dim=-1)[..., None])[..., 0]


_MAPS: Mapping[str, Callable[[ImagePass, Tensor, Tensor], Tensor]] = {
    "grad_eclip": _grad_eclip,
    "gradcam": _gradcam,
    "maskclip": _maskclip,
}


def _attended(seen: ImagePass, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The class token's attention output, (B,1,E): the input of the output projection."""
    q, k, v = (split_heads(part, seen.layer.heads) for part in (queries, keys, values))
    return seen.layer.mix(join_heads(scaled_dot_product_attention(q, k, v, scale=seen.layer.scale)))


def _gradient(seen: ImagePass, after: Tensor, phrases: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of each row's cosine with its phrase."""
    cosines = cosine_similarity(seen.transformer.read(after), phrases, dim=-1)
    return torch.autograd.grad(cosines.sum(), leaf)[0]
