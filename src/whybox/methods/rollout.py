"""Attention rollout: the product of all layers' attention matrices, with the residual as an identity."""

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
    """0.5 A + 0.5 I: the attention with the residual.

    Args:
        attention: A (B,N,N), the mean over the heads, whose rows sum to 1.

    Returns:
        (B,N,N)

    Source: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3: A = 0.5 W_att + 0.5 I.
    """
    # Half each: the rows still sum to 1, so that attention is passed on whole.
    return 0.5 * attention + 0.5 * torch.eye(attention.shape[-1], device=attention.device, dtype=attention.dtype)


@dataclass(frozen=True)
class Rollout(Method):
    """Attention rollout, read at the class token, at attention pooling's query or at a text's end token.

    It is the same map for every text or class. Attention pooling has no residual: its probabilities are used as they are.
    Where the embedding is a mean over the patches, their rows are averaged.

    Attributes:
        start_layer: The first layer, counted from 0.
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
        """Draw the image's one map, repeated for every detection.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each; all T hold the same maps.
        """
        return image_maps(self, self._draw, model, trace, detections, targets)

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """Draw maps of the texts: one number per token.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The T scalars to explain.

        Returns:
            T TokenMaps of N texts each; all T hold the same values, and map i is of the text that is detection i's label.
        """
        return text_maps(self, self._draw, model, trace, detections, targets)

    def _draw(self, transformer_pass: TransformerPass) -> Tensor:
        """(B,N) over all tokens."""
        start = check_layer("start_layer", self.start_layer, len(transformer_pass.transformer.layers))
        matrices = []
        for i, layer in enumerate(transformer_pass.transformer.layers[start:], start):
            attention = layer_attention(transformer_pass, i).mean(1)
            matrices.append(attention if layer.pools else rollout_matrix(attention))
        return flow_back(rows_read(transformer_pass), matrices)
