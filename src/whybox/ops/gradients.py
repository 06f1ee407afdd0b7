"""Gradients of many values, one row per value. The `.grad` of the user's parameters is never touched."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import prod

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from whybox.errors import GradientError
from whybox.ops.graphs import nodes_behind, sound_norms

_AT_ONCE = {"cpu": 2**22}
"""Numbers in the largest gradient of a batched backward pass. On a CPU, past 16 MiB, it falls out of the cache: rows of RT-DETR's
neck, 13 MiB each, take 1.4 times as long by sixteens as one by one; elsewhere every launch counts, and memory is the limit."""
_AT_ONCE_ELSEWHERE = 2**26

# By torch's words, as it has no classes for these. No batching rule, or one that cannot write into a tensor; compiled code that
# looks at the numbers, which a batched tensor does not have.
_NOT_BATCHED = ("Batching rule not implemented", "vmap", "Cannot access data pointer", "Cannot access storage")
_NO_MEMORY = ("out of memory", "allocate memory")


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


def row_gradients(
    values: Tensor, features: Tensor, *, name: str = "the features", create_graph: bool = False, batched: bool = False
) -> Tensor:
    """dY_i/dA for every value. The graph is retained for further calls.

    Args:
        values: Y (n,).
        features: A, of any shape.
        name: What errors call the features.
        create_graph: Whether the gradient can itself be differentiated.
        batched: Whether several rows may share a backward pass, where every operation has a batched one.

    Returns:
        (n, *features.shape)

    Raises:
        GradientError: No value depends on the features.
    """
    return level_gradients(values, [features], name=name, create_graph=create_graph, batched=batched)[0]


def level_gradients(
    values: Tensor,
    features: Sequence[Tensor],
    *,
    name: str = "the features",
    create_graph: bool = False,
    batched: bool = False,
) -> tuple[Tensor, ...]:
    """dY_i/dA of several feature tensors at once, as `row_gradients`: one (n, *shape) each; zero where Y_i does not depend on
    one of them."""
    if not len(values):
        return tuple(tensor.new_zeros((0, *tensor.shape)) for tensor in features)
    check_connected(values, name)
    with gradients_on(), sound_norms(values):
        found = _in_batches(values, features) if batched and not create_graph else None
        if found is None:
            found = _one_by_one(values, features, create_graph)
    if all(gradient is None for gradient in found):
        raise _not_connected(name)
    return tuple(
        tensor.new_zeros((len(values), *tensor.shape)) if gradient is None else gradient
        for tensor, gradient in zip(features, found, strict=True)
    )


_Found = tuple[Tensor | None, ...]
"""The gradients (n, *shape) of several tensors; None for one that no value depends on."""


def _one_by_one(values: Tensor, features: Sequence[Tensor], create_graph: bool) -> _Found:
    rows = [
        # allow_unused: a level of a pyramid that a value does not depend on must not stop the others.
        torch.autograd.grad(value, features, retain_graph=True, create_graph=create_graph, allow_unused=True)
        for value in values
    ]
    return tuple(
        None
        if all(gradient is None for gradient in column)
        else torch.stack([torch.zeros_like(tensor) if gradient is None else gradient for gradient in column])
        for tensor, column in zip(features, zip(*rows, strict=True), strict=True)
    )


def _in_batches(values: Tensor, features: Sequence[Tensor]) -> _Found | None:
    """As many rows in a backward pass as memory and cache allow; None where that is one, or where it cannot be done."""
    limit = _AT_ONCE.get(values.device.type, _AT_ONCE_ELSEWHERE)
    step = limit // max(_largest_gradient(values), *(tensor.numel() for tensor in features))
    if step < 2 or len(values) < 2:
        return None
    seeds = torch.eye(len(values), dtype=values.dtype, device=values.device)
    try:
        chunks = [
            torch.autograd.grad(values, features, chunk, retain_graph=True, allow_unused=True, is_grads_batched=True)
            for chunk in torch.split(seeds, step)
        ]
    except RuntimeError as error:
        words = str(error)
        first_line, _, _ = words.partition("\n")
        # An error of the network's own comes again from a single gradient, and is raised there.
        if not any(known in words for known in _NOT_BATCHED):
            few = any(known in words for known in _NO_MEMORY)
            reason = "memory does not hold" if few else f"an operation failed ({first_line}) on"
            warnings.warn(
                f"{reason} {min(step, len(values))} gradients at once: they are taken one by one, which takes longer",
                stacklevel=2,
            )
        return None
    return tuple(None if column[0] is None else torch.cat(column) for column in zip(*chunks, strict=True))


def _largest_gradient(values: Tensor) -> int:
    """The numbers in the largest gradient that a backward pass from the values goes through."""
    # The only place where a graph tells of its tensors' sizes; older releases of torch do not.
    shapes = (entry.shape for node in nodes_behind(values) for entry in getattr(node, "_input_metadata", ()))
    return max((prod(shape) for shape in shapes), default=0)


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
