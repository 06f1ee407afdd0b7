"""torchvision's families: equal to the framework's own output, and gradients equal to autograd's through the whole detector."""

import copy

import pytest
import torch

import whybox
from models.detectors import ALL, ONE_STAGE, PYRAMID_TRANSFORMER, TWO_STAGE, detector, image
from whybox.errors import WhyboxError
from whybox.methods.odam import Odam
from whybox.pullback import PendingGradient
from whybox.targets import BoxSide, ClassLogit, ClassScore, RawOutput
from whybox.types import Detections


def spread(trace, count=6):
    """Some detections from all over the list, so from several levels."""
    found = trace.detections
    return found[torch.linspace(0, len(found) - 1, count).long()]


def best_on(trace, level, count=8):
    """The best candidates of one level, as detections."""
    scores, labels = torch.where(trace.candidates.level[:, None] == level, trace.candidates.scores, -1).max(1)
    source = scores.topk(min(count, int((scores >= 0).sum()))).indices
    boxes = trace.candidates.boxes_of(source, labels[source])
    return Detections(boxes, scores[source], labels[source], source)


def maps(model, trace, found, target, **options):
    return Odam(**options)(model, trace, found, [target])[0]


def difference(one, other):
    """The largest relative difference of two sets of maps."""
    pairs = zip(one.native, other.native, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


@pytest.mark.parametrize("name", ALL)
def test_detections_are_the_frameworks_own(name):
    net = detector(name)
    with torch.no_grad():
        expected = net([image()])[0]
    trace = whybox.load(net).trace(image())
    found = trace.detections
    assert len(found) > 5
    assert torch.equal(found.boxes, expected["boxes"])
    assert torch.equal(found.scores, expected["scores"])
    assert torch.equal(found.labels, expected["labels"])
    assert torch.equal(trace.candidates.scores[found.source, found.labels], found.scores)


@pytest.mark.parametrize("name", ALL)
def test_the_users_module_is_left_as_it_was(name):
    net = detector(name)
    model = whybox.load(net)
    weights = [(key, value.clone()) for key, value in net.state_dict().items()]
    net.train()
    net.backbone.eval()
    next(net.parameters()).requires_grad_(False)
    before = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in net.modules()]
    needs = [weight.requires_grad for weight in net.parameters()]

    def broken(trace):
        raise RuntimeError("a target of the user's that fails")

    try:
        trace = model.trace(image())
        maps(model, trace, trace.detections[:2], ClassScore())
        for options in ({}, {"route": "exact"}, {"layer": "input"}):
            with pytest.raises(RuntimeError, match="fails"):
                maps(model, trace, trace.detections[:2], broken, **options)
        after = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in net.modules()]
        assert after == before
        assert [weight.requires_grad for weight in net.parameters()] == needs
        assert all(weight.grad is None for weight in net.parameters())
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in weights)
    finally:
        net.eval()
        next(net.parameters()).requires_grad_(True)


def whole_detector_gradient(net, model, trace, found, index, target):
    """Autograd with the pyramid's output as leaves and all heads running: no code of the family's gradients in it."""
    leaves = []

    def cut(module, args, output):
        output = output if isinstance(output, dict) else {"0": output}
        for key, value in output.items():
            leaf = value.detach().requires_grad_()
            leaves.append(leaf)
            output[key] = leaf
        return output

    handle = net.backbone.register_forward_hook(cut)
    with torch.enable_grad():
        candidates = model._candidates([image()])[0]
    handle.remove()
    value = target(trace.rows(candidates[found.source], found))[index]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf[0]) if gradient is None else gradient[0] for leaf, gradient in zip(leaves, gradients, strict=True)
    ]


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", "fasterrcnn_resnet50_fpn"])
@pytest.mark.parametrize("target", [ClassScore(), BoxSide("x1")], ids=lambda target: target.name)
def test_the_exact_route_equals_autograd_through_the_whole_detector(name, target):
    net = detector(name)
    model = whybox.load(net)
    trace = model.trace(image())
    found = spread(trace, 3)
    for pullback in model.pullbacks(trace, found, None, "exact"):
        gradient = pullback.gradient(target).gradient
        for row, ours in zip(pullback.rows.tolist(), gradient, strict=True):
            theirs = whole_detector_gradient(net, model, trace, found, row, target)
            level = int(trace.candidates.level[found.source[row]])
            largest = max(float(part.abs().max()) for part in theirs)
            assert torch.allclose(ours, theirs[level], atol=1e-4 * largest)
            assert all(not part.any() for i, part in enumerate(theirs) if i != level)


EXACT_WINDOWS = ["retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", *TWO_STAGE]


@pytest.mark.parametrize("name", EXACT_WINDOWS)
@pytest.mark.parametrize("target", [ClassScore(), ClassLogit(), BoxSide("y2")], ids=lambda target: target.name)
def test_windows_are_exact_where_the_result_says_so(name, target):
    model = whybox.load(detector(name))
    trace = model.trace(image())
    found = spread(trace)
    fast = maps(model, trace, found, target)
    assert set(fast.routes) == {"windows"}
    assert difference(maps(model, trace, found, target, route="exact"), fast) < 1e-3


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_frozen_statistics_stay_close_on_a_large_level(name):
    model = whybox.load(detector(name))
    trace = model.trace(image())
    found = best_on(trace, 0)
    fast, exact = (maps(model, trace, found, ClassLogit(), route=route) for route in ("fast", "exact"))
    assert set(fast.routes) == {"frozen"}
    cosine = torch.nn.functional.cosine_similarity(fast.values.flatten(1), exact.values.flatten(1))
    assert cosine.min() > 0.97


def test_small_levels_with_group_norm_take_the_exact_route():
    model = whybox.load(detector("fcos_resnet50_fpn"))
    trace = model.trace(image())
    result = maps(model, trace, trace.detections, ClassScore())
    levels = trace.candidates.level[trace.detections.source].tolist()
    for level, route in zip(levels, result.routes, strict=True):
        assert route == ("exact" if min(trace.features[level].grid) <= 13 else "frozen")


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_many_detections_share_what_they_have_in_common(name):
    """At every level: the products are those by way of the gradients."""
    model = whybox.load(detector(name))
    trace = whybox.trace(model, image())
    deferred = 0
    for level in range(len(trace.features)):
        found = best_on(trace, level, 150)
        for pullback in model.pullbacks(trace, found, None, "fast"):
            (_, asked), (_, other) = next(pullback.gradients(ClassLogit())), next(pullback.gradients(ClassLogit()))
            terms = other.activation() * other.gradient
            torch.testing.assert_close(asked.products(), terms.sum(1), rtol=1e-4, atol=1e-5 * float(terms.abs().sum(1).max()))
            deferred += isinstance(asked, PendingGradient)
    assert deferred >= 2
    live = whybox.trace(model, image(), differentiable=True)
    for pullback in model.pullbacks(live, best_on(live, 1, 150), None, "fast"):
        assert not isinstance(next(pullback.gradients(ClassLogit()))[1], PendingGradient)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn", "ssd300_vgg16"])
def test_many_detections_at_once_equal_one_at_a_time(name):
    model = whybox.load(detector(name))
    trace = model.trace(image())
    found = spread(trace)
    together = maps(model, trace, found, ClassScore())
    for i in range(len(found)):
        assert difference(together[i], maps(model, trace, found[i], ClassScore())) < 1e-3


def test_a_finite_difference_at_a_feature_cell():
    """RetinaNet in float64: nudge one cell of the level, run the head, compare with the pullback."""
    net = detector("retinanet_resnet50_fpn")
    model = whybox.load(net)
    trace = model.trace(image())
    found = trace.detections[:1]
    pullback = next(iter(model.pullbacks(trace, found, None, "auto")))
    gradient = pullback.gradient(ClassLogit()).whole().gradient[0]
    channel, row, column = (int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
    level = int(trace.candidates.level[found.source])
    start = sum(len(anchors) for anchors in trace.state.anchors[:level])
    net.double()
    try:
        values = []
        for step in (1e-4, -1e-4):
            nudged = trace.features[level].values.double()[None].clone()
            nudged[0, channel, row, column] += step
            with torch.no_grad():
                values.append(net.head([nudged])["cls_logits"][0, found.source - start, found.labels].item())
    finally:
        net.float()
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(gradient[channel, row, column].item(), rel=1e-3)


def test_fcos_distances_are_the_negative_of_the_near_sides():
    """l = center - x1: the map of l is the map of -x1, up to the scale from network to image pixels."""
    model = whybox.load(detector("fcos_resnet50_fpn"))
    trace = model.trace(image())
    found = spread(trace)
    ratio = trace.frame.image[1] / trace.frame.resized[1]
    left = maps(model, trace, found, RawOutput("l"), route="exact")
    minus_x1 = maps(model, trace, found, lambda passed: -BoxSide("x1")(passed), route="exact")
    assert torch.allclose(left.values * ratio, minus_x1.values, atol=1e-5 * float(left.values.max()))


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", PYRAMID_TRANSFORMER])
def test_every_layer_that_a_model_names_gives_maps(name):
    model = whybox.load(detector(name))
    trace = model.trace(image())
    found = trace.detections[:2]
    for layer in model.layers:
        result = maps(model, trace, found, ClassLogit(), layer=layer)
        assert result.at_image().shape == (2, 150, 201), layer
        assert result.values.isfinite().all()


def test_roi_maps_lie_inside_their_proposals():
    model = whybox.load(detector("fasterrcnn_resnet50_fpn"))
    trace = model.trace(image())
    found = spread(trace)
    result = maps(model, trace, found, ClassScore(), layer="roi")
    for native, source in zip(result.native, found.source.tolist(), strict=True):
        stride = trace.frame.network[1] / native.shape[1]
        x1, y1, x2, y2 = (trace.state.proposals[source] / stride).tolist()
        rows, columns = torch.nonzero(native, as_tuple=True)
        if len(rows):
            assert rows.min() >= y1 - 1
            assert rows.max() <= y2 + 1
            assert columns.min() >= x1 - 1
            assert columns.max() <= x2 + 1


@pytest.mark.parametrize("name", [*ONE_STAGE, "fasterrcnn_resnet50_fpn"])
def test_a_batch_predicts_what_single_images_do(name):
    model = whybox.load(detector(name))
    batch = model.predict(torch.stack([image(1), image(2)]))
    for seed, candidates in enumerate(batch, 1):
        alone = model.trace(image(seed)).candidates
        best = min(alone.scores.amax(1).topk(20).values)
        assert (candidates.scores.amax(1) >= best - 1e-3).sum() >= 20


def test_a_model_without_gradients_to_a_layer_says_so():
    model = whybox.load(detector("fcos_resnet50_fpn"))
    trace = model.trace(image())
    with pytest.raises(WhyboxError, match=r"backbone\.body\.layer9"):
        maps(model, trace, trace.detections[:1], ClassScore(), layer="backbone.body.layer9")
    with pytest.raises(WhyboxError, match="route"):
        maps(model, trace, trace.detections[:1], ClassScore(), route="slow")
    with pytest.raises(WhyboxError, match="differentiable"):
        maps(model, trace, trace.detections[:1], lambda passed: ClassScore()(passed).detach())


def test_a_head_with_a_forward_of_its_own_is_not_taken_for_the_stock_one():
    """A residual tower: its windows would be wrong, so the exact route is taken and agrees with autograd."""

    class Residual(type(detector("retinanet_resnet50_fpn").head.classification_head.conv)):
        def forward(self, value):
            return value + super().forward(value)

    net = copy.deepcopy(detector("retinanet_resnet50_fpn"))
    net.head.classification_head.conv = Residual(*net.head.classification_head.conv)
    model = whybox.load(net)
    trace = model.trace(image())
    found = spread(trace, 3)
    for pullback in model.pullbacks(trace, found, None, "fast"):
        assert pullback.route == "exact"
        gradient = pullback.gradient(ClassLogit()).gradient
        for row, ours in zip(pullback.rows.tolist(), gradient, strict=True):
            level = int(trace.candidates.level[found.source[row]])
            theirs = whole_detector_gradient(net, model, trace, found, row, ClassLogit())[level]
            assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_a_head_class_of_the_users_own_takes_the_exact_route():
    net = copy.deepcopy(detector("fcos_resnet50_fpn"))
    stock = type(net.head.classification_head)

    class Own(stock):
        def forward(self, features):
            return 2 * super().forward(features)

    net.head.classification_head.__class__ = Own
    model = whybox.load(net)
    trace = model.trace(image())
    assert {pullback.route for pullback in model.pullbacks(trace, trace.detections, None, "fast")} == {"exact"}


def test_a_head_with_another_activation_works_and_takes_the_exact_route():
    net = copy.deepcopy(detector("fcos_resnet50_fpn"))
    net.head.classification_head.conv[2] = torch.nn.SiLU(inplace=True)
    model = whybox.load(net)
    trace = model.trace(image())
    result = maps(model, trace, trace.detections[:3], ClassScore())
    assert set(result.routes) == {"exact"}
    assert result.values.any()
