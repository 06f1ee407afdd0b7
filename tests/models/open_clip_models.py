"""Small open_clip models of every kind with random weights."""

import inspect
from functools import cache

import open_clip
import pytest
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP

VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
MULTIMODAL = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
POOLED = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5, "output_tokens": True}
CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}
IN_TIMM = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}
ResPost = timm.models.vision_transformer.ResPostBlock
EVA = {"use_rot_pos_emb": False, "init_values": 0.5}


KNOWS_EOS = hasattr(CLIPTextCfg, "eos_id")
"""Whether open_clip reads a text at a token of any number; 3.0 does not."""
KNOWS_GATES = "gated" in inspect.signature(timm.layers.Attention).parameters
"""Whether timm's attention can have a gate; it came late in 1.0."""


class Gated(timm.layers.Attention):
    def __init__(self, *args, **options):
        super().__init__(*args, **options, gated=True)


Gated.__name__ = "Attention"
ViT = timm.models.VisionTransformer
BLOCKS = timm.models.vision_transformer
EVA = {"use_rot_pos_emb": False, "init_values": 0.5}
TRUNKS = {
    "tiny_siglip": (ViT, {"class_token": False, "global_pool": "map"}),
    "tiny_token": (ViT, {"pre_norm": True, "qk_norm": True, "scale_attn_norm": True, "init_values": 0.5}),
    "tiny_mean": (ViT, {"reg_tokens": 2, "no_embed_class": True, "global_pool": "avg"}),
    "tiny_any_size": (ViT, {"dynamic_img_size": True}),
    "tiny_post_norm": (ViT, {"block_fn": BLOCKS.ResPostBlock, "init_values": 0.5}),
    "tiny_parallel": (ViT, {"block_fn": BLOCKS.ParallelThingsBlock}),
    "tiny_pool_behind_token": (ViT, {"global_pool": "map"}),
    "tiny_eva": (timm.models.Eva, EVA),
    "tiny_eva_apart": (timm.models.Eva, {"use_rot_pos_emb": False, "qkv_fused": False, "scale_attn_inner": True}),
    "tiny_eva_post_norm": (timm.models.Eva, {"use_rot_pos_emb": False, "use_post_norm": True, "global_pool": "token"}),
    "tiny_eva_rotary": (timm.models.Eva, {**EVA, "use_rot_pos_emb": True}),
    "tiny_gated": (ViT, {"attn_layer": Gated}),
}


def register(name):
    """A trunk that open_clip finds in timm by its name."""

    def entry(pretrained=False, **options):
        kind, own = TRUNKS[name]
        trunk = kind(**{**IN_TIMM, **own})
        trunk.default_cfg = {}
        return trunk

    entry.__name__ = name
    timm.models.register_model(entry)


for trunk in TRUNKS:
    register(trunk)


def timm_vision(name, **options):
    return {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": 64, **options}


def clip(vision=None, text=None, kind=CLIP, **options):
    return kind(24, {**VISION, **(vision or {})}, {**TEXT, **(text or {})}, **options)


def coca(**text):
    net = CoCa(32, MULTIMODAL, {**COCA_TEXT, **text}, {**VISION, **POOLED})
    # open_clip leaves this weight as memory happened to be: with NaN in it, no state equals itself.
    torch.nn.init.normal_(net.text_decoder.text_projection, std=0.1)
    return net


def on_other_side(module):
    """The same weights, with attention that takes the sequence first."""
    for part in module.modules():
        if hasattr(part, "resblocks") or isinstance(part, torch.nn.MultiheadAttention):
            part.batch_first = False
    return module


def resnet():
    return CLIP(24, {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64, "image_size": 64}, TEXT)


KINDS = {
    "native": clip,
    "sequence_first": lambda: on_other_side(clip()),
    "layer_scale": lambda: clip({"ls_init_value": 0.3}, {"ls_init_value": 0.3}),
    "mean": lambda: clip({"pool_type": "avg"}),
    "mean_then_norm": lambda: clip({"pool_type": "avg", "final_ln_after_pool": True}),
    "norm_after": lambda: clip({"final_ln_after_pool": True}),
    "bare": lambda: clip({"no_ln_pre": True, "patch_dropout": 0.5, "pos_embed_type": "sin_cos_2d"}, quick_gelu=True),
    "custom": lambda: clip(CUSTOM, CUSTOM),
    "beside": lambda: clip(kind=CustomTextCLIP),
    "eos": lambda: clip(text={"pool_type": "eos", "eos_id": 49407, "proj_bias": True}, kind=CustomTextCLIP),
    "first": lambda: clip(text={"pool_type": "first", "no_causal_mask": True, "proj_type": "none"}, kind=CustomTextCLIP),
    "last": lambda: clip(text={"pool_type": "last", "no_causal_mask": True}, init_logit_bias=-10.0),
    "coca": coca,
    "resnet": resnet,
    "siglip": lambda: clip(timm_vision("tiny_siglip")),
    "timm_token": lambda: clip(timm_vision("tiny_token", timm_proj="mlp")),
    "timm_mean": lambda: clip(timm_vision("tiny_mean")),
    "timm_any_size": lambda: clip(timm_vision("tiny_any_size")),
    "timm_post_norm": lambda: clip(timm_vision("tiny_post_norm")),
    "eva": lambda: clip(timm_vision("tiny_eva")),
    "eva_apart": lambda: clip(timm_vision("tiny_eva_apart")),
    "eva_post_norm": lambda: clip(timm_vision("tiny_eva_post_norm")),
}


def shaken(module):
    """Weights that start as ones or zeros (norms, biases, last layers) are made to matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim and weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return module


@cache
def network(kind):
    if kind == "eos" and not KNOWS_EOS:
        pytest.skip("this open_clip does not pool by eos")
    torch.manual_seed(0)
    return shaken(KINDS[kind]()).eval()


@cache
def tokenizer(context=16):
    return open_clip.SimpleTokenizer(context_length=context)
