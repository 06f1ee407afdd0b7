"""LeGrad: how the features that each layer forms depend on its attention, by the gradient alone."""

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
from whybox.ops.transformer import attend
from whybox.types import Detections, HeatMaps, Target, Trace


def legrad_map(gradient: Tensor) -> Tensor:
    """E_j = mean over heads h and rows i of ReLU(ds/dA_hij): gradient (heads,n,N) of one layer -> (N,).

    Source: Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025.
    """
    return gradient.relu().mean((0, 1))


@dataclass(frozen=True)
class LeGrad(Method):
    """LeGrad, summed over the last `layers` attention layers; None: over all of them, as the paper's formula has it (the
    authors' code takes the last two unless told otherwise).

    The value of a layer is the target's, of the embedding that the model would read from the mean of the tokens after that
    layer. Where the model pools by attention, the tokens after each layer are pooled, and the gradient is taken at the pool's
    probabilities.
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
        """One HeatMaps per target."""
        with gradients_on():
            passed = model.transformer(trace)
            maps = self._draw(passed, ordinary(detections), targets)
        return [
            self.heat_maps(maps_on_grid(values, passed), trace.frame, target)
            for values, target in zip(maps, targets, strict=True)
        ]

    def _draw(self, passed: TransformerPass, detections: Detections, targets: Sequence[Target]) -> list[Tensor]:
        """For every target (n,N) over all tokens."""
        if not len(detections):
            return [passed.embedding.new_zeros((0, passed.tokens[0].shape[1]))] * len(targets)
        layers = [_layer_maps(passed, layer, tokens, detections, targets) for layer, tokens in self._explained(passed)]
        return [torch.stack(of_one).sum(0) for of_one in zip(*layers, strict=True)]

    def _explained(self, passed: TransformerPass) -> Iterator[tuple[AttentionLayer, Tensor]]:
        """The attention layers whose gradient is taken, each with the tokens that enter it."""
        layers = passed.transformer.layers
        pairs = list(zip(layers, passed.tokens, strict=True))
        if layers[-1].pools:
            pairs = [(layers[-1], tokens) for tokens in passed.tokens[1:]] or pairs
        yield from pairs if self.layers is None else pairs[-self.layers :]


def _layer_maps(
    passed: TransformerPass, layer: AttentionLayer, tokens: Tensor, detections: Detections, targets: Sequence[Target]
) -> list[Tensor]:
    """For every target the maps (n,N) of one layer; one backward pass through it a detection."""
    transformer = passed.transformer
    with ready(*layer.modules, *transformer.modules):
        entering = tokens.detach().float().requires_grad_()
        attended = attend(layer, entering, passed.mask, probabilities=True)
        after = layer.finish(entering, layer.out(attended.mixed))
        embedding = transformer.read(after if transformer.pooling == "mean" else after.mean(1, keepdim=True))
        live = passed.answer(embedding.expand(len(detections), -1), detections)
        probabilities = attended.probabilities
        assert probabilities is not None
        return [
            torch.stack([legrad_map(row_gradients(value[None], probabilities)[0, 0]) for value in target(live)])
            for target in targets
        ]
