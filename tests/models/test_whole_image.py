"""What all models of whole images share: layers, ways back to them, and the check that they answer as they are."""

import pickle
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import ViTImageProcessor

import whybox
from methods.small_clip import TEXTS, image, load_small, make_clip, processor, tokenizer
from models import hf_models, open_clip_models
from models.hf_versions import tokens_of
from whybox.errors import GradientError, WhyboxError

SQUARE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def model():
    return load_small(make_clip()).prompt(TEXTS)


def by_hooks(model, module):
    """Gradient and output of a module at the patches, (T,C,4,4) and (C,4,4), through the module's own forward pass."""
    seen = []
    handle = module.register_forward_hook(lambda _, __, out: seen.append(tokens_of(out)) or None)
    pixels, _ = model.image_encoder.prepare(image()[None])
    embedding = model.network.get_image_features(pixel_values=pixels)
    handle.remove()
    scores = cosine_similarity(getattr(embedding, "pooler_output", embedding), model.embed_texts(TEXTS))
    rows = [torch.autograd.grad(score, seen[0], retain_graph=True)[0][0, 1:] for score in scores]
    return torch.stack([row.T.reshape(-1, 4, 4) for row in rows]), seen[0][0, 1:].T.reshape(-1, 4, 4).detach()


@pytest.mark.parametrize("layer", ["normed", "tokens", "blocks[1]", "vision_model.encoder.layers.0"])
def test_gradients_are_those_of_hooks_on_the_module(model, layer):
    blocks = model.network.vision_model.encoder.layers
    modules = {"normed": blocks[-1].layer_norm1, "tokens": blocks[1], "blocks[1]": blocks[0]}
    expected, features = by_hooks(model, modules.get(layer, blocks[0]))
    trace = model.trace(image())
    ways = list(model.pullbacks(trace, trace.detections, layer, "auto"))
    found = torch.cat(
        [way.gradient(lambda trace: trace.candidates.scores[range(2), trace.detections.labels]).gradient for way in ways]
    )
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)
    assert torch.allclose(ways[0].features, features, rtol=1e-4, atol=1e-5)


def test_before_a_norm_gradient_times_feature_is_nothing(model):
    """A norm does not depend on the length of a token, so ODAM needs its output."""
    before = whybox.explain(model, image(), method="odam", layer="tokens").peak
    behind = whybox.explain(model, image(), method="odam").peak
    assert max(before) < 1e-4 * min(behind)


def test_predict_answers_as_the_trace(model):
    (one,) = model.predict(image()[None])
    trace = model.trace(image())
    assert torch.allclose(one.scores, trace.candidates.scores, atol=1e-5)
    assert torch.allclose(one.logits, trace.candidates.logits, atol=1e-4)
    assert model.predict(image()[None][:0]) == []


def test_a_layer_that_is_not_as_the_library_wrote_it_is_not_explained_by_its_pieces():
    """An attention that whybox does not know of: the parts no longer make the whole, and no method that needs them runs."""
    clip = make_clip()
    own = clip.vision_model.encoder.layers[1].self_attn.forward
    clip.vision_model.encoder.layers[1].self_attn.forward = lambda hidden_states, **rest: (
        own(hidden_states, **rest)[0] * 3,
        None,
    )
    model = load_small(clip)
    pixels, _ = model.image_encoder.prepare(image()[None])
    embedding = clip.get_image_features(pixel_values=pixels)
    trace = model.prompt(["a car"]).trace(image())
    assert torch.allclose(trace.embedding, getattr(embedding, "pooler_output", embedding), atol=1e-6)
    whybox.explain(model, image(), text="a car")
    for method in ("rollout", "game", "legrad", "m2ib", "clip_surgery:layers=3"):
        with pytest.raises(WhyboxError, match=r"does not reproduce|do not reproduce"):
            whybox.explain(model, image(), text="a car", method=method, **({"layer": 0} if method == "m2ib" else {}))


def test_texts_and_models_that_do_not_fit_are_told(model):
    bare = load_small(make_clip())
    with pytest.raises(WhyboxError, match="say which, text="):
        whybox.explain(bare, image())
    with pytest.raises(WhyboxError, match="empty list"):
        whybox.explain(bare, image(), text=[])
    with pytest.raises(WhyboxError, match="a text, an embedding"):
        whybox.explain(bare, image(), text=[3])
    with pytest.raises(WhyboxError, match=r"2 images and 3 lists of texts; text=\['a', 'b'\] asks every image"):
        whybox.explain(bare, [image(), image()], text=[["a"], ["car"], ["ball"]])
    with pytest.raises(WhyboxError, match=r"mixes texts and lists of texts; .*text=\[\['a'\], \['b', 'c'\]\] has a list"):
        whybox.explain(bare, [image(), image()], text=["a car", ["a tree", "the ball"]])
    with pytest.raises(WhyboxError, match="has lists for several images, and there is one image"):
        whybox.explain(bare, image(), text=[["a car"], ["a tree"]])
    with pytest.raises(WhyboxError, match="reads no text"):
        whybox.explain(whybox.load("whybox/scenes"), image(), text="a car")
    with pytest.raises(WhyboxError, match="text"):
        whybox.explain(bare, image(), text="   ")


def test_a_list_of_images_takes_the_same_texts_or_a_list_each():
    bare = load_small(make_clip())
    each = whybox.explain(bare, [image(), image().flip(-1)], text=[["a car"], ["a tree", "the ball"]])
    assert [one.classes for one in each] == [["a car"], ["a tree", "the ball"]]
    same = whybox.explain(bare, [image(), image().flip(-1)], text=["a car", "a tree"])
    assert [one.classes for one in same] == [["a car", "a tree"]] * 2
    assert [one.classes for one in whybox.explain(bare, [image()] * 2, text="a car")] == [["a car"]] * 2


@pytest.mark.parametrize("before", [(), ("a dog",), TEXTS])
def test_one_trace_serves_texts_that_came_later(model, before):
    first = model.prompt(before) if before else load_small(model.network)
    trace = whybox.trace(first, image())
    options = {"text": ["a red ball", "a tree"], "words": True, "single_words": True}
    later = whybox.explain(first, trace, **options)
    alone = whybox.explain(first, image(), **options)
    assert torch.allclose(later.detections.scores, alone.detections.scores, atol=1e-6)
    assert torch.equal(later.detections.boxes, alone.detections.boxes)
    assert torch.allclose(later.maps.values, alone.maps.values, atol=1e-6)
    assert later.words == alone.words
    assert torch.equal(later.single_words.maps.values, alone.single_words.maps.values)
    assert len(trace.detections) == len(before), "the trace itself is as it was"


def test_only_some_texts_can_be_asked_for(model):
    one = whybox.explain(model, image(), detections={"labels": [TEXTS[1]]}, words=True)
    assert one.names == (TEXTS[1],)
    assert torch.allclose(one.maps.native[0], whybox.explain(model, image()).maps.native[1])
    assert len(one.words) == 1


def test_a_model_travels_to_another_process_as_it_is(model):
    classifier = whybox.load(hf_models.stirred(hf_models.vit()), name="mine", processor=ViTImageProcessor(size=SQUARE))
    classifier.classes = ["cat", "dog", "car", "tree", "ball"]
    there = pickle.loads(pickle.dumps(classifier))
    assert (there.name, list(there.classes)) == ("mine", list(classifier.classes))
    assert torch.equal(there.trace(image()).candidates.scores, classifier.trace(image()).candidates.scores)
    asked = pickle.loads(pickle.dumps(model))
    assert list(asked.classes) == TEXTS
    assert torch.equal(asked.trace(image()).candidates.scores, model.trace(image()).candidates.scores)


def test_a_model_of_texts_has_no_class_names_of_its_own(model):
    with pytest.raises(WhyboxError, match="leave classes out"):
        model.classes = ["cat"]


def test_a_trace_of_other_texts_is_answered_with_these(model):
    """A trace keeps the image; what is asked about it may be newer."""
    others = ["a ball", "the photo of a car", "a tree"]
    asked = model.prompt(others)
    old = model.trace(image())
    found = whybox.explain(asked, old)
    assert found.names == tuple(others)
    assert torch.equal(found.detections.scores, asked.trace(image()).detections.scores)
    assert torch.equal(whybox.detect(asked, old, score_threshold=-1.0).scores, found.detections.scores)


def test_every_text_that_was_asked_for_is_explained(model):
    many = [f"a {'red ' * (i % 4)}ball {'left ' * (i // 4)}" for i in range(120)]
    assert len(whybox.explain(model, image(), text=many)) == 120
    assert len(whybox.explain(model, image(), text=many, top=7)) == 7


def test_explanations_of_texts_are_plain_data(model):
    """Neither the trace nor the network hangs on: it travels through pickle, and reading it runs nothing."""
    result = whybox.explain(model, image(), words=True, single_words=True)
    there = pickle.loads(pickle.dumps(result))
    assert (there.words, there.single_words.names) == (result.words, result.single_words.names)
    assert torch.equal(there.single_words.maps.values, result.single_words.maps.values)
    assert len(pickle.dumps(result)) < 500_000
    with frozen_network(model):
        assert result.words
        assert result._repr_html_()


def test_words_that_were_not_asked_for_are_told(model):
    result = whybox.explain(model, image())
    assert (result.token_maps, result.single_words) == (None, None)
    for name in ("words", "tokens"):
        with pytest.raises(WhyboxError, match=rf"holds no {name}: whybox.explain\(..., words=True\) computes them"):
            getattr(result, name)
    with pytest.raises(WhyboxError, match="single_words are explained for target score or logit"):
        whybox.explain(model, image(), target=f"contrast:{TEXTS[1]}", single_words=True)
    with pytest.raises(WhyboxError, match=r"legrad gives no maps of words; methods that do: .*grad_eclip"):
        whybox.explain(model, image(), method="legrad", words=True)
    with pytest.raises(WhyboxError, match="reads no text, so that there are no words"):
        whybox.explain(whybox.load("whybox/scenes"), image(), words=True)


@contextmanager
def frozen_network(model):
    """Inside, a pass through the network is an error."""
    handle = model.network.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        yield
    finally:
        handle.remove()


def test_a_text_encoder_whose_pieces_do_not_reproduce_it_is_refused():
    clip = make_clip()
    attention = clip.text_model.encoder.layers[1].self_attn
    own = attention.forward
    attention.forward = lambda hidden_states, **rest: (own(hidden_states, **rest)[0] * 3, None)
    with pytest.raises(WhyboxError, match="run one by one, do not reproduce"):
        whybox.explain(load_small(clip), image(), text="a car", words=True)


def test_texts_encoded_apart_are_those_of_the_whole(model):
    trace = model.trace(image())
    both, second = model.text_transformer(trace), model.text_transformer(trace, torch.tensor([1]))
    assert torch.allclose(both.embedding[1:], second.embedding, atol=1e-5)
    assert model.text_transformer(trace, torch.zeros(0, dtype=torch.long)).embedding.shape == (0, 24)


def test_autocast_does_not_reach_the_explained_layers(model):
    plain = whybox.explain(model, image())
    trace = model.trace(image())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = whybox.explain(model, trace, words=True)
        assert inside.token_maps.values[1].dtype == torch.float32
    assert torch.allclose(inside.maps.values, plain.maps.values, rtol=1e-5, atol=1e-8)


def test_words_can_be_read_outside_the_autocast_of_the_explanation(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = whybox.explain(load_small(make_clip()), image(), text=TEXTS, words=True)
    assert len(result.words) == 2


@pytest.mark.parametrize("method", ["grad_eclip", "game", "legrad", "m2ib", "gradcam"])
def test_a_target_without_a_gradient_is_told(model, method):
    with pytest.raises(GradientError, match="does not depend on"):
        whybox.explain(model, image(), method=method, target=lambda trace: trace.detections.scores * 1)


@pytest.mark.parametrize("target", ["x1", "combined"])
def test_a_text_has_no_box(model, target):
    with pytest.raises(WhyboxError, match="is about a box"):
        whybox.explain(model, image(), target=target)


def test_methods_that_do_not_look_at_the_text_say_so(model):
    assert all("does not depend on the target" in note for note in whybox.explain(model, image(), method="rollout").notes)
    assert whybox.explain(model, image()).notes == ("", "")


def test_more_layers_than_there_are_is_told(model):
    with pytest.raises(WhyboxError, match="layers must be at most 3"):
        whybox.explain(model, image(), layers=4)


def test_what_comes_back_is_short_when_it_is_printed(model):
    assert repr(model) == "<hf/clip: image-text, 2 texts, cpu>"
    shown = repr(whybox.explain(model, image()))
    assert shown == "<Explanation of image: 2 texts or classes of hf/clip, grad_eclip score>"


def test_weights_made_under_inference_mode_are_told():
    with torch.inference_mode():
        clip = make_clip()
    with pytest.raises(GradientError, match="inference_mode"):
        whybox.explain(load_small(clip), image(), text="a car")


def test_half_a_character_is_told(model):
    with pytest.raises(WhyboxError, match="half a character"):
        whybox.explain(model, image(), text="a \ud800 ball")


def test_pixels_that_fill_no_patch_are_not_in_the_map():
    """70 pixels hold 4 patches of 16: the last 6 rows and columns are not looked at."""
    net = open_clip_models.shaken(open_clip_models.clip({"image_size": 70})).eval()
    model = whybox.load(net, tokenizer=open_clip_models.tokenizer())
    square = torch.rand((3, 140, 140), generator=torch.Generator().manual_seed(0))
    result = whybox.explain(model, square, text="a car")
    assert (result.maps.frame.network, result.maps.frame.resized) == ((64, 64), (70, 70))
    assert result.maps.values.shape == (1, 4, 4)
    assert whybox.explain(model, square, text="a car", method="input_x_gradient").maps.values.shape == (1, 64, 64)
    assert result.maps.at_image()[0, 130:].abs().max() == 0


def test_an_image_of_far_too_many_patches_is_refused():
    model = whybox.load(make_clip(), processor=processor(), tokenizer=tokenizer(), size=(16, 16 * 20_000))
    with pytest.raises(WhyboxError, match="are 20000 patches"):
        whybox.explain(model, image(), text="a car")
