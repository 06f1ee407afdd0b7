"""open_clip and Hugging Face with the same weights are the same function, so every map must be the same."""

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

import whybox
from methods.small_clip import TEXTS, image, load_small, make_clip, tokenizer
from models.open_clip_models import KNOWS_EOS
from whybox import registry

pytestmark = pytest.mark.skipif(not KNOWS_EOS, reason="this open_clip does not pool by eos")


def copy_blocks(theirs, ours):
    """transformers' encoder layers into open_clip's residual blocks."""
    for layer, block in zip(theirs, ours, strict=True):
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        block.attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        block.attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        block.attn.out_proj.load_state_dict(attention.out_proj.state_dict())
        block.ln_1.load_state_dict(layer.layer_norm1.state_dict())
        block.ln_2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.c_fc.load_state_dict(layer.mlp.fc1.state_dict())
        block.mlp.c_proj.load_state_dict(layer.mlp.fc2.state_dict())


@torch.no_grad()
def as_open_clip(clip):
    """An open_clip model with the weights of a CLIPModel. CLIPModel's activation is the quick approximation of GELU."""
    vision = CLIPVisionCfg(layers=3, width=32, head_width=8, patch_size=16, image_size=64, mlp_ratio=2.0)
    text = CLIPTextCfg(context_length=16, vocab_size=13, width=32, heads=4, layers=3, mlp_ratio=2.0, pool_type="eos", eos_id=1)
    net = open_clip.model.CLIP(24, vision, text, quick_gelu=True).eval()
    theirs, ours = clip.vision_model, net.visual
    ours.conv1.weight.copy_(theirs.embeddings.patch_embedding.weight)
    ours.class_embedding.copy_(theirs.embeddings.class_embedding)
    ours.positional_embedding.copy_(theirs.embeddings.position_embedding.weight)
    ours.ln_pre.load_state_dict(theirs.pre_layrnorm.state_dict())
    ours.ln_post.load_state_dict(theirs.post_layernorm.state_dict())
    ours.proj.copy_(clip.visual_projection.weight.T)
    copy_blocks(theirs.encoder.layers, ours.transformer.resblocks)
    net.token_embedding.weight.copy_(clip.text_model.embeddings.token_embedding.weight)
    net.positional_embedding.copy_(clip.text_model.embeddings.position_embedding.weight)
    net.ln_final.load_state_dict(clip.text_model.final_layer_norm.state_dict())
    net.text_projection.copy_(clip.text_projection.weight.T)
    copy_blocks(clip.text_model.encoder.layers, net.transformer.resblocks)
    net.logit_scale.copy_(clip.logit_scale)
    return net


class SameTokens:
    """The tokenizer of the other library in the form of open_clip's HFTokenizer."""

    tokenizer = tokenizer()

    def clean_fn(self, text):
        return text

    def __call__(self, texts, context_length=16):
        given = self.tokenizer(list(texts), padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        return given["input_ids"]


@pytest.fixture(scope="module")
def both():
    """The same weights in the two libraries, and the same pixels and tokens for both."""
    clip = make_clip()
    square = {"size": (64, 64), "interpolation": "bicubic"}
    ours = whybox.load(as_open_clip(clip), tokenizer=SameTokens(), preprocess=square)
    return load_small(clip).prompt(TEXTS), ours.prompt(TEXTS)


def test_cosines_agree(both):
    theirs, ours = (model.trace(image()).candidates.scores for model in both)
    assert torch.allclose(theirs, ours, atol=2e-3)


SHORT = {
    "rise": {"masks": 20},
    "smoothgrad": {"samples": 2},
    "integrated_gradients": {"steps": 2},
    "m2ib": {"steps": 2, "batch": 2},
}


def methods():
    gives = {"candidates", "features", "input", "transformer", "attention", "text"}
    return [name for name, kind in registry.methods().items() if kind.needs <= gives and name != "drise"]


@pytest.mark.parametrize("method", methods())
def test_maps_agree(both, method):
    theirs, ours = (whybox.explain(model, image(), method=method, **SHORT.get(method, {})) for model in both)
    for one, other in zip(theirs.maps.native, ours.maps.native, strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))


def test_words_agree(both):
    theirs, ours = (whybox.explain(model, image(), words=True) for model in both)
    for one, other in zip(theirs.token_maps.values, ours.token_maps.values, strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))
