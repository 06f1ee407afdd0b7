"""Grad-ECLIP against hooks and autograd on the module itself, and the identities of the paper."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

import whybox
from methods.small_clip import TEXTS, image, load_small, make_clip, tokenizer
from whybox.errors import WhyboxError
from whybox.methods.grad_eclip import GradEclip
from whybox.ops.transformer import attend, take_rows


@pytest.fixture(scope="module")
def clip():
    return make_clip()


@pytest.fixture(scope="module")
def model(clip):
    return load_small(clip).prompt(TEXTS)


def minmax(values):
    return (values - values.min()) / (values.max() - values.min())


def with_one_head(attention):
    """The module itself as one head over its full width."""
    attention.num_heads, attention.head_dim, attention.scale = 1, attention.embed_dim, attention.embed_dim**-0.5


def by_hooks(clip, model, index, weighting="cosine"):
    """The map of text `index` from hooks on the last layer of the running module: nothing of whybox but the pixels and ids."""
    attention = clip.vision_model.encoder.layers[-1].self_attn
    seen = {}

    def keep_input(module, args):
        seen["o"] = args[0].requires_grad_()
        return (seen["o"],)

    handles = [attention.out_proj.register_forward_pre_hook(keep_input)]
    for name in ("q", "k", "v"):
        part = getattr(attention, f"{name}_proj")
        handles.append(part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out)))
    pixels, _ = model.image_encoder.prepare(image()[None])
    embedding = clip.get_image_features(pixel_values=pixels)
    embedding = getattr(embedding, "pooler_output", embedding)
    score = cosine_similarity(embedding, model.embed_texts([TEXTS[index]]))
    (gradient,) = torch.autograd.grad(score.sum(), seen["o"])
    for handle in handles:
        handle.remove()
    query, keys, values = (seen[name][0].detach() for name in "qkv")
    if weighting == "projected":
        query, keys = attention.out_proj(query).detach(), attention.out_proj(keys).detach()
    cosine, products = cosine_similarity(query[:1], keys[1:]), keys[1:] @ query[0] / keys.shape[1] ** 0.5
    likeness = products if weighting == "logits" else cosine
    weights = torch.ones_like(likeness) if weighting == "none" else minmax(likeness)
    return (weights * (values[1:] @ gradient[0, 0])).relu().reshape(4, 4), score.item()


@pytest.mark.parametrize("weighting", ["cosine", "projected", "logits", "none"])
def test_the_map_is_that_of_hooks_on_the_module(clip, model, weighting):
    result = whybox.explain(model, image(), weighting=weighting)
    for i in range(len(TEXTS)):
        expected, score = by_hooks(clip, model, i, weighting)
        assert torch.allclose(result.maps.native[i], expected, rtol=1e-4, atol=1e-7)
        assert result.maps.options["explained_score"][i] == pytest.approx(score, abs=1e-5)
        assert result.maps.options["own_score"][i] == pytest.approx(score, abs=1e-5)


def test_a_single_head_is_the_module_with_one_head_in_its_last_layer(model):
    changed = make_clip()
    with_one_head(changed.vision_model.encoder.layers[-1].self_attn)
    found = whybox.explain(model, image(), heads="single")
    for i in range(len(TEXTS)):
        expected, score = by_hooks(changed, model, i)
        assert torch.allclose(found.maps.native[i], expected, rtol=1e-4, atol=1e-7)
        assert found.maps.options["explained_score"][i] == pytest.approx(score, abs=1e-5)


def test_several_texts_at_once_are_the_same_as_one_by_one(model):
    together = whybox.explain(model, image()).maps
    for i, text in enumerate(TEXTS):
        alone = whybox.explain(model, image(), text=text).maps
        assert torch.allclose(alone.native[0], together.native[i], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("single", [False, True])
def test_without_its_spatial_weight_the_map_is_the_gradient_by_the_attention(model, single):
    """g . v_i = sum over heads of ds/da_i, by autograd through materialised probabilities."""
    transformer_pass = model.transformer(model.trace(image()))
    layer, tokens = transformer_pass.transformer.layers[-1], transformer_pass.tokens[-1]
    heads = 1 if single else layer.heads
    attended = attend(layer, tokens, rows=transformer_pass.row, single_head=single, probabilities=True)
    weights = attended.probabilities.detach().requires_grad_()
    values = attended.values.detach().unflatten(-1, (heads, -1)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(-2)
    after = layer.finish(take_rows(tokens, transformer_pass.row), layer.out(mixed))
    score = cosine_similarity(transformer_pass.transformer.read(after), model.embed_texts([TEXTS[0]]))
    (gradient,) = torch.autograd.grad(score.sum(), weights)
    expected = gradient[0, :, 0, 1:].sum(0).relu().reshape(4, 4)
    found = whybox.explain(model, image(), weighting="none", heads="single" if single else "native").maps.native[0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_a_single_head_explains_another_score_and_says_so(model):
    options = whybox.explain(model, image(), heads="single").maps.options
    assert options["own_score"] == pytest.approx(whybox.explain(model, image()).detections.scores.tolist(), abs=1e-5)
    assert options["explained_score"] != pytest.approx(options["own_score"], abs=1e-6)


def test_several_layers_add_up_after_the_relu(model):
    """With weights left out, each layer's map is that of autograd at what enters its output projection."""
    trace = model.trace(image())
    transformer_pass = model.transformer(trace)
    nodes, values, tokens = [], [], transformer_pass.tokens[-2]
    for layer in transformer_pass.transformer.layers[-2:]:
        attended = attend(layer, tokens)
        node = attended.mixed if attended.mixed.requires_grad else attended.mixed.detach().requires_grad_()
        nodes.append(node)
        values.append(attended.values.detach())
        tokens = layer.finish(tokens, layer.out(node))
    score = cosine_similarity(transformer_pass.transformer.read(tokens[:, :1]), model.embed_texts([TEXTS[1]]))
    gradients = torch.autograd.grad(score.sum(), nodes)
    expected = sum((v[0, 1:] @ g[0, 0]).relu() for v, g in zip(values, gradients, strict=True)).reshape(4, 4)
    found = whybox.explain(model, trace, weighting="none", layers=2).maps.native[1]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)


def text_by_hooks(clip, model, index, layers, published=False):
    """The text's tokens by hooks on the running text encoder; published: padded, and every position in the min-max."""
    seen = {}
    handles = []
    for number, block in enumerate(clip.text_model.encoder.layers[-layers:]):
        attention = block.self_attn

        def keep_input(module, args, number=number):
            seen["o", number] = args[0] if args[0].requires_grad else args[0].requires_grad_()
            return (seen["o", number],)

        handles.append(attention.out_proj.register_forward_pre_hook(keep_input))
        for name in ("q", "k", "v"):
            part = getattr(attention, f"{name}_proj")
            hook = lambda _, __, out, name=name, number=number: seen.__setitem__((name, number), out)
            handles.append(part.register_forward_hook(hook))
    padding = {"padding": "max_length", "max_length": 16} if published else {}
    given = tokenizer()([TEXTS[index]], return_tensors="pt", **padding)
    ids = given["input_ids"]
    embedding = clip.get_text_features(input_ids=ids, attention_mask=given["attention_mask"])
    embedding = getattr(embedding, "pooler_output", embedding)
    pixels, _ = model.image_encoder.prepare(image()[None])
    picture = clip.get_image_features(pixel_values=pixels)
    score = cosine_similarity(embedding, getattr(picture, "pooler_output", picture).detach())
    gradients = torch.autograd.grad(score.sum(), [seen["o", number] for number in range(layers)])
    for handle in handles:
        handle.remove()
    end = int((ids[0] == 1).nonzero()[0])
    kept = slice(0, 16) if published else slice(1, end)
    total = torch.zeros(end - 1)
    for number, gradient in enumerate(gradients):
        query, keys, values = (seen[name, number][0].detach() for name in "qkv")
        likeness = cosine_similarity(query[end : end + 1], keys)
        low, high = likeness[kept].min(), likeness[kept].max()
        total += (likeness[1:end] - low) / (high - low) * (values[1:end] @ gradient[0, end])
    return total.relu()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_words_are_those_of_hooks_on_the_text_encoder(clip, model, layers):
    result = whybox.explain(model, image(), text_layers=layers, words=True)
    for i, values in enumerate(result.token_maps.values):
        assert torch.allclose(values, text_by_hooks(clip, model, i, layers), rtol=1e-4, atol=1e-7)


def test_all_positions_of_the_padded_context_as_published(clip, model):
    result = whybox.explain(model, image(), text_kept="all", text_layers=2, words=True)
    for i, values in enumerate(result.token_maps.values):
        assert torch.allclose(values, text_by_hooks(clip, model, i, 2, published=True), rtol=1e-4, atol=1e-7)


def test_tokens_and_words_are_those_of_the_text(model):
    result = whybox.explain(model, image(), words=True)
    assert [token for token, _ in result.tokens[0]] == ["a", "red", "ball"]
    assert [word for word, _ in result.words[1]] == ["the", "tree", "left", "of", "a", "car"]
    assert result.words[0] == result.tokens[0]
    assert result.peak == tuple(float(one.max()) for one in result.maps.native)


def test_padding_changes_nothing_but_where_the_published_code_lets_it(model):
    longer = [TEXTS[1], "the photo of a car left of a red ball left of a tree"]
    alone = whybox.explain(model, image(), text=longer[0], words=True).token_maps.values[0]
    beside = whybox.explain(model, image(), text=longer, words=True).token_maps.values[0]
    assert alone.max() > 0
    assert torch.allclose(alone, beside, rtol=1e-4, atol=1e-8)
    published = whybox.explain(model, image(), text=longer, text_kept="all", words=True).token_maps.values[0]
    assert not torch.allclose(alone, published, rtol=1e-2)


def test_sdpa_and_eager_attention_give_the_same_maps(model):
    eager = load_small(make_clip("eager")).prompt(TEXTS)
    one, other = (whybox.explain(each, image(), words=True) for each in (model, eager))
    assert torch.allclose(one.maps.values, other.maps.values, rtol=1e-4, atol=1e-8)
    for a, b in zip(one.token_maps.values, other.token_maps.values, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


def test_half_precision_is_explained_in_float32(clip):
    half = load_small(make_clip().to(torch.bfloat16))
    result = whybox.explain(half, image(), text=TEXTS)
    full = whybox.explain(load_small(clip), image(), text=TEXTS)
    assert result.maps.values.dtype == torch.float32
    assert cosine_similarity(result.maps.values.flatten(1), full.maps.values.flatten(1)).min() > 0.98
    assert {weight.dtype for weight in half.network.parameters()} == {torch.bfloat16}


def test_nothing_is_left_on_the_model(clip, model):
    before = {name: (weight.clone(), weight.requires_grad, weight.grad) for name, weight in clip.named_parameters()}
    clip.train()
    whybox.explain(model, image(), layers=2, heads="single", words=True)
    assert clip.training
    clip.eval()
    for name, weight in clip.named_parameters():
        kept, needed, gradient = before[name]
        assert torch.equal(weight, kept)
        assert (weight.requires_grad, weight.grad) == (needed, gradient)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in clip.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(model, mode):
    expected = whybox.explain(model, image(), words=True)
    with mode():
        found = whybox.explain(model, image(), words=True)
        assert torch.equal(found.maps.values, expected.maps.values)
        assert torch.equal(found.token_maps.values[1], expected.token_maps.values[1])


def test_a_contrast_of_two_texts_is_a_target(model):
    found = whybox.explain(model, image(), target=f"contrast:{TEXTS[1]}", text=TEXTS)
    assert found.maps.native[1].abs().max() == 0
    assert found.maps.native[0].max() > 0


def test_no_text_is_no_map(model):
    trace = model.trace(image())
    none = trace.detections[torch.zeros(0, dtype=torch.long)]
    assert len(whybox.explain(model, trace, detections=none).maps) == 0


def test_maps_without_preference_of_place_stay_finite(model):
    """Equal patches: every key is the same, so the spatial weight is 1 and the map is constant."""
    flat = torch.full((3, 64, 64), 0.5)
    transformer_pass = model.transformer(model.trace(flat))
    transformer_pass = replace(
        transformer_pass, tokens=tuple(torch.cat([t[:, :1], t[:, 1:2].expand(-1, 16, -1)], 1) for t in transformer_pass.tokens)
    )
    attended = attend(transformer_pass.transformer.layers[-1], transformer_pass.tokens[-1], rows=transformer_pass.row)
    weights = GradEclip()._weights(
        transformer_pass.transformer.layers[-1], attended.queries, attended.keys, transformer_pass.patches
    )
    assert weights[0, 0, 1:].tolist() == [1.0] * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "two"}, "heads"),
        ({"weighting": "cosin"}, "cosine"),
        ({"layers": 0}, "whole number from 1"),
        ({"text_layers": 1.5}, "whole number"),
        ({"text_kept": "some"}, "text_kept"),
    ],
)
def test_wrong_options_are_named(model, options, message):
    with pytest.raises(WhyboxError, match=message):
        whybox.explain(model, image(), **options)
