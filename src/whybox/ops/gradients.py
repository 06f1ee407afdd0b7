"""Gradients of many values, one row per value. The `.grad` of the user's parameters is never touched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from whybox.errors import GradientError


@contextmanager
def recording(graph: bool) -> Iterator[None]:
    """Inside, an autograd graph is recorded or not, whatever mode the caller is under. Never yield to a caller from inside."""
    # A generator that yields inside leaves its caller running in this mode.
    # In this order, because inference_mode(False) turns gradients on.
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        yield


@contextmanager
def twice_differentiable(wanted: bool = True) -> Iterator[None]:
    """Inside, attention is computed in a form whose gradient has a gradient."""
    # The fused kernels of scaled_dot_product_attention have no double backward (pytorch/pytorch#116350).
    with sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext():
        yield


@contextmanager
def gradients_on() -> Iterator[None]:
    """Inside, gradients are recorded, also where the caller is under no_grad or inference_mode. As `recording(True)`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def root(values: Tensor, differentiable: bool) -> Tensor:
    """The tensor to take gradients at: itself, a node of its graph, where that graph is needed further down; else a leaf."""
    if differentiable and values.requires_grad:
        return values
    return values.detach().requires_grad_()


def row_gradients(values: Tensor, features: Tensor, *, name: str = "the features", create_graph: bool = False) -> Tensor:
    """dY_i/dA for every value. The graph is retained for further calls.

    Args:
        values: Y (n,).
        features: A, of any shape.
        name: What errors call the features.
        create_graph: Whether the gradient can itself be differentiated.

    Returns:
        (n, *features.shape)

    Raises:
        GradientError: No value depends on the features.
    """
    return level_gradients(values, [features], name=name, create_graph=create_graph)[0]


def level_gradients(
    values: Tensor, features: Sequence[Tensor], *, name: str = "the features", create_graph: bool = False
) -> tuple[Tensor, ...]:
    """dY_i/dA of several feature tensors at once, as `row_gradients`: one (n, *shape) each; zero where Y_i does not depend on
    one of them."""
    if not len(values):
        return tuple(tensor.new_zeros((0, *tensor.shape)) for tensor in features)
    check_connected(values, name)
    with gradients_on():
        rows = [
            # allow_unused: a level of a pyramid that a value does not depend on must not stop the others.
            torch.autograd.grad(value, features, retain_graph=True, create_graph=create_graph, allow_unused=True)
            for value in values
        ]
    if all(gradient is None for row in rows for gradient in row):
        raise _not_connected(name)
    columns = zip(*rows, strict=True)
    return tuple(
        torch.stack([torch.zeros_like(tensor) if gradient is None else gradient for gradient in column])
        for tensor, column in zip(features, columns, strict=True)
    )


def chunk_rows(rows: Tensor, elements: int, *, limit: int = 2**24) -> Iterator[Tensor]:
    """Split row indices (n,) into chunks whose gradients, `elements` numbers per row, hold at most `limit` numbers (64 MiB)."""
    size = max(1, limit // max(1, elements))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def check_connected(values: Tensor, name: str = "the features") -> None:
    """Refuse values that are in no autograd graph."""
    if not values.requires_grad:
        raise _not_connected(name)


def _not_connected(name: str) -> GradientError:
    return GradientError(
        f"the explained value does not depend on {name} through differentiable operations: "
        "a detach, .data, no_grad or an integer operation stands between"
    )
