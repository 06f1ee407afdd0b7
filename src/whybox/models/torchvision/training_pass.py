"""What a torchvision detector does in a training step, seen from outside: which predictions were assigned which object, and their
heat maps and embeddings, from the same forward pass and with its graph."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from whybox.errors import WhyboxError
from whybox.models.torchvision import twostage
from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._training_base import Embedded, Positives, TrainingPass
from whybox.models.torchvision._training_dense import DensePass
from whybox.models.torchvision._training_regions import RegionPass
from whybox.ops.embedding_heads import NAME, embedding_head

__all__ = ["MAPS", "Embedded", "Positives", "TrainingPass", "watched", "watching"]

MAPS = frozenset({"maps"})
"""What a pass is asked for, of "maps" and "embeddings", where nothing is said."""
_DENSE = ("fcos.FCOS", "retinanet.RetinaNet")


def watched(network: Any, needs: Collection[str] = MAPS) -> TrainingPass:
    """A pass of this detector, which has still to run.

    Args:
        network: torchvision's FCOS, RetinaNet, or an R-CNN.
        needs: What the pass will be asked for: "maps", "embeddings", or both.

    Raises:
        WhyboxError: It is another network, its head has layers of which there are no maps, or it has no embedding head.
    """
    kind = module_type(network)
    if kind not in (*_DENSE, *twostage._KINDS):
        raise WhyboxError(
            f"{' and '.join(sorted(needs, reverse=True))} during training are there for torchvision's FCOS, RetinaNet and "
            f"R-CNNs, not for {type(network).__name__}; for another network write a loss on "
            "whybox.trace(model, image, differentiable=True)"
        )
    if "embeddings" in needs and embedding_head(network) is None:
        raise WhyboxError(
            f"this {type(network).__name__} has no {NAME}: add one before the optimizer is made, "
            "whybox.ops.embedding_heads.add_embedding_head(network)"
        )
    return DensePass(network, needs) if kind in _DENSE else RegionPass(network, needs)


@contextmanager
def watching(network: Any, needs: Collection[str] = MAPS) -> Iterator[TrainingPass]:
    """Inside, one call of the network in training mode is watched; afterwards the network is as it was.

    Args:
        network: torchvision's FCOS, RetinaNet, or an R-CNN.
        needs: What the pass will be asked for: "maps", "embeddings", or both.

    Yields:
        The pass; its `positives` or `embedded` are there once the network was called.

    Raises:
        WhyboxError: See `watched`.
    """
    seen = watched(network, needs)
    with ExitStack() as stack:
        seen.watch(stack)
        yield seen
