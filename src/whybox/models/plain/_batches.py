"""Several images through a network at once, where its output falls apart into the outputs for single images."""

from typing import Any

import torch
from torch import Tensor, nn

from whybox.network_state import fingerprint
from whybox.ops.hooks import map_tensors, tensors_in


class Batches:
    """Whether a network takes batches is seen by the first batch of a size, and kept for the others in the same state of it."""

    def __init__(self) -> None:
        self._taken: dict[Any, bool] = {}

    def __call__(self, network: nn.Module, canvases: Tensor) -> list[Any]:
        """The network's output for each canvas (B,C,h,w), as for a batch of one."""
        count, kind = len(canvases), (tuple(canvases.shape), fingerprint(network))
        if count == 1 or self._taken.get(kind) is False:
            return [network(canvas[None]) for canvas in canvases]
        together = network(canvases)
        outputs = [_sample(together, i, count) for i in range(count)]
        if kind not in self._taken:
            # The last one is compared: a network that reads the first image alone would pass with that.
            # Of one kind alone: what was seen in another state of the network is of no use.
            self._taken = {kind: _same(outputs[-1], network(canvases[-1:]))}
        if self._taken[kind]:
            return outputs
        return [network(canvas[None]) for canvas in canvases]


def _sample(output: Any, i: int, count: int) -> Any:
    """The output for one image of a batch, its batch axis kept."""
    return map_tensors(output, lambda tensor: tensor[i : i + 1] if tensor.ndim and len(tensor) == count else tensor)


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors, but for rounding; outputs without tensors are never the same."""
    a, b = tensors_in(one), tensors_in(other)
    return len(a) == len(b) > 0 and all(
        x.shape == y.shape and torch.allclose(x.float(), y.float(), rtol=1e-3, atol=1e-4) for x, y in zip(a, b, strict=True)
    )
