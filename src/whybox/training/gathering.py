"""Tensors of all processes as one, with gradients: a contrastive loss compares the examples of a whole step."""

from typing import Any

import torch
from torch import Tensor, distributed


def gathered(values: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes; the gradient of a row goes to the process that it is from.

    Every process computes the same loss of the same rows, and the gradients of all are summed here: averaged over the processes,
    as DistributedDataParallel does, the weights' gradients are those of one process with all rows.

    Args:
        values: (n,...), of the same shape in every process.

    Returns:
        (processes x n,...); `values` themselves where there is one process.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    rows: Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.count = len(values)
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        # A copy, because the sum is taken in place.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        start = distributed.get_rank() * context.count
        return total[start : start + context.count]
