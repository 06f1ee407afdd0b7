"""Autograd graphs: their nodes, and batch norms through which torch's own gradient is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

_NORM = "NativeBatchNormBackward0"
"""Batch norm on a CPU, in evaluation mode too; an instance norm is one."""


def nodes_behind(*values: Tensor) -> Iterator[Any]:
    """The nodes of the autograd graph that the values come from, each once."""
    seen, ahead = set(), [tensor.grad_fn for tensor in values]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        ahead += [following for following, _ in node.next_functions]


@contextmanager
def sound_norms(*values: Tensor) -> Iterator[None]:
    """Inside, gradients of the values pass batch norms in the memory order of the norm's input.

    On a CPU torch (2.4 to 2.12) reads a gradient (1,C,h,w) whose numbers lie in channels-last order as if they lay in the
    input's, and gives other numbers without a message. A map that becomes tokens has such a gradient: the necks of RT-DETR,
    D-FINE and OmDet-Turbo, each a convolution, a norm and `flatten(2).transpose(1, 2)`.
    """
    norms = [node for node in nodes_behind(*values) if node.name() == _NORM] if values[0].device.type == "cpu" else []
    handles = [node.register_prehook(partial(_in_order_of, node)) for node in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_order_of(norm: Any, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    gradient, *others = gradients
    if gradient is None:
        return gradients
    if gradient.ndim == 4 and not norm._saved_input.is_contiguous():
        # Not by its memory_format, which batched gradients do not know.
        ordered = gradient.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    else:
        ordered = gradient.contiguous()
    return ordered, *others
