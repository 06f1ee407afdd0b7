"""The verbs as a user calls them."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import whybox
from methods.small_clip import load_small, make_clip
from models.detectors import detector, image
from whybox.data.scenes import draw_scene
from whybox.errors import UnknownNameError, WeightsError, WhyboxError
from whybox.methods.odam import Odam


@pytest.fixture(scope="module")
def model():
    return whybox.load(detector("fcos_resnet50_fpn"), classes=["background", "ball", "car", "dog", "house", "tree"])


def test_three_lines(tmp_path):
    Image.fromarray((image().permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "photo.png")
    result = whybox.explain(detector("fcos_resnet50_fpn"), tmp_path / "photo.png", score_threshold=0.1, top=4)
    assert len(result.detections) == len(result.maps) == 4
    assert result.maps.at_image().shape == (4, 150, 201)
    assert result.name == "photo.png"
    assert set(result.seconds) == {"trace", "maps"}


def test_a_trace_answers_many_questions(model):
    trace = whybox.trace(model, image())
    for target in ("score", "logit", "against", "x1", "y1", "x2", "y2", "l", "t", "r", "b", "combined", "contrast:dog"):
        result = whybox.explain(model, trace, target=target, score_threshold=0.1, top=2)
        assert result.maps.target == target
        assert result.maps.values.min() >= 0


def test_logit_and_against_share_no_evidence(model):
    trace = whybox.trace(model, image())
    favor, against = (whybox.explain(model, trace, target=name, score_threshold=0.1, top=3) for name in ("logit", "against"))
    assert torch.minimum(favor.maps.values, against.maps.values).max() == 0


def test_combined_is_the_maximum_of_the_scaled_maps(model):
    trace = whybox.trace(model, image())
    options = {"score_threshold": 0.1, "top": 3}
    parts = [whybox.explain(model, trace, target=name, **options).maps.normalized() for name in ("score", "x1", "y1", "x2", "y2")]
    combined = whybox.explain(model, trace, target="combined", **options).maps
    for i, native in enumerate(combined.native):
        expected = torch.stack([part[i].values[0] for part in parts]).amax(0)
        assert torch.allclose(native, expected, atol=1e-6)


def test_a_target_of_the_users_own(model):
    def width(trace):
        boxes = trace.candidates.boxes_of(trace.detections.source, trace.detections.labels)
        return boxes[:, 2] - boxes[:, 0]

    result = whybox.explain(model, image(), target=width, score_threshold=0.1, top=2)
    assert result.maps.target == "width"
    assert result.maps.values.any()


def test_a_list_of_images_of_several_sizes(model):
    results = whybox.explain(model, [image(1), image(2, 97, 130)], score_threshold=0.1, top=1)
    assert [result.maps.at_image().shape[1:] for result in results] == [(150, 201), (97, 130)]


def test_only_the_best_are_explained_in_the_detectors_order(model):
    trace = whybox.trace(model, image())
    found = whybox.detect(model, trace, score_threshold=0.0, top=5)
    assert torch.equal(found.scores, trace.detections.scores[:5])
    assert len(whybox.detect(model, trace, score_threshold=2.0)) == 0


def test_a_torchvision_dict_comes_in_and_goes_out(model):
    trace = whybox.trace(model, image())
    given = trace.detections[:3].to_dict()
    result = whybox.explain(model, trace, detections=given)
    assert result.detections.labels.tolist() == given["labels"].tolist()
    assert torch.allclose(result.detections.boxes, given["boxes"], atol=1e-3)
    assert set(result.detections.to_dict()) == {"boxes", "scores", "labels"}


def test_a_drawn_box_is_explained_with_a_note(model):
    result = whybox.explain(model, image(), detections={"boxes": [[20, 20, 90, 120]], "labels": ["dog"]}, target="against")
    assert result.notes[0].startswith("best candidate: IoU")


def test_models_by_name_with_local_weights(tmp_path):
    source = detector("ssdlite320_mobilenet_v3_large")
    save_file(source.state_dict(), tmp_path / "mine.safetensors")
    name = "torchvision/ssdlite320_mobilenet_v3_large"
    loaded = whybox.load(name, weights=tmp_path / "mine.safetensors", num_classes=6)
    assert loaded.name == name
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in loaded.network.state_dict().items())
    with pytest.raises(WeightsError, match=r"expects"):
        whybox.load(name, weights=str(tmp_path / "mine.safetensors"), num_classes=7)


def test_nan_weights_are_named():
    net = detector("ssdlite320_mobilenet_v3_large")
    weight = net.head.classification_head.module_list[0][1].bias
    kept = weight.detach().clone()
    try:
        weight.data[0] = float("nan")
        with pytest.raises(WeightsError, match=r"NaN or infinity in head\.classification_head\.module_list\.0\.1\.bias"):
            whybox.explain(net, image())
    finally:
        weight.data.copy_(kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "odm"}, "did you mean odam"),
        ({"target": "scor"}, "did you mean score"),
        ({"smooth": 1}, "no option 'smooth'"),
        ({"smoothing": "gauss"}, "did you mean gaussian"),
        ({"method": "drise", "route": "fast"}, "no option 'route'"),
        ({"target": "contrast:dgo"}, "did you mean dog"),
        ({"detections": {"boxes": [[500, 500, 600, 600]]}}, "outside the image"),
        ({"layer": "backbone.fpnn"}, "unknown layer"),
    ],
)
def test_a_mistake_is_one_line_with_a_way_out(model, options, message):
    with pytest.raises(WhyboxError, match=message) as caught:
        whybox.explain(model, image(), score_threshold=0.1, top=1, **options)
    assert "\n" not in str(caught.value)


def test_unknown_models_and_modules_say_what_is_known():
    with pytest.raises(UnknownNameError, match="fcos_resnet50_fpn"):
        whybox.load("torchvision/fcos")
    with pytest.raises(UnknownNameError, match="torchvision/"):
        whybox.load("detectron/fcos")
    with pytest.raises(WhyboxError, match="candidates=fn"):
        whybox.load(torch.nn.Linear(2, 2))


def test_an_empty_result_is_not_an_error(model):
    result = whybox.explain(model, image(), score_threshold=1.1)
    assert len(result) == 0
    assert result.maps.at_image().shape == (0, 150, 201)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": -1}, "whole number"),
        ({"top": 1.5}, "whole number"),
        ({"score_threshold": "high"}, "must be a number"),
        ({"score_threshold": float("nan")}, "must be a number"),
        ({"method": 3}, "name or a method object"),
        ({"target": 3}, "name or a callable"),
        ({"target": ["score", "x1"]}, "name or a callable"),
        ({"target": lambda trace: trace.candidates.scores}, r"one number per detection, \(1,\), got shape"),
        ({"target": lambda trace: trace.candidates.scores.sum()}, r"got shape \(\)"),
        ({"target": lambda trace: [1.0]}, "got list"),
        ({"target": lambda trace: trace.candidates.scores[:, 0] / 0}, "NaN or infinite"),
        ({"detections": {"boxes": [1, 2, 3, 4, 5]}}, r"shape \(N, 4\)"),
        ({"detections": {"boxes": "abcd"}}, "numbers"),
    ],
)
def test_wrong_values_are_named(model, options, message):
    with pytest.raises(WhyboxError, match=message) as caught:
        whybox.explain(model, image(), **{"score_threshold": 0.1, "top": 1} | options)
    assert "\n" not in str(caught.value)


def test_a_method_object_keeps_its_own_options(model):
    result = whybox.explain(model, image(), method=Odam(smoothing="gaussian"), score_threshold=0.1, top=1)
    assert result.maps.options["smoothing"] == "gaussian"
    with pytest.raises(WhyboxError, match="set this on the method object"):
        whybox.explain(model, image(), method=Odam(), smoothing="global")


def test_own_detections_as_a_dict_are_the_same_candidates():
    scenes = whybox.load("whybox/scenes")
    trace = whybox.trace(scenes, draw_scene(3, seed=1, variant="crowd").image)
    found = whybox.detect(scenes, trace)
    assert torch.equal(whybox.explain(scenes, trace, detections=found.to_dict()).detections.source, found.source)


def test_what_cannot_be_loaded_says_so():
    net = detector("fcos_resnet50_fpn")
    with pytest.raises(WhyboxError, match="got int"):
        whybox.load(3)
    with pytest.raises(WhyboxError, match="feature"):
        whybox.load(net, feature="x")
    with pytest.raises(WhyboxError, match="features"):
        whybox.load(torch.nn.Linear(2, 2), candidates=lambda output: output)
    with pytest.raises(WhyboxError, match="device 'gpu'"):
        whybox.load(net, device="gpu")


def test_a_trace_belongs_to_the_network_that_made_it(model):
    trace = whybox.trace(model.network, image())
    assert len(whybox.explain(model.network, trace, score_threshold=0.1, top=1)) == 1
    with pytest.raises(WhyboxError, match="made by another model"):
        whybox.explain(detector("retinanet_resnet50_fpn"), trace)


def test_detections_of_several_images_come_one_entry_an_image(model):
    drawn = [{"boxes": [[20, 20, 90, 120]], "labels": ["dog"]}, {"boxes": [], "labels": []}]
    results = whybox.explain(model, [image(1), image(2)], detections=drawn)
    assert [len(result) for result in results] == [1, 0]
    with pytest.raises(WhyboxError, match="2 images and detections of 1"):
        whybox.explain(model, [image(1), image(2)], detections=drawn[:1])
    with pytest.raises(WhyboxError, match="detections of one image are one mapping with boxes and labels, got a list of 2"):
        whybox.explain(model, image(), detections=drawn)


def test_a_class_name_for_every_column():
    with pytest.raises(WhyboxError, match="6 score columns and 2 class names"):
        whybox.trace(whybox.load(detector("fcos_resnet50_fpn"), classes=["a", "b"]), image())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "drise", "target": "x1"}, "drise explains a detection as a whole"),
        ({"method": "drise", "target": "combined"}, "drise explains a detection as a whole"),
        ({"method": "drise", "masks": "many"}, "masks must be a whole number"),
        ({"crop_padding": "maybe"}, "crop_padding must be true or false"),
        ({"smoothing": 3}, "smoothing must be one of none, gaussian, global, got 3"),
        ({"route": "quick"}, "unknown route 'quick'"),
    ],
)
def test_settings_are_refused_before_anything_runs(model, options, message):
    with pytest.raises(WhyboxError, match=message):
        whybox.explain(model, "no such file: it is not even looked for", **options)


def test_the_word_none_is_a_name_where_an_option_has_names(model):
    """As a command line reads it: odam:smoothing=none."""
    result = whybox.explain(model, image(), method="odam", smoothing=None, score_threshold=0.1, top=1)
    assert result.maps.options["smoothing"] == "none"


@pytest.mark.parametrize(
    ("option", "meant"),
    [("threshold", "score_threshold"), ("top_k", "top"), ("conf", "score_threshold"), ("score_treshold", "score_threshold")],
)
def test_an_option_of_another_name_is_answered_with_its_own(model, option, meant):
    for verb in (whybox.explain, whybox.detect):
        with pytest.raises(WhyboxError, match=f"{verb.__name__} has no option '{option}'; did you mean {meant}=") as caught:
            verb(model, "never read", **{option: 5})
        assert "\n" not in str(caught.value)


def test_options_that_nothing_is_close_to(model):
    with pytest.raises(WhyboxError, match="detect has no option 'colour'; it takes text, score_threshold, top"):
        whybox.detect(model, "never read", colour=1)
    with pytest.raises(WhyboxError, match="method 'odam' has no option 'colour'"):
        whybox.explain(model, "never read", colour=1)
    with pytest.raises(WhyboxError, match=r"has no option 'boxes'; did you mean detections="):
        whybox.explain(model, "never read", boxes=[[1, 2, 3, 4]])


@pytest.mark.parametrize("layer", ["c3", "fpn.4", "backbone.body.layre3"])
def test_an_unknown_layer_is_named_as_it_was_typed(layer):
    net = whybox.load(detector("fasterrcnn_mobilenet_v3_large_fpn"))
    line = f"unknown layer '{layer}'; .*FasterRCNN has fpn, roi, .*input, and any module's path"
    for options in ({"layer": layer}, {"method": Odam(layer=layer)}):
        with pytest.raises(UnknownNameError, match=line) as caught:
            whybox.explain(net, image(), score_threshold=0.0, top=1, **options)
        assert "\n" not in str(caught.value)
        assert "layer2" not in str(caught.value)


def test_maps_of_a_differentiable_trace_keep_their_graph():
    model = whybox.load(detector("fcos_resnet50_fpn"))
    trace = whybox.trace(model, image(), differentiable=True)
    assert trace.differentiable
    result = whybox.explain(model, trace, score_threshold=0.1, top=2)
    weight = next(weight for name, weight in model.network.named_parameters() if name.endswith("cls_logits.weight"))
    (gradient,) = torch.autograd.grad(result.maps.values.sum(), [weight])
    assert gradient.abs().sum() > 0
    assert result.to_dict()["detections"][0]["map"]["high"] == pytest.approx(result.peak[0])
    plain = whybox.explain(model, image(), score_threshold=0.1, top=2)
    assert torch.allclose(plain.maps.values, result.maps.values, rtol=1e-3, atol=1e-6)
    assert not plain.maps.values.requires_grad


def test_a_family_without_differentiable_traces_says_so():
    clip = load_small(make_clip())
    with pytest.raises(WhyboxError, match="differentiable trace is available for detectors"):
        whybox.trace(clip, image(), differentiable=True)


def test_a_model_says_what_it_is(model):
    assert repr(model) == "<FCOS: detector, 6 classes, cpu>"
    assert repr(whybox.load(detector("fcos_resnet50_fpn"))) == "<FCOS: detector, no class names, cpu>"


def test_a_methods_name_may_carry_its_settings(model):
    maps = whybox.explain(model, image(), method="drise:masks=8:candidate-threshold=0", score_threshold=0.1, top=1).maps
    assert maps.options["masks"] == 8
    with pytest.raises(WhyboxError, match="masks is given twice"):
        whybox.explain(model, image(), method="drise:masks=8", masks=9)
    with pytest.raises(WhyboxError, match="no option 'mask'"):
        whybox.explain(model, image(), method="drise:mask=8")


def test_notes_say_what_a_method_had_to_assume():
    told = "the candidates give no factors of their scores, so drise counts the objectness as 1"
    options = {"method": "drise", "masks": 4, "score_threshold": 0.0, "top": 2}
    bare = whybox.load(detector("retinanet_resnet50_fpn"))
    assert whybox.explain(bare, image(), **options).notes == (told, told)
    drawn = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": [1]}
    (note,) = whybox.explain(bare, image(), **options, detections=drawn).notes
    assert note.startswith("best candidate: ")
    assert note.endswith(f"; {told}")


def test_a_detector_with_factors_is_not_told_of_them(model):
    assert set(whybox.explain(model, image(), method="drise", masks=4, score_threshold=0.0, top=2).notes) == {""}
