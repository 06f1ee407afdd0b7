"""M2IB: an information bottleneck that replaces features by noise wherever the image-text match does not need them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from whybox.attention import ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.ops.gradients import check_connected, gradients_on
from whybox.ops.hooks import frozen
from whybox.ops.transformer import check_layers, embedding_from, in_float32, modules_from, widened
from whybox.types import Detections, HeatMaps, Target, Trace

DEPTH = 10 / 12
"""The share of the layers before the bottleneck: the paper's layer 9, counted from 0, is the tenth of 12."""


def m2ib_map(tokens: Tensor, alpha: Tensor, variance: float = 1.0) -> Tensor:
    """KL[N(lam x, (1 - lam)^2 var) || N(0, var)] with lam = sigmoid(alpha), summed over the channels, in nats: the information
    that each token keeps.

    Args:
        tokens: x (N,C).
        alpha: (N,C).
        variance: var, of the noise.

    Returns:
        (N,)

    Source: Wang, Rudner, Wilson, M2IB, NeurIPS 2023, the compression term, after Schulz et al., ICLR 2020. The published code
    takes N(0, 1) as the prior; that is the same at variance 1.
    """
    return _divergence(tokens, alpha, variance).sum(-1)


def _divergence(tokens: Tensor, alpha: Tensor, variance: float) -> Tensor:
    """The KL divergence of every entry, (N,C)."""
    # log(1 - lam) by logsigmoid, which stays finite where lam rounds to 1.
    passing = 2 * logsigmoid(-alpha)
    # KL of N(mu, s var) and N(0, var): 0.5 (mu^2 / var + s - log s - 1), with s = (1 - lam)^2.
    return 0.5 * ((alpha.sigmoid() * tokens).square() / variance + passing.exp() - passing - 1)


@dataclass(frozen=True)
class M2ib(Method):
    """M2IB, for the tokens of the image and for those of the text.

    A token becomes lam x + (1 - lam) noise; lam, one number per channel, minimizes beta * mean KL - value, the target's value
    averaged over the noise.

    Attributes:
        beta: Weight of the information term.
        variance: Variance of the noise.
        lr: Learning rate of Adam.
        steps: Steps of Adam.
        batch: Noise samples per step.
        alpha: The initial logit of lam.
        seed: Seed of the noise, the same for every detection and on every device.
        layer: The bottleneck is inserted after this layer, counted from 0; None: the paper's 9 for 12 layers, and the same
            relative depth elsewhere, with at least one layer after it.
    """

    beta: float = 0.1
    variance: float = 1.0
    lr: float = 1.0
    steps: int = 10
    batch: int = 10
    alpha: float = 5.0
    seed: int = 0
    layer: int | None = None

    name: ClassVar[str] = "m2ib"
    title: ClassVar[str] = "M2IB"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer", "text"})
    source: ClassVar[str] = "Wang, Rudner, Wilson: Multi-Modal Information Bottleneck Attribution, NeurIPS 2023"

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("variance", "lr"):
            if getattr(self, name) <= 0:
                raise WhyboxError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.layer is not None and (type(self.layer) is not int or self.layer < 0):
            raise WhyboxError(f"layer must be a layer's number from 0 on, got {self.layer!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """Fit a bottleneck per detection and target; the map is the information that each patch keeps.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each, in nats.

        Raises:
            WhyboxError: `layer` leaves no layer after the bottleneck.
        """
        with torch.inference_mode(False):
            transformer_pass = model.transformer(trace)
            everything = torch.ones_like(transformer_pass.tokens[0][0, :, 0], dtype=torch.bool)
            items = [_Item(transformer_pass, everything, transformer_pass.patches)] * len(detections)
            grid = transformer_pass.grid
            assert grid is not None
            maps = [[values.reshape(grid) for values in self._explain(model, items, detections, target)] for target in targets]
        return [self.heat_maps(native, trace.frame, target) for native, target in zip(maps, targets, strict=True)]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """Fit a bottleneck per text and target; the map is the information that each token keeps, in nats.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The T scalars to explain.

        Returns:
            T TokenMaps of N texts each; map i is of the text that is detection i's label.
        """
        labels = detections.labels.tolist()
        texts = tuple(model.texts[label] for label in labels)
        with torch.inference_mode(False):
            transformer_pass = model.text_transformer(trace, detections.labels)
            items = [_text_alone(transformer_pass, i) for i in range(len(labels))]
            explained = [self._explain(model, items, detections, target) for target in targets]
        return [self.token_maps(values, texts, target) for values, target in zip(explained, targets, strict=True)]

    def _explain(self, model: TransformerModel, items: "Sequence[_Item]", detections: Detections, target: Target) -> list[Tensor]:
        """The information kept in each item's shown tokens, for one target."""
        net: Any = model.network
        # Autograd cannot save inference tensors, which these are where the caller is under inference_mode; clones it can.
        detections = detections.map(Tensor.clone)
        information = []
        for i, item in enumerate(items):
            start = self._start(len(item.transformer_pass.transformer.layers))
            # One copy per noise sample: a target gives row i of the embeddings the value of detection i.
            copies = detections[[i] * self.batch]
            score = lambda embeddings, item=item, copies=copies: target(item.transformer_pass.answer(embeddings, copies))
            with in_float32(*modules_from(item.transformer_pass.transformer, start)), frozen(net), gradients_on():
                information.append(self._fit(item, start, score)[item.shown])
        return information

    def _start(self, depth: int) -> int:
        """The layer whose input the bottleneck changes."""
        if self.layer is None:
            return min(round(DEPTH * depth), depth - 1)
        if self.layer > depth - 2:
            raise WhyboxError(f"layer must leave one of the {depth} layers behind it: at most {depth - 2}, got {self.layer}")
        return self.layer + 1

    def _fit(self, item: "_Item", start: int, score: Callable[[Tensor], Tensor]) -> Tensor:
        """(N,) the information that each token keeps, 0 for those outside the bottleneck."""
        tokens = widened(item.transformer_pass.tokens[start].detach())
        check_layers(item.transformer_pass, start)
        entering = tokens[0, item.inside]
        # At 5, lam is 0.993: the fit starts from a bottleneck that lets almost everything pass.
        alpha = torch.full_like(entering, self.alpha).requires_grad_()
        adam = torch.optim.Adam([alpha], lr=self.lr)
        # On the CPU, so that the noise is the same on every device.
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            noise = self.variance**0.5 * torch.randn((self.batch, *entering.shape), generator=generator).to(entering)
            # A copy, of which padding stays as it is.
            changed = tokens.repeat(self.batch, 1, 1)
            changed[:, item.inside] = alpha.sigmoid() * entering + (1 - alpha.sigmoid()) * noise
            values = score(embedding_from(item.transformer_pass, start, changed))
            check_connected(values, "the bottleneck")
            # The mean over tokens and channels, not the sum: so in the published code, whose beta this is.
            loss = self.beta * _divergence(entering, alpha, self.variance).mean() - values.mean()
            # autograd.grad instead of backward: nothing but alpha may get a .grad.
            (alpha.grad,) = torch.autograd.grad(loss, [alpha])
            adam.step()
        kept = tokens.new_zeros(tokens.shape[1])
        kept[item.inside] = m2ib_map(entering, alpha.detach(), self.variance)
        return kept


@dataclass(frozen=True)
class _Item:
    """One image or text. inside (N,): the tokens in the bottleneck. shown: those whose information is the map."""

    transformer_pass: TransformerPass
    inside: Tensor
    shown: Tensor | slice


def _text_alone(transformer_pass: TransformerPass, index: int) -> _Item:
    """One text of several. All of its tokens are in the bottleneck, start and end included; padding is not, so that the amount
    of padding changes nothing."""
    assert transformer_pass.words is not None
    rows = slice(index, index + 1)
    words, row = transformer_pass.words[index], transformer_pass.row[rows]
    mask = (
        transformer_pass.mask if transformer_pass.mask is None or len(transformer_pass.mask) == 1 else transformer_pass.mask[rows]
    )
    places = torch.arange(len(words), device=words.device)
    last = places[words].amax()
    # words leaves out the start and end tokens: the end follows the last word, or is the row that is read.
    inside = (places <= last + 1) | (places == row.to(places.device))
    alone = replace(
        transformer_pass,
        tokens=tuple(tokens[rows] for tokens in transformer_pass.tokens),
        row=row,
        embedding=transformer_pass.embedding[rows],
        mask=mask,
    )
    return _Item(alone, inside, words)
