"""CLIP Surgery against plain loops on what the network's own modules give."""

import pytest
import tiny_clip
import torch

import whybox
from models import hf_models, open_clip_models
from whybox.errors import WhyboxError
from whybox.methods.clip_surgery import ClipSurgery, clip_surgery_map
from whybox.targets import ClassLogit

CLASSES = ("a tree", "big dog", "blue ball left")


def second_path(net, pixel_values, count):
    """(16,D) unit features: v-v attention head by head on the tokens that enter each block of the ordinary pass."""
    entering = []
    handles = [
        block.layer_norm1.register_forward_pre_hook(lambda module, args: entering.append(args[0][0]))
        for block in net.vision_model.encoder.layers
    ]
    with torch.no_grad():
        net.vision_model(pixel_values=pixel_values)
        for handle in handles:
            handle.remove()
        blocks = list(net.vision_model.encoder.layers)[-count:]
        path = entering[-len(blocks)]
        for block, tokens in zip(blocks, entering[-len(blocks) :], strict=True):
            values = block.self_attn.v_proj(block.layer_norm1(tokens))
            heads = []
            for v in values.chunk(4, -1):
                likeness = (v @ v.T / v.shape[1] ** 0.5).exp()
                heads.append(likeness / likeness.sum(1, keepdim=True) @ v)
            path = path + block.self_attn.out_proj(torch.cat(heads, -1))
        return tiny_clip.unit(net.visual_projection(net.vision_model.post_layernorm(path[1:])))


def surgery_by_channels(features, texts, image):
    """The paper's form: products channel by channel (P,L,D), weighed, less their mean over the texts, then summed."""
    chances = (2 * texts @ image).exp()
    chances = chances / chances.sum()
    products = features[:, None] * texts[None] * (chances / chances.mean())[None, :, None]
    return (products - products.mean(1, keepdim=True)).sum(-1)


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_a_lone_text_is_freed_of_what_a_neutral_one_has(layers):
    maps = tiny_clip.explain(ClipSurgery(layers=layers))
    features = second_path(tiny_clip.network(), tiny_clip.pixels(tiny_clip.image()), layers)
    texts = tiny_clip.text_embeddings(*tiny_clip.TEXTS) - tiny_clip.text_embeddings("a photo of a")
    torch.testing.assert_close(maps.values, (texts @ features.T).reshape(2, 4, 4), rtol=1e-4, atol=1e-5)


def test_among_distractors_the_redundant_part_is_taken_away():
    maps = tiny_clip.explain(ClipSurgery(distractors=CLASSES))
    net, pixel_values = tiny_clip.network(), tiny_clip.pixels(tiny_clip.image())
    features = second_path(net, pixel_values, 6)
    with torch.no_grad():
        image = net.visual_projection(net.vision_model(pixel_values).pooler_output)
    for i, text in enumerate(tiny_clip.TEXTS):
        texts = tiny_clip.text_embeddings(text, *CLASSES)
        expected = surgery_by_channels(features, texts, tiny_clip.unit(image)[0])[:, 0]
        torch.testing.assert_close(maps.values[i].flatten(), expected, rtol=1e-4, atol=1e-5)


def test_by_hand():
    similarity = torch.tensor([[0.5, 0.1], [0.2, 0.2]])
    # Equal weights: what both texts share is their mean.
    equal = clip_surgery_map(similarity, torch.tensor([0.3, 0.3]))
    torch.testing.assert_close(equal, torch.tensor([[0.2, -0.2], [0.0, 0.0]]))
    # exp(2 c) is 3 to 1: weights 1.5 and 0.5.
    uneven = clip_surgery_map(similarity, torch.tensor([0.5 * torch.log(torch.tensor(3.0)), 0.0]))
    torch.testing.assert_close(uneven, torch.tensor([[0.35, -0.35], [0.1, -0.1]]))


def test_a_map_depends_on_its_own_text_and_the_distractors_alone():
    for method in (ClipSurgery(), ClipSurgery(distractors=CLASSES)):
        both = tiny_clip.explain(method).values
        alone = tiny_clip.explain(method, texts=tiny_clip.TEXTS[1:]).values
        torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-6)
    listed = tiny_clip.explain(ClipSurgery(distractors=(*CLASSES, *tiny_clip.TEXTS))).values
    expected = tiny_clip.explain(ClipSurgery(distractors=(*CLASSES, tiny_clip.TEXTS[1])), texts=tiny_clip.TEXTS[:1]).values
    torch.testing.assert_close(listed[:1], expected, rtol=1e-5, atol=1e-6)


def test_the_neutral_text_itself_has_no_map():
    assert tiny_clip.explain(ClipSurgery(), texts=("a photo of a",)).values.abs().max() < 1e-6


def test_every_family_has_a_second_path():
    torch.manual_seed(0)
    for build in (hf_models.siglip, hf_models.blip_retrieval):
        net = hf_models.stirred(build())
        model = whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(["tree", "big dog"])
        trace = model.trace(tiny_clip.image())
        (maps,) = ClipSurgery()(model, trace, trace.detections, [tiny_clip.SCORE])
        assert maps.values.shape == (2, 4, 4)
        assert maps.values.std((1, 2)).min() > 1e-3


def test_a_pooling_head_attends_by_its_values():
    """SigLIP's second path is its head's values, by the network's own modules; only the head counts."""
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.siglip())
    model = whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(["tree"])
    trace = model.trace(tiny_clip.image())
    maps = [ClipSurgery(layers=n)(model, trace, trace.detections, [tiny_clip.SCORE])[0].values for n in (1, 3)]
    torch.testing.assert_close(maps[0], maps[1])
    head = net.vision_model.head
    with torch.no_grad():
        seen = []
        handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
        model.predict(tiny_clip.image()[None])
        handle.remove()
        weights, bias = head.attention.in_proj_weight[-32:], head.attention.in_proj_bias[-32:]
        parts = []
        for v in (seen[0] @ weights.T + bias).chunk(4, -1):
            parts.append((v @ v.T / 8**0.5).softmax(1) @ v)
        pooled = head.attention.out_proj(torch.cat(parts, -1))
        features = tiny_clip.unit(pooled + head.mlp(head.layernorm(pooled)))
        texts = model.embed_texts(["tree", "a photo of a"])
    torch.testing.assert_close(maps[0].flatten(), features @ (texts[0] - texts[1]), rtol=1e-4, atol=1e-5)


def test_a_resnets_pool_attends_by_its_values():
    net = open_clip_models.network("resnet")
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(["a tree"])
    picture = tiny_clip.image(64, 64)
    trace = model.trace(picture)
    (maps,) = ClipSurgery()(model, trace, trace.detections, [tiny_clip.SCORE])
    cells = []
    handle = net.visual.layer4.register_forward_hook(lambda module, args, output: cells.append(output[0].flatten(1).T))
    model.predict(picture[None])
    handle.remove()
    pool = net.visual.attnpool
    with torch.no_grad():
        tokens = torch.cat([cells[0].mean(0, keepdim=True), cells[0]]) + pool.positional_embedding
        values = pool.v_proj(tokens)
        parts = [(v @ v.T / v.shape[1] ** 0.5).softmax(1) @ v for v in values.chunk(pool.num_heads, -1)]
        features = tiny_clip.unit(pool.c_proj(torch.cat(parts, -1))[1:])
        texts = model.embed_texts(["a tree", "a photo of a"])
    torch.testing.assert_close(maps.values.flatten(), features @ (texts[0] - texts[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be a whole number from 1 on, got 0"),
        ({"distractors": "a dog"}, "distractors must be a list of texts, got 'a dog'"),
        ({"distractors": (1,)}, r"distractors must be a list of texts, got \(1,\)"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(WhyboxError, match=message):
        ClipSurgery(**options)


def test_only_the_score_is_known_and_no_text_gives_no_map():
    model = tiny_clip.model()
    trace = model.trace(tiny_clip.image())
    with pytest.raises(
        WhyboxError, match="clip_surgery compares features with texts, and has no target 'logit'; use target 'score'"
    ):
        ClipSurgery()(model, trace, trace.detections, [ClassLogit()])
    (maps,) = ClipSurgery()(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    assert maps.at_image().shape == (0, 32, 44)
