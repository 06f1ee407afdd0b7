"""Masks and keypoints of torchvision's R-CNNs: equal to the framework's own, and their gradients to autograd's by hand."""

import copy
import dataclasses
from collections import OrderedDict

import pytest
import torch
from torch import nn

import whybox
from models.detectors import image
from models.small_rcnn import network
from whybox.errors import UnknownNameError, WhyboxError
from whybox.methods.odam import Odam
from whybox.targets import MASKS, find_target


def picture():
    return image(0, 90, 121)


def named(model, name):
    return find_target(name, model.classes, (), model)


def test_masks_are_the_frameworks_own():
    net = network("mask")
    with torch.no_grad():
        expected = net([picture()])[0]
    found = whybox.detect(net, picture(), score_threshold=0.0)
    assert torch.equal(found.boxes, expected["boxes"])
    assert found.masks.dtype == torch.bool
    assert 0 < found.masks.float().mean() < 0.9
    assert torch.equal(found.masks, expected["masks"][:, 0] > 0.5)
    assert torch.equal(found[[2, 0]].masks, found.masks[[2, 0]])


def test_keypoints_are_the_frameworks_own():
    net = network("keypoint")
    with torch.no_grad():
        expected = net([picture()])[0]
    found = whybox.detect(net, picture(), score_threshold=0.0)
    assert torch.allclose(found.keypoints[..., :2], expected["keypoints"][..., :2], atol=1e-3)
    assert torch.allclose(found.keypoints[..., 2], expected["keypoints_scores"], atol=1e-5)


def test_a_trace_runs_no_mask_head_and_none_changes_the_network():
    net = copy.deepcopy(network("mask"))
    net.roi_heads.mask_roi_pool.scales = net.roi_heads.box_roi_pool.scales = None
    calls = []
    handle = net.roi_heads.mask_head.register_forward_hook(lambda *_: calls.append(1))
    model = whybox.load(net)
    whybox.trace(model, picture())
    assert not calls
    handle.remove()
    net.roi_heads.mask_roi_pool.scales = net.roi_heads.box_roi_pool.scales = None
    trace = whybox.trace(model, picture())
    assert trace.detections.masks is None
    state = whybox.model.fingerprint(net)
    result = whybox.explain(model, trace, score_threshold=0.0, target="mask")
    assert result.detections.masks.shape == (12, 90, 121)
    assert whybox.model.fingerprint(net) == state


def by_hand(net, trace, found, row, value):
    """Autograd at the pyramid's levels of a mask's or a keypoint's value, by torchvision's modules alone."""
    levels = OrderedDict((feature.name, feature.values[None].clone().requires_grad_()) for feature in trace.features)
    heads = net.roi_heads
    boxes = trace.frame.boxes_to_network(found.boxes[[row]])
    kind = "mask" if heads.has_mask() else "keypoint"
    pooled = getattr(heads, f"{kind}_roi_pool")(levels, [boxes], [trace.frame.resized])
    output = getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(pooled))[0]
    number = value(output, boxes[0], int(found.labels[row]), trace.frame.image[1] / trace.frame.resized[1])
    return number, torch.autograd.grad(number, list(levels.values()), allow_unused=True)


def mean_inside(output, box, label, ratio):
    logits = output[label]
    return logits[logits > 0].mean()


def mean_at_edge(output, box, label, ratio):
    """Cell by cell: on the edge is a cell with a neighbor on the other side."""
    logits, (height, width) = output[label], output.shape[-2:]
    cells = [
        logits[y, x]
        for y in range(height)
        for x in range(width)
        if len({bool(one > 0) for one in logits[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].flatten()}) == 2
    ]
    return torch.stack(cells).mean()


def wrist(axis):
    def value(output, box, label, ratio):
        share = output[9].flatten().softmax(0).reshape(output.shape[-2:])
        extent = output.shape[-1 if axis == 0 else -2]
        place = (share.sum(axis) * (torch.arange(extent) + 0.5)).sum() / extent
        return (box[axis] + place * (box[axis + 2] - box[axis])) * ratio

    return value


def wrist_score(output, box, label, ratio):
    height, width = (int((box[i + 2] - box[i]).clamp(min=1).ceil()) for i in (1, 0))
    return nn.functional.interpolate(output[None, 9:10], (height, width), mode="bicubic").max()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask", mean_inside),
        ("mask:edge", mean_at_edge),
        ("keypoint:left_wrist", wrist_score),
        ("keypoint:left_wrist:x", wrist(0)),
    ],
)
def test_values_and_gradients_are_those_by_hand_on_every_route(name, value):
    net = network("mask" if name.startswith("mask") else "keypoint")
    model = whybox.load(net)
    trace = model.trace(picture())
    # Small boxes and large ones, which the heads pool from the fine level and from the coarse one.
    boxes = torch.tensor([[10.0, 10, 24, 24], [40, 20, 54, 35], [10, 10, 80, 70], [30, 5, 110, 80]])
    found, target = dataclasses.replace(trace.detections[:4], boxes=boxes), named(model, name)
    branch, seen = target.branch, []
    for route in ("exact", "auto"):
        for pullback in model.branch_pullbacks(branch, trace, found, None, route):
            assert pullback.route == ("exact" if route == "exact" else "windows")
            numbers = target(pullback.trace)
            gradients = pullback.gradient(target).whole().gradient
            for row, number, ours in zip(pullback.rows.tolist(), numbers, gradients, strict=True):
                expected, theirs = by_hand(net, trace, found, row, value)
                assert float(number.detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-5)
                [level] = [i for i, part in enumerate(theirs) if part is not None and part.any()]
                torch.testing.assert_close(ours, theirs[level][0], rtol=1e-3, atol=1e-5 * float(theirs[level].abs().max()))
                seen.append(level)
    assert sorted(seen) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["mask:inside", "keypoint:left_wrist:y"])
@pytest.mark.parametrize("layer", ["roi", "input", "backbone"])
def test_other_layers(name, layer):
    model = whybox.load(network(name.split(":")[0]))
    result = whybox.explain(model, picture(), target=name, layer=layer, score_threshold=0.0, top=3)
    assert len(result.maps) == 3
    assert any(values.any() for values in result.maps.native)


def test_box_and_mask_targets_can_be_asked_for_together():
    model = whybox.load(network("mask"))
    trace = model.trace(picture())
    names = ["mask", "score", "mask:edge"]
    together = Odam()(model, trace, trace.detections, [named(model, name) for name in names])
    for name, maps in zip(names, together, strict=True):
        alone = Odam()(model, trace, trace.detections, [named(model, name)])[0]
        assert maps.target == name
        assert maps.layers == alone.layers
        assert torch.allclose(maps.values, alone.values)


def test_a_mask_can_be_trained_through_its_map():
    model = whybox.load(network("mask"))
    trace = whybox.trace(model, picture(), differentiable=True)
    found = trace.detections[:1]
    maps = Odam(route="exact")(model, trace, found, [named(model, "mask")])[0]
    (gradient,) = torch.autograd.grad(maps.native[0].sum(), [model.network.roi_heads.mask_predictor.conv5_mask.weight])
    assert gradient.any()


def test_mistakes_are_one_line():
    masks, keypoints = whybox.load(network("mask")), whybox.load(network("keypoint"))
    with pytest.raises(WhyboxError, match="target 'mask' is about masks, and KeypointRCNN gives none"):
        whybox.explain(keypoints, picture(), target="mask")
    with pytest.raises(UnknownNameError, match="unknown keypoint 'left_wirst'; did you mean left_wrist"):
        whybox.explain(keypoints, picture(), target="keypoint:left_wirst")
    with pytest.raises(UnknownNameError, match="did you mean mask:edge"):
        whybox.explain(masks, picture(), target="mask:egde")
    with pytest.raises(WhyboxError, match="expected keypoint:NAME, keypoint:NAME:x or keypoint:NAME:y"):
        whybox.explain(keypoints, picture(), target="keypoint:nose:z")
    assert set(MASKS) <= set(whybox.list_targets(masks))
    assert "keypoint:nose:x" in whybox.list_targets(keypoints)
    assert find_target("keypoint:9", None, (), keypoints).name == "keypoint:left_wrist"


def test_no_detection_has_no_masks():
    found = whybox.detect(network("mask"), picture(), score_threshold=1.0)
    assert found.masks.shape == (0, 90, 121)
    assert whybox.detect(network("keypoint"), picture(), score_threshold=1.0).keypoints.shape == (0, 17, 3)


def test_of_a_network_whose_mask_head_reads_other_maps_the_boxes_are_explained():
    net = copy.deepcopy(network("mask"))
    net.roi_heads.mask_roi_pool.featmap_names = ["1"]
    result = whybox.explain(net, picture(), score_threshold=0.0, top=1)
    assert result.detections.masks is None
    with pytest.raises(WhyboxError, match="target 'mask' is about masks, and MaskRCNN gives none"):
        whybox.explain(net, picture(), target="mask", score_threshold=0.0, top=1)
