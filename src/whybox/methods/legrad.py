"""LeGrad: the gradient of each layer's readout with respect to its attention probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.attention import AttentionLayer, TransformerModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.ops.attention_flow import maps_on_grid, ready
from whybox.ops.gradients import gradients_on, row_gradients
from whybox.ops.maps import ordinary
from whybox.ops.transformer import attend, check_layer_rows, widened
from whybox.types import Detections, HeatMaps, Target, Trace


def legrad_map(gradient: Tensor) -> Tensor:
    """E_j = mean over heads h and rows i of ReLU(ds/dA_hij).

    Args:
        gradient: ds/dA (heads,n,N) of one layer.

    Returns:
        (N,)

    Source: Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025.
    """
    return gradient.relu().mean((0, 1))


@dataclass(frozen=True)
class LeGrad(Method):
    """LeGrad, summed over layers.

    The score of a layer is the target's value for the embedding read from the mean of the tokens after that layer. Where the
    model has attention pooling, the tokens after each layer are pooled, and the gradient is taken at the pooling's
    probabilities.

    Attributes:
        layers: How many of the last attention layers; None: all, as in the paper's formula (the authors' code takes the last
            two by default).
    """

    layers: int | None = None

    name: ClassVar[str] = "legrad"
    title: ClassVar[str] = "LeGrad"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    source: ClassVar[str] = "Bousselham et al.: LeGrad, ICCV 2025"

    def __post_init__(self) -> None:
        if self.layers is not None and (type(self.layers) is not int or self.layers < 1):
            raise WhyboxError(f"layers must be a whole number from 1 on, or None for all, got {self.layers!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.
        """
        with gradients_on():
            transformer_pass = model.transformer(trace)
            maps = self._draw(transformer_pass, ordinary(detections), targets)
        return [
            self.heat_maps(maps_on_grid(values, transformer_pass), trace.frame, target)
            for values, target in zip(maps, targets, strict=True)
        ]

    def _draw(self, transformer_pass: TransformerPass, detections: Detections, targets: Sequence[Target]) -> list[Tensor]:
        """For every target (n,N) over all tokens."""
        if not len(detections):
            return [transformer_pass.embedding.new_zeros((0, transformer_pass.tokens[0].shape[1]))] * len(targets)
        layers = [
            _layer_maps(transformer_pass, layer, tokens, detections, targets)
            for layer, tokens in self._explained(transformer_pass)
        ]
        return [torch.stack(of_target).sum(0) for of_target in zip(*layers, strict=True)]

    def _explained(self, transformer_pass: TransformerPass) -> Iterator[tuple[AttentionLayer, Tensor]]:
        """The attention layers whose gradient is taken, each with the tokens that enter it."""
        layers = transformer_pass.transformer.layers
        pairs = list(zip(layers, transformer_pass.tokens, strict=True))
        if layers[-1].pools:
            # Where pooling is the only layer, no tokens lie between layers: its own input is what is left.
            pairs = [(layers[-1], tokens) for tokens in transformer_pass.tokens[1:]] or pairs
        yield from pairs if self.layers is None else pairs[-self.layers :]


def _layer_maps(
    transformer_pass: TransformerPass, layer: AttentionLayer, tokens: Tensor, detections: Detections, targets: Sequence[Target]
) -> list[Tensor]:
    """For every target the maps (n,N) of one layer; one backward pass through it per detection."""
    transformer = transformer_pass.transformer
    with ready(*layer.modules, *transformer.modules):
        # A leaf: the weights are frozen, so nothing else would put the probabilities into a graph.
        entering = widened(tokens.detach()).clone().requires_grad_()
        attended = attend(layer, entering, transformer_pass.mask, probabilities=True)
        if not layer.pools:
            check_layer_rows(transformer_pass, transformer.layers.index(layer), entering, attended.mixed)
        after = layer.finish(entering, layer.out(attended.mixed))
        # The paper's readout of any layer: the mean of its tokens, through the model's own head.
        embedding = transformer.read(after if transformer.pooling == "mean" else after.mean(1, keepdim=True))
        live = transformer_pass.answer(embedding.expand(len(detections), -1), detections)
        probabilities = attended.probabilities
        assert probabilities is not None
        return [
            torch.stack([legrad_map(row_gradients(value[None], probabilities)[0, 0]) for value in target(live)])
            for target in targets
        ]
