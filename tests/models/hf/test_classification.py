from functools import cache

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import whybox
from models.hf_models import CLASSIFIERS, VISION, clip, stirred
from models.hf_versions import with_attention
from whybox.errors import WhyboxError
from whybox.model import Model
from whybox.models.hf.classification import FAMILIES, matches
from whybox.ops.transformer import attend

NAMES = list(CLASSIFIERS)


@cache
def network(name, attention="eager"):
    torch.manual_seed(0)
    return with_attention(stirred(CLASSIFIERS[name]()), attention)


@cache
def model_of(name, attention="eager"):
    return whybox.load(network(name, attention))


def picture(height=40, width=60, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image(height=40, width=60, seed=1):
    return torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1) / 255


def image_inputs(name, height=32, width=32):
    own = getattr(transformers, FAMILIES[name].processor)(size={"height": height, "width": width}, do_center_crop=False)
    return own(Image.fromarray(picture()), return_tensors="pt")


def away(ours, theirs):
    return float((ours.detach() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_and_layers_are_those_of_transformers(name, attention):
    model = model_of(name, attention)
    trace = model.trace(image())
    with torch.no_grad():
        output = network(name, attention)(**image_inputs(name), output_hidden_states=True)
    assert away(trace.candidates.logits, output.logits) < 1e-5
    assert away(trace.candidates.scores, output.logits.softmax(-1)) < 1e-5
    transformer_pass = model.transformer(trace)
    assert transformer_pass.first == {"vit": 1, "deit": 2}[name]
    for ours, theirs in zip(transformer_pass.tokens, output.hidden_states, strict=False):
        assert away(ours, theirs) < 1e-5
    assert len(transformer_pass.tokens) == 3


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_those_of_eager_attention(name):
    transformer_pass = model_of(name).transformer(model_of(name).trace(image()))
    with torch.no_grad():
        attentions = network(name)(**image_inputs(name), output_attentions=True).attentions
    for layer, tokens, theirs in zip(transformer_pass.transformer.layers, transformer_pass.tokens, attentions, strict=True):
        assert torch.allclose(attend(layer, tokens, probabilities=True).probabilities, theirs, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_predict_equals_trace(name):
    images = torch.stack([image(seed=1), image(seed=2)])
    for one, alone in zip(model_of(name).predict(images), images, strict=True):
        assert torch.allclose(one.scores, model_of(name).trace(alone).candidates.scores, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_interpolate_the_position_embeddings(name):
    model = whybox.load(network(name), size=(48, 24))
    trace = model.trace(image())
    assert model.transformer(trace).grid == (6, 3)
    with torch.no_grad():
        theirs = network(name)(**image_inputs(name, 48, 24), interpolate_pos_encoding=True).logits
    assert away(trace.candidates.logits, theirs) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_network_for_images_that_are_no_squares(name):
    torch.manual_seed(0)
    config = network(name).config.to_dict() | {"image_size": [32, 48]}
    net = stirred(type(network(name))(type(network(name).config)(**config)))
    trace = whybox.load(net).trace(image())
    assert trace.frame.network == (32, 48)
    with torch.no_grad():
        theirs = net(**image_inputs(name, 32, 48)).logits
    assert away(trace.candidates.logits, theirs) < 1e-5
    with pytest.raises(WhyboxError, match=r"made for images of 32x48 pixels, no square, .* cannot take 48x48"):
        whybox.load(net, size=(48, 48)).trace(image())


def test_classes_are_the_configurations():
    assert list(model_of("vit").classes) == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"]
    named = whybox.load(network("vit"), classes=["cat", "dog", "bird", "fish", "owl"])
    assert named.classes == ["cat", "dog", "bird", "fish", "owl"]
    found = named.trace(image()).detections
    assert found.labels.tolist() == named.trace(image()).candidates.scores[0].argsort(descending=True).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_comes_near(name, dtype):
    torch.manual_seed(0)
    net = stirred(CLASSIFIERS[name](), 0.05)
    wide = whybox.load(net).trace(image()).candidates.scores
    model = whybox.load(net.to(dtype))
    trace = model.trace(image())
    assert torch.allclose(trace.candidates.scores, wide, atol=0.02)
    (way,) = model.pullbacks(trace, trace.detections[:1], None, "auto")
    gradient = way.gradient(lambda narrowed: narrowed.candidates.logits[:, 0]).gradient
    assert gradient.dtype == torch.float32
    assert gradient.any()
    assert {weight.dtype for weight in net.parameters()} == {dtype}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_loaded_by_name(name, tmp_path):
    network(name).save_pretrained(tmp_path)
    own = getattr(transformers, FAMILIES[name].processor)(size={"height": 24, "width": 24}, do_center_crop=False)
    own.save_pretrained(tmp_path)
    model = whybox.load(f"hf/{tmp_path}")
    assert model.name == f"hf/{tmp_path}"
    assert model.trace(image()).frame.network == (24, 24)
    assert torch.equal(model.network.classifier.weight, network(name).classifier.weight)
    found = whybox.load(type(network(name)).from_pretrained(tmp_path))
    assert found.trace(image()).frame.network == (24, 24)


def test_the_module_is_left_as_it_was():
    torch.manual_seed(0)
    net = CLASSIFIERS["vit"]().train()
    net.vit.embeddings.requires_grad_(False)
    needs = [weight.requires_grad for weight in net.parameters()]
    model = whybox.load(net)
    trace = model.trace(image())
    list(model.pullbacks(trace, trace.detections, None, "auto"))
    assert all(part.training for part in net.modules())
    assert [weight.requires_grad for weight in net.parameters()] == needs
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_what_has_no_classifier_is_refused_in_one_line():
    body = transformers.ViTModel(transformers.ViTConfig(**VISION))
    assert matches(body)
    with pytest.raises(
        WhyboxError, match="ViTModel has no single classifier to explain: load ViTForImageClassification"
    ) as error:
        whybox.load(body)
    assert "\n" not in str(error.value)
    teacher = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**VISION, num_labels=5))
    with pytest.raises(WhyboxError, match="has no single classifier to explain: load DeiTForImageClassification"):
        whybox.load(teacher)


def test_a_classifier_reads_no_text():
    with pytest.raises(WhyboxError, match="hf/vit reads no text: it has classes of its own"):
        model_of("vit").prompt(["a red ball"])


def test_modules_of_other_makes_are_not_taken():
    assert not matches(torch.nn.Linear(2, 2))
    assert not matches(clip())
    assert isinstance(model_of("vit"), Model)
