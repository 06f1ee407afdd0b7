"""Run a transformer layer by layer from any layer on, unchanged or modified, with or without a graph."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from whybox.attention import AttentionLayer, Transformer, TransformerPass
from whybox.errors import WhyboxError


@dataclass(frozen=True)
class Attended:
    """The intermediate results of one attention layer; heads are concatenated.

    Attributes:
        queries: (B,n,E).
        keys: (B,N,E).
        values: (B,N,E).
        mixed: (B,n,E) the input of the output projection.
        probabilities: (B,heads,n,N), or None where they were not requested.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mixed: Tensor
    probabilities: Tensor | None = None


def widened(values: Tensor) -> Tensor:
    """In float32, or as they are where they are wider: half precision is too coarse for gradients."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(B,N,E) -> (B,heads,N,E/heads)"""
    batch, count, width = values.shape
    return values.reshape(batch, count, heads, width // heads).transpose(1, 2)


def join_heads(values: Tensor) -> Tensor:
    """(B,heads,N,d) -> (B,N,heads*d)"""
    return values.transpose(1, 2).flatten(-2)


def attend(
    layer: AttentionLayer,
    tokens: Tensor,
    mask: Tensor | None = None,
    *,
    rows: Tensor | None = None,
    single_head: bool = False,
    probabilities: bool = False,
) -> Attended:
    """The attention of one layer, up to its output projection.

    Args:
        layer: The layer.
        tokens: (B,N,C).
        mask: Additive attention mask, broadcastable to (B,1,N,N), or None.
        rows: (B,) the one row of each item that is computed; None: all.
        single_head: One head over the full width, with its scale: another function than the model's, as in the reference code
            of Grad-ECLIP.
        probabilities: Whether to keep the attention probabilities, as a node of the graph.
    """
    queries, keys, values = layer.project(tokens)
    if rows is not None and not layer.pools:
        queries = take_rows(queries, rows)
        mask = None if mask is None else _rows_of_mask(mask, rows)
    elif layer.pools and mask is not None:
        mask = mask[..., :1, :]
    heads, scale = (1, queries.shape[-1] ** -0.5) if single_head else (layer.heads, layer.scale)
    q, k, v = (split_heads(part, heads) for part in (queries, keys, values))
    bias = None if mask is None else mask.to(q)
    if not probabilities:
        # torch's fused kernels are faster, but do not expose the probabilities.
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        return Attended(queries, keys, values, layer.mix(join_heads(mixed)))
    # q is scaled and not the logits, which are more numbers where there are more tokens than channels of a head.
    logits = scale * q @ k.transpose(-1, -2)
    weights = (logits if bias is None else logits + bias).softmax(-1)
    return Attended(queries, keys, values, layer.mix(join_heads(weights @ v)), weights)


def take_rows(tokens: Tensor, rows: Tensor) -> Tensor:
    """Row rows[b] of each item: tokens (B,N,C), rows (B,) -> (B,1,C)."""
    return tokens[torch.arange(len(tokens), device=tokens.device), rows.to(tokens.device)][:, None]


def _rows_of_mask(mask: Tensor, rows: Tensor) -> Tensor:
    """(b,1,N,N) or (b,1,1,N) -> (B,1,1,N)"""
    if mask.shape[-2] == 1:
        return mask
    wide = mask.expand(len(rows), -1, -1, -1)
    return wide[torch.arange(len(rows), device=mask.device), :, rows.to(mask.device)][:, :, None]


def run_layer(layer: AttentionLayer, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens (B,N,C) after one layer; (B,1,C') after attention pooling."""
    return layer.finish(tokens, layer.out(attend(layer, tokens, mask).mixed))


def run_layers(layers: Sequence[AttentionLayer], tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens (B,N,C) after several layers."""
    for layer in layers:
        tokens = run_layer(layer, tokens, mask)
    return tokens


@contextmanager
def entering_layers(transformer: Transformer) -> Iterator[list[list[Tensor]]]:
    """Record what enters each layer while the network's own forward pass runs inside.

    Yields:
        One list per layer, which the forward pass fills: the tokens (B,N,C) of every time that the layer runs.
    """
    entered: list[list[Tensor]] = [[] for _ in transformer.layers]
    handles = []
    try:
        for layer, tokens in zip(transformer.layers, entered, strict=True):
            entry = layer.modules[0] if layer.entry is None else layer.entry
            # with_kwargs, because some networks pass their tokens by name.
            handles.append(entry.register_forward_pre_hook(_recorder(layer, tokens), with_kwargs=True))
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def _recorder(layer: AttentionLayer, entered: list[Tensor]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        # A copy, because a later layer may work in place.
        entered.append(layer.entering(tensor.detach()).clone())

    return record


def check_layer_rows(transformer_pass: TransformerPass, index: int, tokens: Tensor, mixed: Tensor) -> None:
    """Refuse a layer that, run by itself, does not give what entered the next one in the network's own forward pass.

    Two rows are compared, which costs next to nothing: the first, and one in the middle.

    Args:
        transformer_pass: The pass.
        index: The layer's; nothing is known of what follows the last one but the embedding, which the pass was checked for.
        tokens: (B,N,C) its input.
        mixed: (B,N,E) of `attend`.

    Raises:
        WhyboxError: They differ by more than their precision explains.
    """
    if index + 1 >= len(transformer_pass.tokens) or transformer_pass.transformer.layers[index].pools:
        return
    layer, rows = transformer_pass.transformer.layers[index], [0, tokens.shape[1] // 2]
    with torch.no_grad():
        after = layer.finish(tokens[:, rows], layer.out(mixed[:, rows]))
        follows = transformer_pass.tokens[index + 1][:, rows]
    if reason := difference(follows, after):
        raise WhyboxError(f"{layer.name}, run by itself, does not reproduce the model's forward pass ({reason})")


def check_layers(transformer_pass: TransformerPass, start: int) -> None:
    """Refuse layers from `start` on that, run one by one, do not give the embedding of the network's own forward pass.

    Raises:
        WhyboxError: They do not.
    """
    with torch.no_grad():
        embedding = embedding_from(transformer_pass, start, widened(transformer_pass.tokens[start]))
    if reason := difference(transformer_pass.embedding, embedding):
        raise WhyboxError(f"the layers from {start} on, run one by one, do not reproduce the model's forward pass ({reason})")


def difference(whole: Tensor, pieces: Tensor) -> str:
    """How rows (...,D) of the layers run one by one differ from those of the network's own forward pass; "" where they do not,
    but for what their precision explains."""
    if not whole.numel():
        return ""
    whole, pieces = whole.detach(), pieces.detach()
    # The coarser of the two says how far rounding may go.
    exact = min((whole.dtype, pieces.dtype), key=lambda kind: torch.finfo(kind).bits)
    whole, layered = whole.float(), pieces.float()
    away = float(((whole - layered).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-12)).amax())
    # "not <=" and not ">", so that NaN is a difference.
    # bfloat16 keeps 8 bits, an error of up to 0.2 % in each operation, and a layer has many.
    if not away <= (1e-3 if torch.finfo(exact).bits >= 32 else 5e-2):
        return f"it differs by {away:.2g} of its length"
    return ""


def read_embedding(transformer: Transformer, tokens: Tensor, row: Tensor) -> Tensor:
    """(B,D) from the tokens (B,N,C) after the last layer; row (B,) as in TransformerPass."""
    return transformer.read(tokens if transformer.pooling == "mean" else take_rows(tokens, row))


def embedding_from(transformer_pass: TransformerPass, start: int, tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Run the encoder from layer `start` on.

    Args:
        transformer_pass: The stored pass.
        start: The first layer that is run.
        tokens: (B,N,C) its input.
        mask: Additive attention mask; None: the pass's.

    Returns:
        The embeddings (B,D).
    """
    transformer = transformer_pass.transformer
    mask = transformer_pass.mask if mask is None else mask
    after = run_layers(transformer.layers[start:], tokens, mask)
    # One pass may be resumed with several versions of its tokens at once.
    row = transformer_pass.row if len(transformer_pass.row) == len(after) else transformer_pass.row.expand(len(after))
    return read_embedding(transformer, after, row)


@contextmanager
def in_float32(*modules: nn.Module) -> Iterator[None]:
    """Inside, the modules' half-precision weights and buffers are float32, and the caller's autocast is off; afterwards they
    are the same tensors as before."""
    # `.data` is swapped and put back: `.float()` and `.half()` would leave the weights in new memory.
    kept: list[tuple[Tensor, Tensor]] = []
    # Autocast would round the operations again that the weights are widened for. "meta" has no autocast.
    devices = {weight.device.type for module in modules for weight in module.parameters()}
    try:
        for module in modules:
            for weight in [*module.parameters(), *module.buffers()]:
                if weight.is_floating_point() and weight.dtype in (torch.float16, torch.bfloat16):
                    # A weight that two modules share comes twice, and is float32 the second time.
                    kept.append((weight, weight.data))
                    weight.data = weight.data.float()
        with ExitStack() as stack:
            for device in devices - {"meta"}:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for weight, data in kept:
            weight.data = data


def modules_from(transformer: Transformer, start: int) -> tuple[nn.Module, ...]:
    """The modules used from layer `start` on."""
    return tuple(part for layer in transformer.layers[start:] for part in layer.modules) + transformer.modules


def loosened_attention(query: Tensor, keys: Tensor, kept: Tensor | slice, *, normalize: bool = True) -> Tensor:
    """Grad-ECLIP's spatial weight: cos(q, k), or q k, min-max scaled over the kept keys.

    Args:
        query: q (B,1,E).
        keys: k (B,N,E).
        kept: A slice, or a mask (B,N).
        normalize: Whether it is the cosine.

    Returns:
        (B,N) in 0..1; 0 for keys that are not kept, 1 for all kept keys where their values are equal.

    Source: Zhao et al., Grad-ECLIP, ICML 2024, the spatial weight.
    """
    likeness = cosine_similarity(query, keys, dim=-1) if normalize else (query * keys).sum(-1)
    inside = torch.zeros_like(likeness, dtype=torch.bool)
    if isinstance(kept, slice):
        inside[:, kept] = True
    else:
        inside = kept.to(likeness.device)
    low = likeness.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    high = likeness.masked_fill(~inside, -torch.inf).amax(-1, keepdim=True)
    spread = high - low
    # The inner where keeps the division finite: a NaN in the branch not taken would still reach the gradient.
    scaled = torch.where(spread > 0, (likeness - low) / torch.where(spread > 0, spread, 1), 1)
    return torch.where(inside, scaled, 0)
