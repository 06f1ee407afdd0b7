"""Small things that a number, a device, a name or a state could break."""

import copy
import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import whybox
from conformance.conftest import BUILDERS, Tiny, read
from models import hf_models, open_clip_models
from models.detectors import detector
from models.detectors import image as picture
from whybox.errors import WhyboxError
from whybox.frame import Frame, paste_windows
from whybox.methods._changed_images import follow
from whybox.methods.clip_surgery import ClipSurgery
from whybox.methods.odam import Odam
from whybox.models._whole_image import _in_words
from whybox.models.torchvision._onestage_heads import _root
from whybox.targets import class_index
from whybox.types import Candidates, Detections

IMAGE = picture(seed=3, height=96, width=128)


def plain(network):
    return whybox.load(network, candidates=read, features=["neck.0"], size=(96, 128), score_threshold=0.0)


class Counting(Tiny):
    """Its scores grow with every call."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * (1 + 0.1 * self.calls)


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_a_second_pass_with_other_scores_is_refused(route):
    torch.manual_seed(0)
    with pytest.raises(WhyboxError, match=r"deterministic|has changed"):
        whybox.explain(plain(Counting()), IMAGE, top=3, route=route, layer="input" if route == "auto" else None)


def test_a_hook_that_changes_between_the_passes_is_refused():
    torch.manual_seed(0)
    network, strength = Tiny(), SimpleNamespace(factor=1.0)
    network.head.register_forward_hook(lambda module, args, output: output * strength.factor)
    model = plain(network)
    trace = model.trace(IMAGE)
    strength.factor = 1.4
    with pytest.raises(WhyboxError, match="make the network's forward deterministic"):
        list(model.pullbacks(trace, trace.detections[:3], None, "exact"))


@pytest.mark.parametrize("family", ["hf_image_text", "open_clip"])
@pytest.mark.parametrize("method", ["odam", "gradcam", "grad_eclip"])
def test_texts_given_under_inference_mode_are_explained_outside(family, method):
    built = BUILDERS[family]()
    texts = list(built.classes)
    expected = whybox.explain(built, IMAGE, method=method)
    with torch.inference_mode():
        model = built.prompt(texts)
    found = whybox.explain(model, IMAGE, method=method)
    assert torch.allclose(found.maps.values, expected.maps.values, atol=1e-6)


@pytest.mark.parametrize("family", sorted(name for name in BUILDERS if not name.startswith("guide_")))
def test_unknown_routes_are_refused_in_one_line(family):
    model = BUILDERS[family]()
    for options in ({"route": "fsat"}, {"method": Odam(route="fsat")}):
        with pytest.raises(WhyboxError, match="route"):
            whybox.explain(model, IMAGE, score_threshold=0.0, top=1, **options)


@pytest.mark.parametrize("layer", [3, (3,), 1.5])
def test_a_layer_that_is_no_name_is_refused(layer):
    with pytest.raises(WhyboxError, match="layer must be a name"):
        Odam(layer=layer)


def test_queries_chosen_by_the_image_are_followed_by_box_and_label():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    before = Candidates(boxes, torch.tensor([[0.9, 0.1], [0.1, 0.8]]), torch.zeros(2).long())
    now = Candidates(boxes.flip(0), before.scores.flip(0), before.level)
    detections = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert follow(detections, before, now).source.tolist() == [0, 1]
    assert follow(detections, before, now, fixed_rows=False).source.tolist() == [1, 0]


def test_boxes_of_whole_numbers_are_scaled_by_a_fraction():
    frame = Frame((100, 100), (150, 150), (150, 150))
    assert frame.boxes_to_network(torch.tensor([[10, 10, 21, 21]])).tolist() == [[15.0, 15.0, 31.5, 31.5]]


def test_nan_beyond_the_grid_stays_out():
    windows = torch.ones(1, 3, 3)
    windows[0, 0] = torch.nan
    assert paste_windows(windows, torch.tensor([[-1, 0]]), (4, 4)).isfinite().all()


def test_the_root_has_a_finite_gradient_at_zero():
    logits = torch.tensor([-200.0, 0.0], requires_grad=True)
    _root(logits.sigmoid() * logits.sigmoid()).sum().backward()
    assert logits.grad.isfinite().all()
    values = torch.rand(100)
    assert torch.equal(_root(values), values.sqrt())


def test_classes_by_number_and_by_a_name_of_digits():
    assert class_index("7", ["3", "7"]) == 1
    assert class_index(1, ["3", "1"]) == 1
    assert class_index(0, ["1", "0"]) == 0
    assert class_index("4", None) == 4
    for wrong in ("\u00b2", "--3"):
        with pytest.raises(WhyboxError, match="class"):
            class_index(wrong, ["cat"])


def test_no_texts_are_explained_where_none_are_asked_for():
    assert len(whybox.explain(BUILDERS["hf_image_text"](), IMAGE, top=0).detections) == 0


def test_detect_takes_no_limit():
    model = BUILDERS["plain"]()
    assert len(whybox.detect(model, IMAGE, score_threshold=0.0, top=None)) == len(
        whybox.detect(model, IMAGE, score_threshold=0.0)
    )


def test_a_saved_explanation_is_json(tmp_path):
    result = whybox.explain(BUILDERS["plain"](), IMAGE, score_threshold=0.0, top=1)
    result.seconds["maps"] = float("nan")
    result.save(tmp_path / "saved")

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "saved" / "manifest.json").read_text(), parse_constant=refuse)
    assert len(whybox.Explanation.load(tmp_path / "saved").detections) == 1


class Batchless(Tiny):
    """Answers for the whole batch at once, where it is told to."""

    mixes = False

    def forward(self, images):
        output = super().forward(images)
        return output + output.mean(0, keepdim=True) * images.mean() * 5 if self.mixes else output


def test_whether_batches_are_taken_is_asked_again_in_another_state():
    torch.manual_seed(0)
    network = Batchless()
    model, images = plain(network), torch.rand(3, 3, 96, 128)
    model.predict(images)
    network.mixes = True
    together = model.predict(images)
    for one, image in zip(together, images, strict=True):
        assert torch.allclose(one.scores, model.predict(image[None])[0].scores, atol=1e-5)


def test_settings_tell_tokenizers_apart():
    one, other = hf_models.tokenizer(), open_clip_models.tokenizer()
    assert _in_words(one) == _in_words(hf_models.tokenizer()) != type(one).__name__
    assert _in_words(one) != _in_words(other)


def test_a_text_that_is_the_only_distractor_has_a_map():
    model = BUILDERS["hf_image_text"]()
    text = model.classes[0]
    maps = whybox.explain(model, IMAGE, text=[text], method=ClipSurgery(distractors=(text,))).maps.values
    plain_maps = whybox.explain(model, IMAGE, text=[text], method=ClipSurgery()).maps.values
    assert maps.abs().max() > 0
    assert torch.allclose(maps, plain_maps, atol=1e-6)


def test_a_mistake_inside_a_builder_is_told_with_its_place():
    class Broken(nn.Module):
        def parameters(self, recurse=True):
            return super().parameters(recurse)

        def modules(self):
            return 1 + "1"

    with pytest.raises(WhyboxError, match=r"loading failed in test_small_states.py, line \d+ \(modules\)"):
        whybox.load(Broken(), candidates=read, features=["neck.0"])
    with pytest.raises(WhyboxError, match=r"cannot be loaded with these options|unknown option"):
        whybox.load(Tiny(), candidates=read, features=["neck.0"], sise=3)


def made_under_inference_mode(network):
    with torch.inference_mode():
        for part in network.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(weight.clone(), requires_grad=False)


def quantized(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves quantization to another package
        torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, inplace=True)


def hooked_backwards(network):
    network.head.classification_head.conv[0][0].register_full_backward_hook(lambda module, given, gradient: None)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("fasterrcnn_mobilenet_v3_large_fpn", made_under_inference_mode, "made under torch.inference_mode"),
        ("fcos_resnet50_fpn", made_under_inference_mode, "made under torch.inference_mode"),
        ("fasterrcnn_mobilenet_v3_large_fpn", nn.Module.half, "half precision"),
        ("fcos_resnet50_fpn", nn.Module.bfloat16, "half precision"),
        ("fasterrcnn_mobilenet_v3_large_fpn", quantized, r"quantized modules \(roi_heads.box_head.fc6\)"),
        ("retinanet_resnet50_fpn", hooked_backwards, "full backward hook"),
    ],
)
def test_states_that_no_gradient_passes_are_told_in_one_line(name, change, told):
    network = copy.deepcopy(detector(name))
    change(network)
    with pytest.raises(WhyboxError, match=told) as caught:
        whybox.explain(whybox.load(network), IMAGE, score_threshold=0.0, top=1)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:quantized..linear_dynamic")
@pytest.mark.parametrize("family", ["open_clip", "hf_image_text", "hf_classification"])
def test_quantized_transformers_are_told_as_such(family):
    model = BUILDERS[family]()
    network = copy.deepcopy(model.network)
    quantized(network)
    tokenizer = {"open_clip": open_clip_models.tokenizer, "hf_image_text": hf_models.tokenizer}.get(family)
    loaded = whybox.load(network, **({"tokenizer": tokenizer()} if tokenizer else {}))
    with pytest.raises(WhyboxError, match="quantized modules"):
        whybox.explain(loaded, IMAGE, method="odam", text=["a red ball"] if tokenizer else None)


class OfTwoPrecisions(nn.Module):
    """As DAB-DETR's embeddings of positions: numbers in single precision, whatever the weights are."""

    def __init__(self):
        super().__init__()
        self.map, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.map(images).mean((2, 3)).float())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_network_that_computes_in_two_precisions_is_told_in_one_line(dtype):
    network = OfTwoPrecisions().to(getattr(torch, dtype))
    read = lambda output: (output[:, :4], output[:, 4:].sigmoid())
    with pytest.raises(WhyboxError, match=f"holds {dtype} weights and computes with numbers of another precision") as caught:
        whybox.explain(whybox.load(network, candidates=read, features=["map"]), torch.rand(3, 16, 16))
    assert "\n" not in str(caught.value)


def test_a_plain_module_without_layers_is_told_what_to_name():
    with pytest.raises(WhyboxError, match=r"which layers of OfTwoPrecisions to draw maps on, features=\[...\]"):
        whybox.load(OfTwoPrecisions(), candidates=lambda output: (output, output))
