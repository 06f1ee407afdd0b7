"""Which tokens of a text made a box: gradient x input at the token embeddings that enter a network's text encoder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from whybox.ops.transformer import widened


@contextmanager
def token_leaf(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the module's first output is a leaf that gradients can be taken at; the list then holds it."""
    leaves: list[Tensor] = []

    def cut(part: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if leaves:
            return None
        leaves.append(output.detach().clone().requires_grad_())
        # A clone, because an in-place operation on the output would overwrite the recorded values.
        return leaves[0].clone()

    handle = module.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def token_values(values: Tensor, tokens: Tensor, places: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, ...]:
    """Gradient x input at the tokens, summed over the channels.

    Args:
        values: (N,) what is explained.
        tokens: (T,L,C) the leaf.
        places: For each value, where its text's tokens stand in it: the row, and the positions (n,).

    Returns:
        N tensors (n,).
    """
    # OWL-ViT's boxes do not depend on the texts; a target that is in no graph at all was refused when its map was drawn.
    if not values.requires_grad:
        return tuple(tokens.new_zeros(len(positions)) for _, positions in places)
    shares = []
    for value, (row, positions) in zip(values, places, strict=True):
        # A target that does not depend on the texts has no gradient there.
        (gradient,) = torch.autograd.grad(value, tokens, retain_graph=True, materialize_grads=True)
        # Widened: the channels' products of half-precision networks cancel.
        products = widened(gradient[row]) * widened(tokens[row].detach())
        shares.append(products.sum(-1)[positions.to(tokens.device)])
    return tuple(shares)
