"""A loss on maps trains the network's weights: d(map)/d(weights) of every route against double autograd written out."""

import copy

import pytest
import torch
from torch import nn

import whybox
from conformance.conftest import BUILDERS
from models.detectors import detector, image
from whybox.errors import WhyboxError
from whybox.methods.odam import Odam
from whybox.targets import ClassLogit


def double(name):
    """A detector in float64, of which every weight can be trained."""
    net = copy.deepcopy(detector(name)).double().eval()
    for weight in net.parameters():
        weight.requires_grad = True
    return net


def some(trace, count=3):
    """The first candidates of the largest level that has a foreground label 1."""
    source = (trace.candidates.level == 0).nonzero()[7 : 7 + count, 0]
    labels = torch.ones(len(source), dtype=torch.long)
    boxes = trace.candidates.boxes_of(source, labels).detach()
    return whybox.Detections(boxes, trace.candidates.scores[source, labels].detach(), labels, source)


def loss_of(maps):
    return torch.stack([values.square().sum() for values in maps]).sum()


def slopes(loss, net, names):
    found = torch.autograd.grad(loss, [dict(net.named_parameters())[name] for name in names], allow_unused=True)
    return dict(zip(names, found, strict=True))


def ours(model, net, names, route, layer=None):
    trace = model.trace(image().double(), differentiable=True)
    result = whybox.explain(model, trace, detections=some(trace), method=Odam(route=route, layer=layer), target="logit")
    assert result.maps.native[0].requires_grad
    return result.maps, slopes(loss_of(result.maps.native), net, names), some(trace)


def agree(one, other):
    assert all(value is not None and value.any() for value in other.values())
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=1e-6, atol=1e-9 * float(value.abs().max()))


ONE_STAGE = [
    "head.classification_head.conv.1.0.weight",
    "backbone.fpn.layer_blocks.0.0.weight",
    "backbone.body.layer2.0.conv1.weight",
]


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_a_one_stage_detectors_windows(route):
    net = double("retinanet_resnet50_fpn")
    maps, found, chosen = ours(whybox.load(net), net, ONE_STAGE, route)
    assert set(maps.routes) == {{"auto": "windows"}.get(route, "exact")}
    features = list(net.backbone(net.transform([image().double()])[0].tensors).values())
    logits = net.head([features[0]])["cls_logits"][0]
    expected = []
    for row, label in zip(chosen.source, chosen.labels, strict=True):
        (gradient,) = torch.autograd.grad(logits[row, label], features[0], create_graph=True)
        expected.append((gradient * features[0]).sum(1).relu())
    agree(found, slopes(loss_of(expected), net, ONE_STAGE))


def test_frozen_statistics_hold_the_weights_behind_them_too():
    """FCOS: the exact route against double autograd; the frozen one reaches the same weights."""
    net = double("fcos_resnet50_fpn")
    names = [ONE_STAGE[0].replace("conv.1.0", "conv.3"), *ONE_STAGE[1:]]
    model = whybox.load(net)
    _, found, chosen = ours(model, net, names, "exact")
    features = list(net.backbone(net.transform([image().double()])[0].tensors).values())
    logits = net.head([features[0]])["cls_logits"][0]
    expected = []
    for row, label in zip(chosen.source, chosen.labels, strict=True):
        (gradient,) = torch.autograd.grad(logits[row, label], features[0], create_graph=True)
        expected.append((gradient * features[0]).sum(1).relu())
    agree(found, slopes(loss_of(expected), net, names))
    maps, frozen, _ = ours(model, net, names, "fast")
    assert set(maps.routes) == {"frozen"}
    for name, value in found.items():
        cosine = torch.nn.functional.cosine_similarity(frozen[name].flatten(), value.flatten(), 0)
        assert cosine > 0.8, name


TWO_STAGE = ["roi_heads.box_head.fc6.weight", "backbone.fpn.layer_blocks.0.0.weight"]
"""The first leaves the proposals where they are."""


@pytest.mark.parametrize(("route", "layer"), [("auto", None), ("exact", None), ("auto", "roi")])
def test_a_two_stage_detectors_regions(route, layer):
    """Against central differences in float64: torchvision's RoIAlign has no second derivative to compare with."""
    net = double("fasterrcnn_mobilenet_v3_large_fpn")
    model = whybox.load(net)
    maps, found, _ = ours(model, net, TWO_STAGE, route, layer)
    assert set(maps.routes) == {"windows" if (route, layer) == ("auto", None) else "exact"}
    gradient, weight = found[TWO_STAGE[0]], dict(net.named_parameters())[TWO_STAGE[0]]
    at = tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight[at] += step
            trace = model.trace(image().double())
            moved = whybox.explain(model, trace, detections=some(trace), method=Odam(route="exact", layer=layer), target="logit")
            values.append(loss_of(moved.maps.native).item())
            weight[at] -= step
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[at].item(), rel=1e-4)


def test_a_two_stage_detectors_windows_and_whole_level_agree_on_every_weight():
    net = double("fasterrcnn_mobilenet_v3_large_fpn")
    model = whybox.load(net)
    (_, windows, _), (_, exact, _) = (ours(model, net, TWO_STAGE, route) for route in ("auto", "exact"))
    agree(windows, exact)


@pytest.mark.parametrize("family", ["plain", "hf_detection", "hf_instances"])
def test_a_general_route_reaches_the_weights_before_its_layer(family):
    model = BUILDERS[family]()
    net = model.network
    name = next(name for name, weight in net.named_parameters() if weight.ndim == 4 and weight.requires_grad)
    trace = whybox.trace(model, image(), differentiable=True)
    found = trace.detections[:2]
    assert not found.scores.requires_grad
    result = whybox.explain(model, trace, detections=found, target="logit" if trace.candidates.logits is not None else "score")
    gradient = slopes(loss_of(result.maps.native), net, [name])[name]
    assert gradient is not None
    assert gradient.any()
    weight = dict(net.named_parameters())[name]
    at = tuple(int(i) for i in torch.tensor(torch.unravel_index(gradient.abs().argmax(), gradient.shape)))
    step = 1e-2 * weight.detach().abs().mean().item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[at] += sign * step
            again = whybox.trace(model, image())
            asked = whybox.Detections(found.boxes, found.scores, found.labels, found.source)
            moved = whybox.explain(model, again, detections=asked, target=result.maps.target, route="exact")
            values.append(loss_of(moved.maps.native).item())
            weight[at] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient[at]), rel=0.05)


def test_a_differentiable_trace_leaves_the_network_as_it_was():
    net = detector("retinanet_resnet50_fpn").train()
    needs = [weight.requires_grad for weight in net.parameters()]
    model = whybox.load(net)
    trace = whybox.trace(model, image(), differentiable=True)
    whybox.explain(model, trace, detections=some(trace), target=ClassLogit())
    assert net.training
    assert [weight.requires_grad for weight in net.parameters()] == needs
    assert all(weight.grad is None for weight in net.parameters())
    net.eval()


def test_an_ordinary_trace_has_no_graph():
    model = whybox.load(detector("retinanet_resnet50_fpn"))
    trace = whybox.trace(model, image())
    assert not trace.features[0].values.requires_grad
    maps = whybox.explain(model, trace, detections=some(trace), target="logit").maps
    assert not any(values.requires_grad for values in maps.native)


@pytest.mark.parametrize("family", ["hf_image_text", "hf_classification", "open_clip"])
def test_models_of_the_whole_image_say_that_they_have_none(family):
    with pytest.raises(WhyboxError, match="differentiable"):
        whybox.trace(BUILDERS[family](), image(), differentiable=True)


def test_maps_can_be_learned():
    """A few steps on a loss that asks one map to have its weight in the left half move it there."""
    torch.manual_seed(0)
    model = BUILDERS["plain"]()
    net = nn.ModuleList([model.network])
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    shares = []
    for _ in range(12):
        trace = whybox.trace(model, image(), differentiable=True)
        values = whybox.explain(model, trace, detections=some(trace, 4)).maps.values
        share = values[..., : values.shape[-1] // 2].sum() / values.sum().clamp(min=1e-9)
        shares.append(share.item())
        optimizer.zero_grad()
        torch.autograd.backward(1 - share)
        optimizer.step()
    assert shares[-1] > shares[0]
