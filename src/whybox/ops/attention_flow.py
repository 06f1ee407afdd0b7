"""The attention probabilities of a transformer's pass, and how they carry what is read back to the tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from whybox.attention import TransformerPass
from whybox.errors import GradientError, WhyboxError
from whybox.ops.gradients import gradients_on
from whybox.ops.hooks import frozen
from whybox.ops.transformer import attend, in_float32, read_embedding


@contextmanager
def ready(*modules: nn.Module) -> Iterator[None]:
    """Inside, the modules are frozen and in float32, and gradients are recorded."""
    try:
        with in_float32(*modules), frozen(nn.ModuleList(modules)), gradients_on():
            yield
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise GradientError("the model's weights were made under torch.inference_mode, which no gradient can pass") from error


def layer_attention(transformer_pass: TransformerPass, index: int) -> Tensor:
    """The probabilities (B,heads,n,N) of one layer, without a graph."""
    layer = transformer_pass.transformer.layers[index]
    with ready(*layer.modules), torch.no_grad():
        attended = attend(layer, transformer_pass.tokens[index].float(), transformer_pass.mask, probabilities=True)
    assert attended.probabilities is not None
    return attended.probabilities


def live_attention(transformer_pass: TransformerPass, start: int) -> tuple[list[Tensor], Tensor]:
    """The probabilities (B,heads,n,N) of every layer from `start` on, in the graph of the embeddings (B,D), and these."""
    tokens, found = transformer_pass.tokens[start].detach().float().requires_grad_(), []
    for layer in transformer_pass.transformer.layers[start:]:
        attended = attend(layer, tokens, transformer_pass.mask, probabilities=True)
        assert attended.probabilities is not None
        found.append(attended.probabilities)
        tokens = layer.finish(tokens, layer.out(attended.mixed))
    return found, read_embedding(transformer_pass.transformer, tokens, transformer_pass.row)


def rows_read(transformer_pass: TransformerPass) -> Tensor:
    """(B,n) the part that each row after the last layer has in what is read: one row's alone, or all patches' alike."""
    last, (batch, count, _) = transformer_pass.transformer.layers[-1], transformer_pass.tokens[-1].shape
    if last.pools:
        return transformer_pass.embedding.new_ones((batch, 1), dtype=torch.float32)
    if transformer_pass.transformer.pooling == "mean":
        # Class and register tokens have no part in the mean of any of the families.
        shares = transformer_pass.embedding.new_zeros((batch, count), dtype=torch.float32)
        shares[:, transformer_pass.patches] = 1 / shares[:, transformer_pass.patches].shape[1]
        return shares
    return one_hot(transformer_pass.row, count).to(transformer_pass.embedding.device, torch.float32)


def flow_back(read: Tensor, attention: Sequence[Tensor]) -> Tensor:
    """read (B,n) times the product of the layers' matrices (B,n,N), the first layer's first in `attention` -> (B,N).

    From the last layer down, so that only vectors are multiplied with matrices.
    """
    for matrix in reversed(attention):
        read = (read[:, None] @ matrix)[:, 0]
    return read


def check_layer(option: str, value: int, depth: int) -> int:
    """The number of one of `depth` layers, counted from 0; a negative one counts from the end."""
    if not -depth <= value < depth:
        raise WhyboxError(f"{option} must be from 0 to {depth - 1}, or from -1 down to {-depth}, for {depth} layers; got {value}")
    return value % depth


def maps_on_grid(values: Tensor, transformer_pass: TransformerPass) -> tuple[Tensor, ...]:
    """Values (n,N) of an image's tokens -> n maps (h,w) of its patches."""
    assert transformer_pass.grid is not None
    return tuple(values[:, transformer_pass.patches].reshape(-1, *transformer_pass.grid))


def own_tokens(values: Tensor, transformer_pass: TransformerPass) -> tuple[Tensor, ...]:
    """Values (T,N) of texts' tokens -> of each text its own tokens', in order."""
    assert transformer_pass.words is not None
    return tuple(one[own] for one, own in zip(values, transformer_pass.words, strict=True))


def chosen_texts(transformer_pass: TransformerPass, labels: Tensor) -> TransformerPass:
    """The pass of texts `labels` (n,) alone, one item each."""
    rows = labels.to(transformer_pass.row.device)
    mask = (
        transformer_pass.mask if transformer_pass.mask is None or len(transformer_pass.mask) == 1 else transformer_pass.mask[rows]
    )
    words = None if transformer_pass.words is None else transformer_pass.words[rows]
    tokens = tuple(one[rows] for one in transformer_pass.tokens)
    return replace(
        transformer_pass,
        tokens=tokens,
        row=transformer_pass.row[rows],
        embedding=transformer_pass.embedding[rows],
        mask=mask,
        words=words,
    )
