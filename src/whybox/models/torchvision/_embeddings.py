"""Embeddings of a trace's detections, by the network's embedding head, without another pass through the backbone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.embedding_heads import embedding_head
from whybox.ops.gradients import recording
from whybox.ops.hooks import frozen
from whybox.types import Detections, Trace


def embed_from_levels(network: Any, name: str, trace: Trace, detections: Detections) -> Tensor:
    """Embeddings (N,D) at the detections' cells and anchors, for one-stage detectors. The head runs on their levels alone.

    Raises:
        WhyboxError: The network has no head.
    """
    head = _head_of(network, name)
    source, level_of = detections.source, trace.candidates.level[detections.source]
    parts, order, start = [], [], 0
    with frozen(network), recording(False):
        for level, anchors in enumerate(trace.state.anchors):
            rows = (level_of == level).nonzero()[:, 0]
            if len(rows):
                of_level = head([in_precision(trace.features[level].values.detach()[None], head)])[0]
                parts.append(of_level[source[rows] - start])
                order.append(rows)
            start += len(anchors)
    if not parts:
        return trace.features[0].values.new_zeros((0, getattr(head, "size", 1)))
    return torch.cat(parts)[torch.cat(order).argsort()]


def embed_from_regions(network: Any, name: str, pool: Callable[[Tensor], Tensor], trace: Trace, detections: Detections) -> Tensor:
    """Embeddings (N,D) of the detections' regions, for two-stage detectors. The box head runs on these regions alone.

    Args:
        network: The detector.
        name: The model's name.
        pool: Proposals (n,4) -> their pooled features, from the trace's.
        trace: A trace of the model.
        detections: N of its candidates.

    Raises:
        WhyboxError: The network has no head.
    """
    head = _head_of(network, name)
    # A region may be a detection of several classes.
    regions, back = torch.unique(detections.source, return_inverse=True)
    with frozen(network), recording(False):
        boxed = network.roi_heads.box_head(pool(trace.state.proposals[regions]))
        embeddings: Tensor = head(in_precision(boxed, head))
        return embeddings[back]


def in_precision(features: Tensor, head: Any) -> Tensor:
    """Features in the precision of the head's weights."""
    weight = next(head.parameters(), features)
    return features.to(weight.dtype)


def _head_of(network: Any, name: str) -> Any:
    head = embedding_head(network)
    if head is None:
        raise WhyboxError(f"{name} has no embedding head: train one, whybox train --loss feature_margin")
    return head
