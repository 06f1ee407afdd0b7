"""Attention rollout: the attention of all layers multiplied, with the residual counted as looking at oneself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.attention import ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.method import Method
from whybox.methods._attention_alone import image_maps, text_maps
from whybox.ops.attention_flow import (
    check_layer,
    flow_back,
    layer_attention,
    rows_read,
)
from whybox.types import Detections, HeatMaps, Target, Trace


def rollout_matrix(attention: Tensor) -> Tensor:
    """0.5 A + 0.5 I: the mean over the heads (B,N,N), whose rows have sum 1, with the residual.

    Source: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3: A = 0.5 W_att + 0.5 I.
    """
    return 0.5 * attention + 0.5 * torch.eye(attention.shape[-1], device=attention.device, dtype=attention.dtype)


@dataclass(frozen=True)
class Rollout(Method):
    """Attention rollout, over all layers from `start_layer` on, read at the class token, the pooling query or the text's end.

    It is the same map for every text or class. A layer that pools has no residual: its probabilities are taken as they are.
    Where the answer is a mean over the patches, their rows are averaged.
    """

    start_layer: int = 0

    name: ClassVar[str] = "rollout"
    title: ClassVar[str] = "Attention rollout"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    same_for_all: ClassVar[bool] = True
    source: ClassVar[str] = "Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020, section 3"

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """One HeatMaps per target."""
        return image_maps(self, self._draw, model, trace, detections, targets)

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """The texts' side: one TokenMaps per target; detection i stands for the text of its label."""
        return text_maps(self, self._draw, model, trace, detections, targets)

    def _draw(self, passed: TransformerPass) -> Tensor:
        """(B,N) over all tokens."""
        start = check_layer("start_layer", self.start_layer, len(passed.transformer.layers))
        matrices = []
        for i, layer in enumerate(passed.transformer.layers[start:], start):
            attention = layer_attention(passed, i).mean(1)
            matrices.append(attention if layer.pools else rollout_matrix(attention))
        return flow_back(rows_read(passed), matrices)
