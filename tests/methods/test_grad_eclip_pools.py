"""Grad-ECLIP where the answer is pooled by attention or by a mean, against plain code on what hooks see of the module."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, linear

import whybox
from models import hf_models, open_clip_models

TEXTS = ["a red ball", "a blue dog"]


def pixels_of(model, image):
    return model.image_encoder.prepare(image[None])[0]


def attention(query, keys, values, heads):
    """Plain attention of one query: (1,E), (N,E), (N,E) -> (1,E)."""
    parts = [one.reshape(len(one), heads, -1).transpose(0, 1) for one in (query, keys, values)]
    weights = (parts[0] @ parts[1].transpose(1, 2) / parts[0].shape[-1] ** 0.5).softmax(-1)
    return (weights @ parts[2]).transpose(0, 1).reshape(1, -1)


def expected(query, keys, values, read, embeddings, first=0):
    """Maps of all texts, flat; read: what enters the output projection (1,E) -> embedding (1,D)."""
    node = attention(query, keys, values, read.heads).detach().requires_grad_()
    scores = cosine_similarity(read(node), embeddings)
    likeness = cosine_similarity(query, keys[first:])
    weights = (likeness - likeness.min()) / (likeness.max() - likeness.min())
    maps = []
    for score in scores:
        (gradient,) = torch.autograd.grad(score, node, retain_graph=True)
        maps.append((weights * (values[first:] @ gradient[0])).relu().detach())
    return torch.stack(maps)


def seen_by(module, run):
    """What a module gives during `run`."""
    seen = []
    handle = module.register_forward_hook(lambda _, __, out: seen.append(out))
    run()
    handle.remove()
    return seen[0]


def with_heads(heads):
    def mark(read):
        read.heads = heads
        return read

    return mark


@torch.no_grad()
def image(size=64):
    return torch.rand((3, size, size), generator=torch.Generator().manual_seed(3))


def test_siglip_of_hugging_face():
    net = hf_models.stirred(hf_models.siglip())
    processor = hf_models.transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    model = whybox.load(net, processor=processor, tokenizer=hf_models.tokenizer(start="")).prompt(TEXTS)
    head = net.vision_model.head
    tokens = seen_by(net.vision_model.post_layernorm, lambda: net.get_image_features(pixel_values=pixels_of(model, image())))[0]
    weights, biases = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
    query, keys, values = (
        linear(source, weight, bias)
        for source, weight, bias in zip((head.probe[0], tokens, tokens), weights, biases, strict=True)
    )

    @with_heads(4)
    def read(mixed):
        pooled = head.attention.out_proj(mixed)
        return pooled + head.mlp(head.layernorm(pooled))

    maps = expected(query, keys, values, read, model.embed_texts(TEXTS))
    found = whybox.explain(model, image()).maps.values.flatten(1)
    assert torch.allclose(found, maps, rtol=1e-3, atol=1e-6 * float(maps.max()) + 1e-9)


def test_siglip_of_timm_in_open_clip():
    net = open_clip_models.network("siglip")
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(TEXTS)
    pool = net.visual.trunk.attn_pool
    run = lambda: net.encode_image(pixels_of(model, image()))
    (keys, values), query = seen_by(pool.kv, run)[0].chunk(2, -1), seen_by(pool.q, run)[0]

    @with_heads(4)
    def read(mixed):
        pooled = pool.proj(mixed)
        return net.visual.head(net.visual.trunk.fc_norm(pooled + pool.mlp(pool.norm(pooled))))

    maps = expected(query, keys, values, read, model.embed_texts(TEXTS))
    found = whybox.explain(model, image()).maps.values.flatten(1)
    assert torch.allclose(found, maps, rtol=1e-3, atol=1e-6 * float(maps.max()) + 1e-9)


def test_a_resnet_of_clip():
    net = open_clip_models.network("resnet")
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(TEXTS)
    pool = net.visual.attnpool
    cells = seen_by(net.visual.layer4, lambda: net.encode_image(pixels_of(model, image())))[0].flatten(1).T
    tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + pool.positional_embedding
    query, keys, values = pool.q_proj(tokens[:1]), pool.k_proj(tokens), pool.v_proj(tokens)
    read = with_heads(pool.num_heads)(lambda mixed: pool.c_proj(mixed))
    maps = expected(query, keys, values, read, model.embed_texts(TEXTS), first=1)
    found = whybox.explain(model, image()).maps.values.flatten(1)
    assert torch.allclose(found, maps, rtol=1e-3, atol=1e-6 * float(maps.max()) + 1e-9)


def test_the_mean_of_the_tokens_reads_every_row():
    """Two rows read: each has a query, a gradient and a spatial weight of its own, and the ReLU comes last."""
    net = open_clip_models.network("mean")
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(TEXTS)
    block = net.visual.transformer.resblocks[-1]
    normed = seen_by(block.ln_1, lambda: net.encode_image(pixels_of(model, image())))[0]
    before = seen_by(net.visual.transformer.resblocks[-2], lambda: net.encode_image(pixels_of(model, image())))[0]
    heads = block.attn.num_heads
    query, keys, values = linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
    node = torch.cat([attention(row[None], keys, values, heads) for row in query]).detach().requires_grad_()
    after = before + block.attn.out_proj(node)
    after = after + block.mlp(block.ln_2(after))
    embedding = net.visual.ln_post(after)[1:].mean(0, keepdim=True) @ net.visual.proj
    found = whybox.explain(model, image()).maps.values.flatten(1)
    for score, one in zip(cosine_similarity(embedding, model.embed_texts(TEXTS)), found, strict=True):
        (gradient,) = torch.autograd.grad(score, node, retain_graph=True)
        total = torch.zeros(len(keys) - 1)
        for row, slope in zip(query, gradient, strict=True):
            likeness = cosine_similarity(row[None], keys[1:])
            total += (likeness - likeness.min()) / (likeness.max() - likeness.min()) * (values[1:] @ slope)
        assert torch.allclose(one, total.relu().detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["coca", "custom", "timm_token", "eva", "siglip", "resnet"])
def test_a_single_head_works_on_every_kind(kind):
    net = open_clip_models.network(kind)
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(TEXTS)
    found = whybox.explain(model, image(), heads="single", layers=1 if kind == "resnet" else 2)
    assert found.maps.values.isfinite().all()
    assert found.maps.options["explained_score"] != pytest.approx(found.maps.options["own_score"], abs=1e-7)


def test_below_a_pool_no_patch_is_special():
    """Without positions, patches that change places change places in the map, in every layer that is explained."""
    net = hf_models.stirred(hf_models.siglip())
    with torch.no_grad():
        net.vision_model.embeddings.position_embedding.weight.zero_()
    processor = hf_models.transformers.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=0)
    model = whybox.load(net, processor=processor, tokenizer=hf_models.tokenizer(start="")).prompt(TEXTS)
    picture = (image(32) * 255).round() / 255
    for layers in (1, 2, 3):
        one, other = (whybox.explain(model, each, layers=layers).maps.values for each in (picture, picture.roll((8, 16), (1, 2))))
        assert torch.allclose(one.roll((1, 2), (1, 2)), other, rtol=1e-3, atol=1e-5 * float(one.max()))
