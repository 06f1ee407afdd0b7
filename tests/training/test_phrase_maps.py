"""The maps of a batch in training are those of `whybox.explain`, image by image."""

import pytest
import torch

import whybox
from models.hf_models import stirred
from models.open_clip_models import KINDS
from training.finetuning import FAMILIES, pictures
from whybox.errors import WhyboxError
from whybox.methods._dense_features import dense_features
from whybox.models.image_text_pass import check_trainable, image_pass
from whybox.training import phrase_maps as module
from whybox.training.phrase_maps import phrase_maps

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

PHRASES = ["a red ball", "a green tree", "the car", "a red ball"]
OWNER = torch.tensor([0, 0, 2, 1])


MAKERS = {
    **FAMILIES,
    **{kind: lambda kind=kind: whybox.load(stirred(KINDS[kind](), 0.05)) for kind in ("sequence_first", "custom", "timm_token")},
}


@pytest.fixture(scope="module", params=MAKERS)
def model(request):
    torch.manual_seed(0)
    return MAKERS[request.param]()


def seen_by(model):
    images = pictures(3)
    encoder = model.image_encoder
    model.network.train()
    try:
        return image_pass(encoder, encoder.prepare(images)[0])
    finally:
        model.network.eval()


@pytest.mark.parametrize("method", ["grad_eclip", "gradcam", "maskclip"])
@pytest.mark.parametrize("at_once", [1, 64])
def test_maps_are_those_of_explain(model, method, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    maps = phrase_maps(method, seen_by(model), model.embed_texts(PHRASES), OWNER)
    assert not maps.requires_grad
    for row, (image, phrase) in enumerate(zip(OWNER.tolist(), PHRASES, strict=True)):
        expected = whybox.explain(model, pictures(3)[image], text=phrase, method=method).maps.native[0].flatten()
        assert torch.allclose(maps[row], expected.relu(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert maps.any()


def test_dense_features_are_those_of_one_image(model):
    seen = seen_by(model)
    many = seen.dense_features()
    for row, image in enumerate(pictures(3)):
        one = dense_features(model.transformer(model.trace(image)))
        assert torch.allclose(many[row], one, rtol=1e-4, atol=1e-5)
    assert many.requires_grad
    assert seen.embedding.requires_grad


def test_nothing_is_left_behind(model):
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    phrase_maps("gradcam", seen_by(model), model.embed_texts(PHRASES), OWNER)
    assert all(weight.grad is None for weight in model.network.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.network.modules())
    assert all(torch.equal(before[name], weight) for name, weight in model.network.state_dict().items())


def test_no_phrases(model):
    none = torch.zeros(0, dtype=torch.long)
    assert phrase_maps("grad_eclip", seen_by(model), torch.zeros(0, 24), none).shape == (0, 16)


@pytest.mark.parametrize("kind", ["siglip", "mean", "resnet"])
def test_a_model_that_pools_its_patches_is_refused(kind):
    model = whybox.load(KINDS[kind]())
    with pytest.raises(WhyboxError, match="pools its patches"):
        check_trainable(model.image_encoder, model.name)


def test_patch_dropout_is_refused():
    model = whybox.load(KINDS["bare"]())
    with pytest.raises(WhyboxError, match=r"got \[9\] tokens where 17 were expected: .* leave out patch dropout"):
        seen_by(model)
