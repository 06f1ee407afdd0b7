"""The losses of a CLIP that is fine-tuned with its own heat maps (SFF-CLIP), from one pass over captioned images."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from whybox.data.phrases import TEMPLATE
from whybox.errors import WhyboxError
from whybox.losses.region_phrase import RegionPhrase, contrastive_loss, pair_weights, region_phrase_loss
from whybox.model import Model
from whybox.models._image_text import ImageText
from whybox.models.image_text_pass import ImagePass, check_trainable, image_pass
from whybox.ops.transformer import widened
from whybox.training.caption_batches import CaptionBatch
from whybox.training.gathering import gathered
from whybox.training.phrase_maps import phrase_maps

LARGEST_SCALE = 100.0
"""The largest factor on the cosines, CLIP's."""


@dataclass(frozen=True)
class _Layout:
    """The T phrases of a batch, with the same number of places for every image: processes can only gather tensors of one shape.

    Attributes:
        phrases: T texts.
        owner: (T,) the image of each.
        places: (T,) its place.
        count: The number of places.
    """

    phrases: tuple[str, ...]
    owner: Tensor
    places: Tensor
    count: int

    def placed(self, rows: Tensor) -> Tensor:
        """Rows (T,...) at their places, (count,...); 0 elsewhere."""
        return rows.new_zeros((self.count, *rows.shape[1:])).index_copy(0, self.places, rows)


def _layout(batch: CaptionBatch, device: torch.device) -> _Layout:
    most = max(1, *map(len, batch.phrases))
    # The most of all processes.
    most = int(gathered(torch.tensor([most], device=device)).max())
    rows = [(i, i * most + j) for i, found in enumerate(batch.phrases) for j in range(len(found))]
    owner, places = torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
    return _Layout(tuple(phrase for found in batch.phrases for phrase in found), owner, places, len(batch.phrases) * most)


class RegionPhraseLosses:
    """The losses of a model, with the momentum model that weighs its pairs.

    Attributes:
        model: The model in training.
        options: What the losses are.
        momentum: A slowly changing copy of the model; None where pairs are not weighted.
    """

    def __init__(self, model: Model, options: RegionPhrase) -> None:
        """Check the model, whose weights become single precision if they are half, and make its momentum model.

        Args:
            model: A CLIP with a class token.
            options: What the losses are.

        Raises:
            WhyboxError: The model has no texts, no class token or no temperature.
        """
        if not isinstance(model, ImageText):
            raise WhyboxError(
                f"{model.name} is a {model.kind}: fine-tuning with captions needs a model of images and texts, a CLIP"
            )
        if not isinstance(getattr(model.network, "logit_scale", None), Tensor):
            raise WhyboxError(f"{model.name} has no logit_scale, the temperature of CLIP's contrastive loss")
        check_trainable(model.image_encoder, model.name)
        self.model, self.options = model, options
        # Half-precision weights would round steps of 1e-5 away.
        if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.network.parameters()):
            model.network.float()
        # It is no part of InfoNCE: without a gradient, DistributedDataParallel would wait for it.
        if isinstance(bias := getattr(model.network, "logit_bias", None), Tensor):
            bias.requires_grad_(False)
        self.momentum: ImageText | None = None
        if options.momentum:
            self.momentum = copy.deepcopy(model)
            self.momentum.network.eval().requires_grad_(False)

    @property
    def beside(self) -> dict[str, nn.Module]:
        """What is in a checkpoint beside the network."""
        return {} if self.momentum is None else {"momentum": self.momentum.network}

    def __call__(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """Compute the losses of a batch; with several processes, of all their batches together.

        Args:
            batch: Captioned images.

        Returns:
            "contrastive" and, with regions, "region_phrase", weighted.

        Raises:
            WhyboxError: The network left out patches.
        """
        seen = image_pass(self.model.image_encoder, batch.pixels)
        losses = {"contrastive": self._contrastive(seen, batch)}
        if self.options.regions:
            losses["region_phrase"] = self.options.weight * self._region_phrase(seen, batch)
        return losses

    def end_epoch(self) -> None:
        """Let the momentum model take over a share of the trained weights."""
        if self.momentum is None:
            return
        trained = dict(self.model.network.named_parameters())
        with torch.no_grad():
            for name, weight in self.momentum.network.named_parameters():
                weight.lerp_(trained[name].to(weight.dtype), self.options.momentum_rate)

    def _contrastive(self, seen: ImagePass, batch: CaptionBatch) -> Tensor:
        logits = _logits(self.model, seen.embedding, _embedded(self.model, batch.captions))
        return contrastive_loss(logits, self._weights(batch))

    def _weights(self, batch: CaptionBatch) -> Tensor | None:
        if self.momentum is None:
            return None
        # The loop sets everything that is in the checkpoint to training mode.
        self.momentum.network.eval()
        with torch.no_grad():
            images = self.momentum.image_encoder.embed(batch.pixels)
            logits = _logits(self.momentum, images, _embedded(self.momentum, batch.captions))
        return pair_weights(logits, self.options.gamma)

    def _region_phrase(self, seen: ImagePass, batch: CaptionBatch) -> Tensor:
        layout = _layout(batch, seen.embedding.device)
        texts = self._phrases(seen.embedding, layout.phrases)
        maps = phrase_maps(self.options.maps, seen, texts, layout.owner)
        presence = maps.new_ones(len(maps)) if self.options.presence == "constant" else maps.amax(1)
        dense = widened(seen.dense_features())
        with torch.autocast(dense.device.type, enabled=False):
            # One product for each image, of the maps of its places.
            regions = layout.placed(maps).unflatten(0, (len(dense), -1)).to(dense.dtype) @ dense  # type: ignore[no-untyped-call]
            words = gathered(layout.placed(_numbers(layout.phrases, layout.owner)))
            there = words != 0
            regions = gathered(normalize(regions.flatten(0, 1), dim=-1))[there]
            similarity = regions @ gathered(layout.placed(texts))[there].T
            weights = gathered(layout.placed(presence))[there]
        apart = words[there] != words[there][:, None] if self.options.repeats == "left out" else None
        chosen: Any = {"clamp": self.options.clamp, "tangent": self.options.tangent, "reduction": self.options.reduction}
        return region_phrase_loss(similarity, self._scaled(weights), negatives=apart, **chosen)

    def _scaled(self, weights: Tensor) -> Tensor:
        """The presence of all phrases of the step (T,), as weights."""
        return weights / weights.mean().clamp(min=1e-12) if self.options.presence == "relative" else weights

    def _phrases(self, like: Tensor, flat: Sequence[str]) -> Tensor:
        """(T,D) unit embeddings of the phrases; each different one is encoded once."""
        if not flat:
            return widened(like).new_zeros((0, like.shape[-1]))
        different = {phrase: row for row, phrase in enumerate(dict.fromkeys(flat))}
        rows = _embedded(self.model, [TEMPLATE.format(phrase) for phrase in different])
        return normalize(widened(rows), dim=-1)[[different[phrase] for phrase in flat]]


def _embedded(model: ImageText, texts: Sequence[str]) -> Tensor:
    """(T,D), by the network's own forward pass, with its graph."""
    encoder = model.text_encoder
    return encoder.embed(encoder.tokenize(texts, False).inputs)


def _logits(model: ImageText, images: Tensor, texts: Tensor) -> Tensor:
    """(B,B) scaled cosines of all images and captions of the step, in float32."""
    images, texts = (gathered(normalize(widened(part), dim=-1)) for part in (images, texts))
    scale: Any = model.network.logit_scale
    with torch.autocast(images.device.type, enabled=False):
        return widened(scale).exp().clamp(max=LARGEST_SCALE) * (images @ texts.T)


def _numbers(texts: Sequence[str], like: Tensor) -> Tensor:
    """(T,) a number per text that is the same in every process; never 0."""
    digests = [blake2b(text.encode(), digest_size=7).digest() for text in texts]
    return torch.tensor([1 + int.from_bytes(digest, "big") for digest in digests], dtype=torch.long, device=like.device)
