"""raw_attention, rollout, game and legrad, held to plain matrix code over what hooks see of transformers' eager attention."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, layer_norm

import whybox
from models.hf_models import WORDS, clip, siglip, stirred, tokenizer, vit
from models.hf_versions import tokens_of, with_attention
from whybox.errors import GradientError, WhyboxError
from whybox.methods.game import Game, carry_back
from whybox.methods.legrad import LeGrad, legrad_map
from whybox.methods.raw_attention import RawAttention, raw_attention_map
from whybox.methods.rollout import Rollout, rollout_matrix
from whybox.ops.attention_flow import flow_back

TEXTS = ("a red ball", "a photo of a big blue dog", "tree")
METHODS = {"raw_attention": RawAttention, "rollout": Rollout, "game": Game, "legrad": LeGrad}
GRID = (4, 4)


def picture(seed=1, shape=(45, 60)):
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))


def prompted(net):
    return whybox.load(net, tokenizer=tokenizer()).prompt(list(TEXTS))


def score(trace):
    return trace.candidates.scores[trace.detections.source, trace.detections.labels]


def logit(trace):
    return trace.candidates.logits[trace.detections.source, trace.detections.labels]


def draw(method, model, trace, detections=None, target=score):
    (maps,) = method(model, trace, trace.detections if detections is None else detections, [target])
    assert len(maps) == len(trace.detections if detections is None else detections)
    assert maps.method == method.name
    return torch.stack(maps.native)


def with_probabilities(part, args, kwargs):
    """Before transformers 5 attention gives them only when asked to."""
    return args, {**kwargs, "output_attentions": True} if "output_attentions" in kwargs else kwargs


class Watched:
    """A copy of a network with eager attention, with hooks on its layers: each layer's probabilities (heads,N,N), and what it
    gives (N,C), with the whole network's graph."""

    def __init__(self, net, encoder, run):
        self.net = with_attention(copy.deepcopy(net), "eager")
        self.attention, self.after = [], []
        encoder = encoder(self.net)
        for layer in encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layer:
            attention = layer.attention if hasattr(layer, "attention") else layer.self_attn
            attention.register_forward_pre_hook(with_probabilities, with_kwargs=True)
            attention.register_forward_hook(lambda part, args, output: self.attention.append(output[1]))
            layer.register_forward_hook(lambda part, args, output: self.after.append(tokens_of(output)))
        self.output = run(self.net)

    def weighed(self, value, item=0):
        """Equation 5 of GAME for every layer: the mean over the heads of the positive part of gradient times attention."""
        slopes = torch.autograd.grad(value, self.attention, retain_graph=True)
        pairs = zip(slopes, self.attention, strict=True)
        return [(slope[item] * one[item].detach()).clamp(min=0).mean(0) for slope, one in pairs]


def relevance(weighed, size):
    carried = torch.eye(size)
    for one in weighed:
        carried = carried + one @ carried
    return carried


def rolled(attention, size):
    """0.5 A + 0.5 I, head-averaged, all layers multiplied as whole matrices."""
    product = torch.eye(size)
    for one in attention:
        product = (0.5 * one.detach().mean(0) + 0.5 * torch.eye(size)) @ product
    return product


@pytest.fixture(scope="module")
def seen():
    """A CLIP, its trace, and the same image and texts through a watched copy of both its sides."""
    torch.manual_seed(0)
    net = stirred(clip())
    model = prompted(net)
    trace = model.trace(picture())
    pixels, _ = model.image_encoder.prepare(picture()[None])
    read = tokenizer()(list(TEXTS), padding=True, return_tensors="pt")
    image = Watched(net, lambda one: one.vision_model.encoder, lambda one: one(pixel_values=pixels, **read))
    texts = Watched(net, lambda one: one.text_model.encoder, lambda one: one(pixel_values=pixels, **read))
    return model, trace, image, texts, read["input_ids"]


def cosines(output):
    return cosine_similarity(output.image_embeds, output.text_embeds)


def on_grid(row):
    return row[1:].reshape(GRID)


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5 * float(expected.abs().max()))


def test_raw_attention_is_the_class_tokens_row(seen):
    model, trace, image, _, _ = seen
    for index in (0, 2):
        expected = on_grid(image.attention[index][0].detach().mean(0)[0])
        for one in draw(RawAttention(layer=index), model, trace):
            assert_near(one, expected)
    for last in (-1, "-1", "2"):
        assert torch.equal(draw(RawAttention(), model, trace), draw(RawAttention(layer=last), model, trace))
    assert_near(draw(RawAttention(), model, trace)[1], expected)


def test_rollout_is_the_product_of_all_layers(seen):
    model, trace, image, _, _ = seen
    attention = [one[0] for one in image.attention]
    for start in (0, 1):
        expected = on_grid(rolled(attention[start:], 17)[0])
        for one in draw(Rollout(start_layer=start), model, trace):
            assert_near(one, expected)


def test_game_is_the_papers_matrix_of_each_text(seen):
    model, trace, image, _, _ = seen
    values = cosines(image.output)
    torch.testing.assert_close(values, trace.detections.scores, rtol=1e-4, atol=1e-6)
    for start in (0, 2):
        maps = draw(Game(start_layer=start), model, trace)
        for one, value in zip(maps, values, strict=True):
            assert_near(one, on_grid(relevance(image.weighed(value)[start:], 17)[0]))
    assert len(torch.unique(maps, dim=0)) == len(TEXTS)


def test_legrad_is_the_gradient_of_each_layers_mean_token(seen):
    model, trace, image, _, _ = seen
    vision, project = image.net.vision_model, image.net.visual_projection
    for layers in (None, 1):
        maps = draw(LeGrad(layers=layers), model, trace)
        for one, text in zip(maps, image.output.text_embeds, strict=True):
            total = torch.zeros(17)
            for attention, after in list(zip(image.attention, image.after, strict=True))[-(layers or 3) :]:
                read = project(vision.post_layernorm(after[0].mean(0)))
                value = cosine_similarity(read, text, dim=0)
                (slope,) = torch.autograd.grad(value, attention, retain_graph=True)
                total += slope[0].clamp(min=0).mean((0, 1))
            assert_near(one, on_grid(total))
    assert len(torch.unique(maps, dim=0)) == len(TEXTS)


def test_a_logit_is_explained_as_its_own_value(seen):
    model, trace, *_ = seen
    scale = float(trace.candidates.logits[0, 0] / trace.candidates.scores[0, 0])
    for method in (Game(), LeGrad()):
        assert not torch.equal(draw(method, model, trace), draw(method, model, trace, target=logit))
    assert_near(draw(LeGrad(), model, trace, target=logit), scale * draw(LeGrad(), model, trace))


def own(ids):
    """Positions of a text's own words."""
    special = torch.tensor([WORDS.index(one) for one in ("<pad>", "<start>", "<end>")])
    return ~torch.isin(ids, special)


def test_texts_are_explained_from_their_end(seen):
    model, trace, _, texts, ids = seen
    values, size = cosines(texts.output), ids.shape[1]
    ends = (ids == WORDS.index("<end>")).int().argmax(1)
    chosen = trace.detections[[2, 1, 1]]
    for method in (RawAttention(), Rollout(), Game()):
        (maps,) = method.explain_text(model, trace, chosen, [score])
        assert [text.text for text in maps.texts] == [TEXTS[2], TEXTS[1], TEXTS[1]]
        for found, label in zip(maps.values, (2, 1, 1), strict=True):
            attention = [one[label] for one in texts.attention]
            whole = {
                "raw_attention": lambda attention=attention: attention[-1].detach().mean(0),
                "rollout": lambda attention=attention: rolled(attention, size),
                "game": lambda label=label: relevance(texts.weighed(values[label], label), size),
            }[method.name]()
            assert_near(found, whole[ends[label]][own(ids[label])])


def test_a_text_reads_the_same_alone_and_beside_longer_ones(seen):
    model, trace, *_ = seen
    alone = model.prompt([TEXTS[0]])
    other = alone.trace(picture())
    for method in (RawAttention(), Rollout(), Game()):
        (beside,) = method.explain_text(model, trace, trace.detections[:1], [score])
        (single,) = method.explain_text(alone, other, other.detections, [score])
        assert_near(beside.values[0], single.values[0])


@pytest.fixture(scope="module")
def pooled():
    """A SigLIP, its trace, a watched copy, and its pooling head by hand: probabilities (heads,1,N) as nodes, and the value."""
    torch.manual_seed(0)
    net = stirred(siglip(), 0.1)
    model = prompted(net)
    trace = model.trace(picture())
    pixels, _ = model.image_encoder.prepare(picture()[None])
    watched = Watched(net, lambda one: one.vision_model.encoder, lambda one: one.vision_model(pixel_values=pixels))
    return model, trace, watched


def pool(watched, tokens):
    """SigLIP's head on tokens (N,C), written out: its probabilities and what it gives."""
    vision = watched.net.vision_model
    attention, norm = vision.head.attention, vision.post_layernorm
    normed = layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, norm.eps)
    weight, bias = attention.in_proj_weight.reshape(3, 32, 32), attention.in_proj_bias.reshape(3, 32)
    query = (vision.head.probe[0] @ weight[0].T + bias[0]).reshape(1, 4, 8).transpose(0, 1)
    keys, values = ((normed @ weight[i].T + bias[i]).reshape(-1, 4, 8).transpose(0, 1) for i in (1, 2))
    probabilities = (query @ keys.transpose(1, 2) / 8**0.5).softmax(-1)
    mixed = (probabilities @ values).transpose(0, 1).reshape(1, 32)
    out = attention.out_proj(mixed)
    return probabilities, (out + vision.head.mlp(vision.head.layernorm(out)))[0]


def test_where_the_model_pools_its_query_is_the_row(pooled):
    model, trace, watched = pooled
    probabilities, read = pool(watched, watched.after[-1][0])
    torch.testing.assert_close(read, watched.output.pooler_output[0], rtol=1e-4, atol=1e-5)
    attention = [one[0] for one in watched.attention]
    row = probabilities.detach().mean(0)
    assert_near(draw(RawAttention(), model, trace)[0], row.reshape(GRID))
    assert_near(draw(RawAttention(layer=0), model, trace)[0], attention[0].detach().mean((0, 1)).reshape(GRID))
    assert_near(draw(Rollout(), model, trace)[0], (row @ rolled(attention, 16)).reshape(GRID))
    for one, text in zip(draw(Game(), model, trace), model.embed_texts(list(TEXTS)), strict=True):
        value = cosine_similarity(read, text, dim=0)
        (slope,) = torch.autograd.grad(value, probabilities, retain_graph=True)
        top = (slope * probabilities.detach()).clamp(min=0).mean(0)
        assert_near(one, (top @ relevance(watched.weighed(value), 16)).reshape(GRID))


def test_legrad_pools_the_tokens_after_every_layer(pooled):
    model, trace, watched = pooled
    for layers in (None, 2):
        for one, text in zip(draw(LeGrad(layers=layers), model, trace), model.embed_texts(list(TEXTS)), strict=True):
            total = torch.zeros(16)
            for after in watched.after[-(layers or 3) :]:
                probabilities, read = pool(watched, after[0])
                (slope,) = torch.autograd.grad(cosine_similarity(read, text, dim=0), probabilities, retain_graph=True)
                total += slope.clamp(min=0).mean((0, 1))
            assert_near(one, total.reshape(GRID))


def test_where_the_answer_is_a_mean_the_map_is_the_mean_of_the_rows(seen):
    """The same CLIP, made to read the mean of its patches, the class token left out."""
    model, trace, image, _, _ = seen
    vision, project = image.net.vision_model, image.net.visual_projection
    transformer_pass = model.transformer(trace)
    read = transformer_pass.transformer.read
    averaging = replace(transformer_pass.transformer, pooling="mean", read=lambda rows: read(rows[:, 1:].mean(1, keepdim=True)))
    averaged = copy.copy(model)
    averaged.transformer = lambda trace: replace(transformer_pass, transformer=averaging)
    attention = [one[0] for one in image.attention]
    assert_near(draw(RawAttention(), averaged, trace)[0], on_grid(attention[-1].detach().mean(0)[1:].mean(0)))
    assert_near(draw(Rollout(), averaged, trace)[0], on_grid(rolled(attention, 17)[1:].mean(0)))
    mean = project(vision.post_layernorm(image.after[-1][0, 1:].mean(0)))
    value = cosine_similarity(mean, image.output.text_embeds[0], dim=0)
    assert_near(draw(Game(), averaged, trace)[0], on_grid((relevance(image.weighed(value), 17) - torch.eye(17))[1:].mean(0)))
    (slope,) = torch.autograd.grad(value, image.attention[-1], retain_graph=True)
    assert_near(draw(LeGrad(layers=1), averaged, trace)[0], on_grid(slope[0].clamp(min=0).mean((0, 1))))


def test_a_classifiers_logit_is_explained():
    torch.manual_seed(0)
    net = stirred(vit())
    model = whybox.load(net)
    trace = model.trace(picture())
    pixels, _ = model.image_encoder.prepare(picture()[None])
    watched = Watched(net, lambda one: one.vit, lambda one: one(pixel_values=pixels))
    maps = draw(Game(), model, trace, trace.detections[:2], logit)
    for one, label in zip(maps, trace.detections.labels.tolist(), strict=False):
        assert_near(one, on_grid(relevance(watched.weighed(watched.output.logits[0, label]), 17)[0]))


def without_structure(net):
    """No position tells patches apart; with an image of one color they are all the same token."""
    with torch.no_grad():
        net.vision_model.embeddings.position_embedding.weight.zero_()
    return net


@pytest.mark.parametrize("method", METHODS)
def test_patches_that_are_alike_get_the_same_value(method):
    torch.manual_seed(0)
    model = prompted(without_structure(stirred(clip())))
    maps = draw(METHODS[method](), model, model.trace(torch.full((3, 40, 40), 0.4)))
    torch.testing.assert_close(maps, maps[:, :1, :1].expand_as(maps), rtol=1e-3, atol=1e-9)
    assert (maps > 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_no_detection_gives_no_map_and_no_gradient_is_left(method, seen):
    model, trace, *_ = seen
    drawing = METHODS[method]()
    (empty,) = drawing(model, trace, whybox.Detections.empty(), [score])
    assert empty.at_image().shape == (0, 45, 60)
    if hasattr(drawing, "explain_text"):
        assert len(drawing.explain_text(model, trace, whybox.Detections.empty(), [score])[0]) == 0
    model.network.train()
    flags = [(part.training, len(part._forward_hooks)) for part in model.network.modules()]
    weights = [weight.clone() for weight in model.network.parameters()]
    expected = draw(drawing, model, trace)
    assert [(part.training, len(part._forward_hooks)) for part in model.network.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), weights, strict=True))
    assert all(weight.grad is None and weight.requires_grad for weight in model.network.parameters())
    model.network.eval()
    with torch.inference_mode():
        rows = trace.detections[torch.arange(len(TEXTS))]
        assert torch.equal(draw(drawing, model, trace, rows), expected)
    assert expected.isfinite().all()
    assert (expected >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_explained_in_float32(method):
    torch.manual_seed(0)
    net = stirred(clip()).bfloat16()
    model = prompted(net)
    kept = [weight.data_ptr() for weight in net.parameters()]
    maps = draw(METHODS[method](), model, model.trace(picture()))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert [weight.data_ptr() for weight in net.parameters()] == kept


@pytest.mark.parametrize("method", METHODS)
def test_through_the_public_door(method):
    torch.manual_seed(0)
    model = whybox.load(stirred(clip()), tokenizer=tokenizer())
    result = whybox.explain(model, picture(), text=list(TEXTS), method=method, words=method != "legrad")
    assert result.maps.at_image().shape == (3, 45, 60)
    if method == "legrad":
        with pytest.raises(WhyboxError, match="legrad gives no maps of words"):
            whybox.explain(model, picture(), text=list(TEXTS), method=method, words=True)
    else:
        assert [[word for word, _ in words] for words in result.words] == [text.split() for text in TEXTS]


def test_rollout_and_flow_by_hand():
    first, second = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
    matrices = [rollout_matrix(one) for one in (first, second)]
    # Rows: 0.5 * ([.5 .5], [0 1]) + 0.5 I = [.75 .25], [0 1]; second [1 0], [.125 .875].
    assert torch.equal(matrices[0], torch.tensor([[[0.75, 0.25], [0.0, 1.0]]]))
    read = flow_back(torch.tensor([[0.0, 1.0]]), matrices)
    assert torch.equal(read, torch.tensor([[0.125 * 0.75, 0.125 * 0.25 + 0.875]]))


def test_carrying_back_by_hand():
    first, second = torch.tensor([[[0.5, 0.0], [1.0, 0.25]]]), torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
    # R - I = (I + second) (I + first) - I, its first row: [0.5 + 2 * 1, 2 + 2 * 0.25].
    assert torch.equal(carry_back(torch.tensor([[1.0, 0.0]]), [first, second], [False, False]), torch.tensor([[2.5, 2.5]]))
    # A pool that takes [4 1] of the rows of I + first, [1.5 0] and [1 1.25].
    pool = torch.tensor([[[4.0, 1.0]]])
    assert torch.equal(carry_back(torch.ones(1, 1), [first, pool], [False, True]), torch.tensor([[7.0, 1.25]]))


def test_means_by_hand():
    assert torch.equal(legrad_map(torch.tensor([[[1.0, -1.0], [3.0, 2.0]]])), torch.tensor([2.0, 1.0]))
    assert torch.equal(
        raw_attention_map(torch.tensor([[[[0.25, 0.75]], [[1.0, 0.0]]]]), torch.tensor([[0.5]])), torch.tensor([[0.3125, 0.1875]])
    )


def test_options_that_do_not_fit_are_refused(seen):
    model, trace, *_ = seen
    with pytest.raises(WhyboxError, match="layer must be from 0 to 2, or from -1 down to -3, for 3 layers; got 3"):
        draw(RawAttention(layer=3), model, trace)
    with pytest.raises(WhyboxError, match="start_layer must be from 0 to 2"):
        draw(Rollout(start_layer=-4), model, trace)
    with pytest.raises(WhyboxError, match="start_layer must be from 0 to 2"):
        draw(Game(start_layer=3), model, trace)
    with pytest.raises(WhyboxError, match="number of an attention layer, got 'tokens'"):
        RawAttention(layer="tokens")
    with pytest.raises(WhyboxError, match="layers must be a whole number from 1 on, or None for all, got 0"):
        LeGrad(layers=0)
    for method in (Game(), LeGrad()):
        with pytest.raises(GradientError, match="does not depend"):
            draw(method, model, trace, target=lambda live: score(live).detach())
