"""The attention probabilities of a transformer's pass, and their propagation from the row that is read to the tokens."""

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
from whybox.ops.transformer import attend, check_layer_rows, in_float32, read_embedding, widened


@contextmanager
def ready(*modules: nn.Module) -> Iterator[None]:
    """Inside, the modules are frozen and in float32, and gradients are recorded.

    Raises:
        GradientError: The modules' weights are inference tensors.
    """
    try:
        # The modules in use alone: the rest of the network may stay in half precision.
        with in_float32(*modules), frozen(nn.ModuleList(modules)), gradients_on():
            yield
    except RuntimeError as error:
        # torch raises a plain RuntimeError whose message has "Inference" or "inference".
        if "nference tensor" not in str(error):
            raise
        raise GradientError("the model's weights were made under torch.inference_mode, which no gradient can pass") from error


def layer_attention(transformer_pass: TransformerPass, index: int) -> Tensor:
    """The attention probabilities (B,heads,n,N) of one layer, without a graph."""
    layer = transformer_pass.transformer.layers[index]
    with ready(*layer.modules), torch.no_grad():
        tokens = widened(transformer_pass.tokens[index])
        attended = attend(layer, tokens, transformer_pass.mask, probabilities=True)
        check_layer_rows(transformer_pass, index, tokens, attended.mixed)
    assert attended.probabilities is not None
    return attended.probabilities


def live_attention(transformer_pass: TransformerPass, start: int) -> tuple[list[Tensor], Tensor]:
    """Run the layers from `start` on with gradients.

    Args:
        transformer_pass: The stored pass.
        start: The first layer that is run.

    Returns:
        The attention probabilities (B,heads,n,N) of each layer, nodes of the embeddings' graph, and the embeddings (B,D).
    """
    tokens, probabilities = widened(transformer_pass.tokens[start].detach()).clone().requires_grad_(), []
    for index, layer in enumerate(transformer_pass.transformer.layers[start:], start):
        attended = attend(layer, tokens, transformer_pass.mask, probabilities=True)
        check_layer_rows(transformer_pass, index, tokens, attended.mixed)
        assert attended.probabilities is not None
        probabilities.append(attended.probabilities)
        tokens = layer.finish(tokens, layer.out(attended.mixed))
    return probabilities, read_embedding(transformer_pass.transformer, tokens, transformer_pass.row)


def rows_read(transformer_pass: TransformerPass) -> Tensor:
    """(B,n) the weight of each row after the last layer in what is read: 1 for one row, or the same for all patches."""
    last, (batch, count, _) = transformer_pass.transformer.layers[-1], transformer_pass.tokens[-1].shape
    if last.pools:
        # An attention pooling head has one row, its learned query's.
        return transformer_pass.embedding.new_ones((batch, 1), dtype=torch.float32)
    if transformer_pass.transformer.pooling == "mean":
        # In every supported family the mean excludes class and register tokens.
        shares = transformer_pass.embedding.new_zeros((batch, count), dtype=torch.float32)
        shares[:, transformer_pass.patches] = 1 / shares[:, transformer_pass.patches].shape[1]
        return shares
    return one_hot(transformer_pass.row, count).to(transformer_pass.embedding.device, torch.float32)


def flow_back(read: Tensor, attention: Sequence[Tensor]) -> Tensor:
    """The product of read and the layers' attention matrices.

    Args:
        read: (B,n) the weight of each row in what is read.
        attention: (B,n,N) per layer, the first layer first.

    Returns:
        (B,N)
    """
    # From the last layer down: vectors times matrices, instead of products of matrices.
    for matrix in reversed(attention):
        read = (read[:, None] @ matrix)[:, 0]
    return read


def check_layer(option: str, value: int, depth: int) -> int:
    """The index of one of `depth` layers, counted from 0; a negative value counts from the end."""
    if not -depth <= value < depth:
        raise WhyboxError(f"{option} must be from 0 to {depth - 1}, or from -1 down to {-depth}, for {depth} layers; got {value}")
    return value % depth


def maps_on_grid(values: Tensor, transformer_pass: TransformerPass) -> tuple[Tensor, ...]:
    """Values (n,N) of an image's tokens -> n maps (h,w) of its patches."""
    assert transformer_pass.grid is not None
    return tuple(values[:, transformer_pass.patches].reshape(-1, *transformer_pass.grid))


def own_tokens(values: Tensor, transformer_pass: TransformerPass) -> tuple[Tensor, ...]:
    """Values (T,N) at all positions -> for each text the values of its own tokens, in order."""
    assert transformer_pass.words is not None
    return tuple(text_values[own] for text_values, own in zip(values, transformer_pass.words, strict=True))


def chosen_texts(transformer_pass: TransformerPass, labels: Tensor) -> TransformerPass:
    """The pass of the texts `labels` (n,), one item each."""
    rows = labels.to(transformer_pass.row.device)
    mask = (
        transformer_pass.mask if transformer_pass.mask is None or len(transformer_pass.mask) == 1 else transformer_pass.mask[rows]
    )
    words = None if transformer_pass.words is None else transformer_pass.words[rows]
    tokens = tuple(entering[rows] for entering in transformer_pass.tokens)
    return replace(
        transformer_pass,
        tokens=tokens,
        row=transformer_pass.row[rows],
        embedding=transformer_pass.embedding[rows],
        mask=mask,
        words=words,
    )
