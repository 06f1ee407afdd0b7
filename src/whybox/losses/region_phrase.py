"""SFF-CLIP's losses: phrases are matched with the regions that a CLIP's own heat maps point at, and captions with images."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from whybox.errors import WhyboxError, unknown

MAPS = ("grad_eclip", "gradcam", "maskclip", "none")
CLAMP = 1e-6
"""The paper states no clamp, and a cosine may be 0 or negative, where its logarithm is not defined."""


def region_phrase_loss(
    similarity: Tensor,
    weights: Tensor,
    *,
    negatives: Tensor | None = None,
    clamp: float = CLAMP,
    tangent: float | None = None,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """L = -sum_t w_t ((1 - S_tt)^2 log S_tt + sum_{t' != t} S_tt'^2 log(1 - S_tt')), of regions t and phrases t'.

    Where a similarity is clamped, no gradient flows to it: with `tangent=None`, a region whose S_tt is negative is not pulled to
    its phrase.

    Args:
        similarity: S (T,T), the cosine of region t with phrase t'.
        weights: w (T,); 0 for a phrase that does not count.
        negatives: (T,T) booleans, which phrases t' count as false of region t; None: all but t.
        clamp: S is clamped to clamp..1-clamp.
        tangent: Below this S_tt the logarithm goes on as its tangent, which has a gradient for negative cosines, too; None: it
            does not, as in the paper.
        reduction: "sum" over t as in the paper, or "mean", the sum divided by T.

    Returns:
        A scalar, at least in float32; 0, with a graph, where there are no phrases.

    Raises:
        WhyboxError: Shapes or options do not fit.

    Source: Zhao, Lin, Chan, Hsiao: Fine-grained CLIP fine-tuning with self-annotated region alignment (SFF-CLIP), 2026.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or weights.shape != similarity.shape[:1]:
        raise WhyboxError(f"expected similarities (T,T) and weights (T,), got {(*similarity.shape,)} and {(*weights.shape,)}")
    _check(clamp, tangent)
    if reduction not in ("sum", "mean"):
        raise unknown("reduction", reduction, ("sum", "mean"))
    precise = torch.promote_types(similarity.dtype, torch.float32)
    # Autocast would compute powers and logarithms of half-precision cosines, where 1 - 1e-6 is 1.
    with torch.autocast(similarity.device.type, enabled=False):
        bounded = similarity.to(precise).clamp(clamp, 1 - clamp)
        own = torch.eye(len(bounded), dtype=torch.bool, device=bounded.device)
        others = ~own if negatives is None else negatives & ~own
        matching = (1 - bounded.diagonal()).square() * _logarithm(similarity.diagonal().to(precise), clamp, tangent)
        apart = torch.where(others, bounded.square() * torch.log1p(-bounded), 0).sum(1)
        loss = -(weights.to(precise) * (matching + apart)).sum()
        return loss / max(1, len(bounded)) if reduction == "mean" else loss


def _logarithm(similarity: Tensor, clamp: float, tangent: float | None) -> Tensor:
    """log S of clamped S, or of S above `tangent` and the tangent below."""
    if tangent is None:
        return similarity.clamp(clamp, 1 - clamp).log()
    line = math.log(tangent) + (similarity - tangent) / tangent
    return torch.where(similarity < tangent, line, similarity.clamp(tangent, 1 - clamp).log())


def _check(clamp: float, tangent: float | None) -> None:
    if not 0 < clamp < 0.5:
        raise WhyboxError(f"clamp must lie between 0 and 0.5, got {clamp}")
    if tangent is not None and not clamp < tangent < 1 - clamp:
        raise WhyboxError(f"tangent must lie between clamp ({clamp}) and 1 - clamp, got {tangent}")


def pair_weights(logits: Tensor, gamma: float = 0.4) -> Tensor:
    """w = gamma p + (1 - gamma), p the probability that a momentum model gives a pair of an image and its caption.

    Args:
        logits: (B,B) of the momentum model, images by captions; pairs are on the diagonal.
        gamma: The share of the probability.

    Returns:
        (B,), without a graph. p is the mean of the softmax over the captions and of that over the images.

    Source: SFF-CLIP, see `region_phrase_loss`; the paper does not say over which of the two the softmax goes.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        likely = (wide.softmax(1).diagonal() + wide.softmax(0).diagonal()) / 2
        return gamma * likely + (1 - gamma)


def contrastive_loss(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: -1/(2B) sum_i w_i (log softmax_j(l_ij)_i + log softmax_j(l_ji)_i).

    Args:
        logits: l (B,B), scaled cosines of images with captions; pairs are on the diagonal.
        weights: w (B,) of the pairs; None: 1.

    Returns:
        A scalar, at least in float32.

    Raises:
        WhyboxError: Shapes do not fit.

    Source: Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, figure 3; the
    weights are SFF-CLIP's.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or (weights is not None and weights.shape != logits.shape[:1]):
        given = "none" if weights is None else tuple(weights.shape)
        raise WhyboxError(f"expected logits (B,B) and weights (B,), got {tuple(logits.shape)} and {given}")
    with torch.autocast(logits.device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        pairs = torch.arange(len(wide), device=wide.device)
        each = (cross_entropy(wide, pairs, reduction="none") + cross_entropy(wide.T, pairs, reduction="none")) / 2
        return (each if weights is None else weights.to(wide.dtype) * each).sum() / max(1, len(wide))


@dataclass(frozen=True)
class RegionPhrase:
    """Options of CLIP fine-tuning with its own explanations: SFF-CLIP's, but for `reduction` and `repeats`; see `of_form`.

    Attributes:
        maps: Whose heat maps say where a phrase's region is: "grad_eclip", "gradcam", "maskclip"; "none": the contrastive loss
            alone.
        weight: The factor of the region-phrase loss; 0: the contrastive loss alone.
        presence: The weight of a phrase: "max", the maximum of its map, whose scale depends on the method and the model;
            "relative", the same divided by its mean over the step's phrases; or "constant", 1.
        momentum: Whether pairs of the contrastive loss are weighted by a momentum model.
        gamma: See `pair_weights`.
        momentum_rate: The share of the trained weights that the momentum model takes over after each epoch.
        clamp: See `region_phrase_loss`.
        tangent: See `region_phrase_loss`.
        reduction: See `region_phrase_loss`. The paper writes a sum; its gradient is many times the contrastive loss's, which is a
            mean, and grows with the batch.
        repeats: What a phrase of another region is that has the same words: "left out" of the sum over t', or "negative", as in
            the formula.
    """

    maps: Literal["grad_eclip", "gradcam", "maskclip", "none"] = "grad_eclip"
    weight: float = 1.0
    presence: Literal["max", "relative", "constant"] = "max"
    momentum: bool = True
    gamma: float = 0.4
    momentum_rate: float = 0.005
    clamp: float = CLAMP
    tangent: float | None = None
    reduction: Literal["sum", "mean"] = "mean"
    repeats: Literal["left out", "negative"] = "left out"

    name: ClassVar[str] = "region_phrase"
    title: ClassVar[str] = "SFF-CLIP"
    source: ClassVar[str] = "Zhao, Lin, Chan, Hsiao: SFF-CLIP, arXiv 2607.13661"
    needs: ClassVar[frozenset[str]] = frozenset({"captions"})
    command: ClassVar[str] = "whybox finetune-clip"

    def __post_init__(self) -> None:
        for option, known in (
            ("maps", MAPS),
            ("presence", ("max", "relative", "constant")),
            ("reduction", ("sum", "mean")),
            ("repeats", ("left out", "negative")),
        ):
            if getattr(self, option) not in known:
                raise unknown(option, str(getattr(self, option)), known)
        if self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
        for option in ("gamma", "momentum_rate"):
            if not 0 <= getattr(self, option) <= 1:
                raise WhyboxError(f"{option} must lie in 0..1, got {getattr(self, option)}")
        _check(self.clamp, self.tangent)

    @property
    def regions(self) -> bool:
        """Whether phrases are matched with regions."""
        return self.maps != "none" and self.weight > 0


FORMS: dict[str, dict[str, object]] = {"sff": {}, "earlier": {"presence": "constant", "momentum": False}}
"""Options by the form of the recipe: SFF-CLIP's, and that of the first version of Grad-ECLIP's journal paper."""


def of_form(form: str, **options: object) -> RegionPhrase:
    """The options of a form of the recipe.

    Args:
        form: A key of `FORMS`.
        **options: Options that differ from the form's.

    Returns:
        All options.

    Raises:
        UnknownNameError: No form has this name.
        WhyboxError: An option has a value that it cannot have.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    return RegionPhrase(**{**FORMS[form], **options})  # type: ignore[arg-type]
