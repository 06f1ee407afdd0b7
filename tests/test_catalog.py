"""What there is, by name, and what an unknown model's name is answered with."""

import pytest
import torchvision
import transformers

import whybox
from methods.small_clip import load_small, make_clip
from models.detectors import detector
from whybox import registry
from whybox.errors import UnknownNameError, WhyboxError


@pytest.fixture(scope="module")
def fcos():
    return whybox.load(detector("fcos_resnet50_fpn"))


@pytest.fixture(scope="module")
def clip():
    return load_small(make_clip())


def test_methods_are_listed_and_filtered_by_what_works(fcos, clip):
    assert whybox.list_methods() == list(registry.methods())
    assert {"odam", "drise"} <= set(whybox.list_methods(fcos))
    assert "grad_eclip" not in whybox.list_methods(fcos)
    assert {"grad_eclip", "m2ib"} <= set(whybox.list_methods(clip))


def test_metrics_are_filtered_by_what_is_given():
    assert whybox.list_metrics() == list(registry.metrics())
    assert "text_deletion" not in whybox.list_metrics({"box", "mask"})
    assert {"pixel_ap", "odi"} <= set(whybox.list_metrics({"box", "mask"}))
    assert {"deletion", "insertion", "sparseness"} <= set(whybox.list_metrics(["predict"]))
    assert "pixel_ap" not in whybox.list_metrics(["predict"])


def test_targets_are_those_of_the_kind(fcos, clip):
    assert whybox.list_targets() == list(registry.targets())
    assert {"score", "x1", "combined"} <= set(whybox.list_targets(fcos))
    assert whybox.list_targets(clip) == ["score", "logit", "against", "contrast:CLASS"]


def test_models_are_filtered_by_a_pattern():
    names = whybox.list_models()
    assert {"whybox/scenes", "torchvision/fcos_resnet50_fpn", "hf/facebook/detr-resnet-50", "open_clip/ViT-B-16"} <= set(names)
    assert whybox.list_models("*FCOS*") == ["torchvision/fcos_resnet50_fpn"]
    assert whybox.list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("openai/clip-vit-base-patch16", r"hf/openai/clip-vit-base-patch16$"),
        ("facebook/detr-resnet-50", r"hf/facebook/detr-resnet-50$"),
        ("someone/their-model", r"for a Hugging Face repository: hf/someone/their-model$"),
        ("detr-resnet-50", r"did you mean hf/facebook/detr-resnet-50\?$"),
        ("ViT-B-16", r"did you mean open_clip/ViT-B-16\?$"),
        ("vit-b-16", r"did you mean open_clip/ViT-B-16\?$"),
        ("fcos_resnet50_fpn", r"did you mean torchvision/fcos_resnet50_fpn\?$"),
        ("scenes", r"did you mean whybox/scenes\?$"),
        (
            "yolov8n.pt",
            r"whybox.load\(module, candidates=fn, features=.*'yolov8n.pt' \(.*ultralytics/yolov8n.pt\)$",
        ),
        ("runs/best.pth", r"a file of weights is not a model"),
        ("model.onnx", r"a .onnx file has no gradients"),
        ("zzz", r"a name starts with one of whybox/, .*hf/.*; see whybox models$"),
    ],
)
def test_an_unknown_model_is_answered_with_what_would_work(name, suggested):
    with pytest.raises(UnknownNameError, match=suggested) as caught:
        whybox.load(name)
    assert str(caught.value).startswith(f"unknown model {name!r}; ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 260


RESNET = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
OF_CLASSIFIERS = "of classifiers, whybox explains Hugging Face's ViT and DeiT, as in "


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torchvision.models.resnet18(weights=None), "torchvision's ResNet is an image classifier"),
        (lambda: torchvision.models.vit_b_32(weights=None), "torchvision's VisionTransformer is an image classifier"),
        (lambda: pytest.importorskip("timm").create_model("resnet18"), "timm's ResNet is an image classifier"),
        (lambda: pytest.importorskip("timm").create_model("vit_tiny_patch16_224"), "timm's VisionTransformer is an image class"),
        (lambda: transformers.ResNetForImageClassification(RESNET), "transformers's ResNetForImageClassification is an image cl"),
    ],
)
def test_classifiers_that_are_not_explained_are_told_which_are(make, said):
    with pytest.raises(WhyboxError, match=said) as caught:
        whybox.load(make())
    assert OF_CLASSIFIERS in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision/resnet50", "torchvision/vit_b_16", "timm/resnet50", "timm/vit_base_patch16_224"])
def test_the_name_of_a_classifier_is_no_mistyped_detector(name):
    with pytest.raises(UnknownNameError, match=r"classify images|classifies images") as caught:
        whybox.load(name, weights=None)
    assert OF_CLASSIFIERS in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_networks_for_other_tasks_are_sent_to_the_page_about_any_detector():
    with pytest.raises(UnknownNameError, match=r"torchvision's lraspp_mobilenet_v3_large is no detector; to use any detector"):
        whybox.load("torchvision/lraspp_mobilenet_v3_large", weights=None)
    segmenter = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(WhyboxError, match=r"LRASPP is not a supported model .* to use any detector, say how to read its output"):
        whybox.load(segmenter)
    with pytest.raises(UnknownNameError, match=r"did you mean .*fcos_resnet50_fpn"):
        whybox.load("torchvision/fcos_resnet50", weights=None)
