"""A tiny CLIP with random weights, and its training loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whybox.training.clip_words import hugging_face, tokenizer

MEAN, SPREAD = 0.5, 0.25


@dataclass(frozen=True)
class Plan:
    """The sizes of the network.

    Attributes:
        side: Side of the images, in pixels.
        patch: Side of a patch, in pixels.
        width: Width of the image encoder.
        depth: Layers of the image encoder.
        text_width: Width of the text encoder.
        text_depth: Layers of the text encoder.
        heads: Attention heads of both.
        shared: Dimension of the joint embedding space.
        context: Tokens of the longest text.
    """

    side: int = 112
    patch: int = 8
    width: int = 128
    depth: int = 4
    text_width: int = 96
    text_depth: int = 3
    heads: int = 4
    shared: int = 96
    context: int = 48


def start(plan: Plan, seed: int) -> tuple[nn.Module, Any]:
    """A CLIPModel with random weights.

    Args:
        plan: The sizes of the network.
        seed: Seed of the weights.

    Returns:
        The network, and the processor of its images and texts.

    Raises:
        WhyboxError: transformers is not installed.
    """
    hf = hugging_face()
    words = tokenizer(plan.context)
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {
        "vocab_size": len(words),
        "hidden_size": plan.text_width,
        "intermediate_size": 4 * plan.text_width,
        "num_hidden_layers": plan.text_depth,
        "num_attention_heads": plan.heads,
        "max_position_embeddings": plan.context,
        "projection_dim": plan.shared,
        **special,
    }
    vision = {
        "hidden_size": plan.width,
        "intermediate_size": 4 * plan.width,
        "num_hidden_layers": plan.depth,
        "num_attention_heads": plan.heads,
        "image_size": plan.side,
        "patch_size": plan.patch,
        "projection_dim": plan.shared,
    }
    # exp(2.3) is 10, the initial factor on the cosines in the paper of the sigmoid loss.
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=plan.shared, logit_scale_init_value=2.3)
    # transformers before 4.56 calls it torch_dtype.
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = hf.CLIPModel(config)
    size = {"height": plan.side, "width": plan.side}
    # No crop: scenes are resized to a square as a whole, in training as well.
    pixels = hf.CLIPImageProcessor(size=size, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[SPREAD] * 3)
    return network, hf.CLIPProcessor(pixels, words)


class Matcher(nn.Module):
    """A CLIPModel with the pairwise sigmoid loss on its cosines.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, eq. 1. There every image has one matching
    text; here several may match, by the scenes' annotations, and undecided pairs are left out.
    """

    def __init__(self, network: nn.Module, patches: float) -> None:
        super().__init__()
        self.clip: Any = network
        self.patches = patches
        # About the prior log odds that a text matches an image, and a phrase a patch, so that training need not learn them.
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.patch_bias = nn.Parameter(torch.tensor(-5.0))
        # DistributedDataParallel waits for the gradient of every parameter that requires one.
        self.patch_bias.requires_grad_(patches > 0)

    def forward(self, batch: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: "pixel_values" (B,3,h,w), "input_ids" and "attention_mask" (T,L).
            truth: "texts" and "sure" (B,T), and "patches" (B,P,T') for the first T' texts, or without "patches".

        Returns:
            "match", the sum over the texts averaged over the images; and "patches", weighted, averaged over the patches.
        """
        seen = self.clip.vision_model(pixel_values=batch["pixel_values"])
        read = self.clip.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        # In float32, also under autocast: half precision has two or three digits of a cosine.
        texts = functional.normalize(self.clip.text_projection(read).float(), dim=-1)
        images = functional.normalize(self.clip.visual_projection(seen.pooler_output).float(), dim=-1)
        losses = {"match": self._loss(images @ texts.T, self.bias, truth["texts"], truth["sure"]) / len(images)}
        if "patches" in truth:
            # CLIP applies this norm to the class token alone: the patches have to pass it, too, to be compared with texts.
            cells = self.clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
            cells = functional.normalize(self.clip.visual_projection(cells).float(), dim=-1)
            among = truth["patches"]
            loss = self._loss(cells @ texts[: among.shape[-1]].T, self.patch_bias, among, torch.ones_like(among))
            losses["patches"] = self.patches * loss / (among.shape[0] * among.shape[1])
        return losses

    def _loss(self, cosines: Tensor, bias: Tensor, truth: Tensor, sure: Tensor) -> Tensor:
        logits = cosines * self.clip.logit_scale.exp() + bias
        return functional.binary_cross_entropy_with_logits(logits, truth, sure, reduction="sum")
