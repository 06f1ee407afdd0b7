"""MaskCLIP against the network itself, whose last attention a hook takes out."""

import pytest
import tiny_clip
import torch
from torch.nn.functional import cosine_similarity

import whybox
from models import hf_models, open_clip_models
from whybox.methods._dense_features import dense_features
from whybox.methods.maskclip import MaskClip
from whybox.targets import ClassLogit, Contrast


def without_attention(net, pixel_values):
    """(1,N,D): every token through the network, its last attention replaced by the values' projection."""
    last = net.vision_model.encoder.layers[-1].self_attn

    def values_only(module, args, kwargs, output):
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        return (module.out_proj(module.v_proj(hidden)), None)

    handle = last.register_forward_hook(values_only, with_kwargs=True)
    try:
        with torch.no_grad():
            tokens = net.vision_model(pixel_values=pixel_values).last_hidden_state
            return net.visual_projection(net.vision_model.post_layernorm(tokens))
    finally:
        handle.remove()


def test_the_map_is_the_cosine_of_text_and_patch_without_the_last_attention():
    maps = tiny_clip.explain(MaskClip())
    dense = tiny_clip.unit(without_attention(tiny_clip.network(), tiny_clip.pixels(tiny_clip.image()))[0, 1:])
    expected = (tiny_clip.text_embeddings(*tiny_clip.TEXTS) @ dense.T).reshape(2, 4, 4)
    torch.testing.assert_close(maps.values, expected, rtol=1e-4, atol=1e-5)
    assert (maps.values < 0).any()
    assert maps.options == {"weigh_by_key": False}


def test_weighed_by_the_class_tokens_key():
    net = tiny_clip.network()
    attention = net.vision_model.encoder.layers[-1].self_attn
    keys = []
    handle = attention.k_proj.register_forward_hook(lambda module, args, output: keys.append(output))
    try:
        with torch.no_grad():
            net.vision_model(pixel_values=tiny_clip.pixels(tiny_clip.image()))
            projected = attention.out_proj(keys[0])[0]
    finally:
        handle.remove()
    factor = cosine_similarity(projected[:1], projected[1:]).reshape(4, 4)
    plain, weighed = (tiny_clip.explain(MaskClip(weigh_by_key=on)).values for on in (False, True))
    torch.testing.assert_close(weighed, plain * factor, rtol=1e-4, atol=1e-5)


def test_any_target_is_read_at_each_patch():
    logit = tiny_clip.explain(MaskClip(), target=ClassLogit()).values
    contrast = tiny_clip.explain(MaskClip(), target=Contrast(1)).values
    torch.testing.assert_close(contrast[0], logit[0] - logit[1], rtol=1e-4, atol=1e-4)
    assert contrast[1].abs().max() < 1e-5


def test_a_text_alone_gets_the_same_map():
    both = tiny_clip.explain(MaskClip()).values
    alone = tiny_clip.explain(MaskClip(), texts=tiny_clip.TEXTS[1:]).values
    torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-6)


def test_dense_features_pass_gradients_to_the_weights():
    transformer_pass = tiny_clip.model().transformer(tiny_clip.model().trace(tiny_clip.image()))
    features = dense_features(transformer_pass)
    assert features.shape == (16, 24)
    weight = tiny_clip.network().visual_projection.weight
    (gradient,) = torch.autograd.grad(features[3, 5], weight)
    assert gradient[5].abs().sum() > 0
    assert gradient[6].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_explained_in_float32_and_left_as_it_was(dtype):
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.clip()).to(dtype)
    weight = net.visual_projection.weight
    before = weight.data_ptr()
    model = whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(tiny_clip.TEXTS)
    trace = model.trace(tiny_clip.image())
    (maps,) = MaskClip(weigh_by_key=True)(model, trace, trace.detections, [tiny_clip.SCORE])
    assert maps.values.dtype == torch.float32
    assert (weight.dtype, weight.data_ptr()) == (dtype, before)
    torch.testing.assert_close(maps.values, tiny_clip.explain(MaskClip(weigh_by_key=True)).values, rtol=0.1, atol=0.05)


def test_a_pooling_head_is_given_each_patch_alone():
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.siglip())
    model = whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(["tree"])
    trace = model.trace(tiny_clip.image())
    (maps,) = MaskClip()(model, trace, trace.detections, [tiny_clip.SCORE])
    seen = []
    handle = net.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    model.predict(tiny_clip.image()[None])
    handle.remove()
    with torch.no_grad():
        tokens = net.vision_model(seen[0]).last_hidden_state[0]
        # Attention to a single key is that key's value.
        patches = tiny_clip.unit(net.vision_model.head(tokens[:, None]))
    torch.testing.assert_close(maps.values[0], (patches @ model.embed_texts(["tree"])[0]).reshape(4, 4), rtol=1e-4, atol=1e-5)
    with pytest.raises(whybox.WhyboxError, match="weigh_by_key compares with the class token, and hf/siglip has none"):
        MaskClip(weigh_by_key=True)(model, trace, trace.detections, [tiny_clip.SCORE])


def open_clip_model(kind):
    net = open_clip_models.network(kind)
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(["a tree"])
    trace = model.trace(tiny_clip.image(64, 64))
    (maps,) = MaskClip()(model, trace, trace.detections, [tiny_clip.SCORE])
    return net, model, maps.values.flatten()


def output_of(part, run):
    """What the module gives while something runs."""
    kept = []
    handle = part.register_forward_hook(lambda module, args, output: kept.append((args, output)))
    run()
    handle.remove()
    return kept[0]


def test_a_mean_over_the_tokens_is_read_at_each_patch():
    net, model, values = open_clip_model("mean")
    block = net.visual.transformer.resblocks[-1]
    (tokens,), _ = output_of(block.ln_1, lambda: model.predict(tiny_clip.image(64, 64)[None]))
    attention = block.attn
    with torch.no_grad():
        v = block.ln_1(tokens) @ attention.in_proj_weight[-32:].T + attention.in_proj_bias[-32:]
        dense = tokens + attention.out_proj(v)
        dense = dense + block.mlp(block.ln_2(dense))
        patches = tiny_clip.unit(net.visual.ln_post(dense[0, 1:]) @ net.visual.proj)
    torch.testing.assert_close(values, patches @ model.embed_texts(["a tree"])[0], rtol=1e-4, atol=1e-5)


def test_a_resnets_pool_becomes_two_convolutions():
    """As in the paper: of the pool only the projections of values and of what leaves it are kept."""
    net, model, values = open_clip_model("resnet")
    _, cells = output_of(net.visual.layer4, lambda: model.predict(tiny_clip.image(64, 64)[None]))
    pool = net.visual.attnpool
    with torch.no_grad():
        placed = cells[0].flatten(1).T + pool.positional_embedding[1:]
        patches = tiny_clip.unit(pool.c_proj(pool.v_proj(placed)))
    torch.testing.assert_close(values, patches @ model.embed_texts(["a tree"])[0], rtol=1e-4, atol=1e-5)


def test_no_text_gives_no_map_and_nothing_is_left_on_the_model():
    model, net = tiny_clip.model(), tiny_clip.network()
    trace = model.trace(tiny_clip.image())
    (maps,) = MaskClip()(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    assert maps.at_image().shape == (0, 32, 44)
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
