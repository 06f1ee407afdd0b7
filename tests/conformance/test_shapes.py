"""What every family promises of masks, keypoints and turned boxes, where a network of it gives such."""

from functools import cache

import pytest
import torch
import transformers
from torch import nn

import whybox
from models import small_rcnn, small_yolo
from models.detectors import image
from models.hf_versions import OWN_BACKBONE
from whybox.errors import UnknownNameError, WhyboxError
from whybox.ops.maps import draw_maps
from whybox.targets import find_target, parts_of
from whybox.types import branch_of


class Everything(nn.Module):
    """A user's network: per cell of 8 pixels a box, a score, two keypoints, four corners and a mask of a grid of its own."""

    def __init__(self):
        super().__init__()
        self.neck = nn.Conv2d(3, 16, 8, 8)
        self.head = nn.Conv2d(16, 2 + 6 + 8 + 5, 3, padding=1)

    def forward(self, images):
        return self.head(self.neck(images))


def read_everything(output):
    _, _, height, width = output.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = torch.stack([columns, rows], -1).reshape(-1, 2) * 8.0 + 4
    scores, points, corners, masks = output[0].flatten(1).T.split_with_sizes([2, 6, 8, 5], 1)
    near = center[:, None] + 8 * points.reshape(-1, 2, 3)[..., :2]
    return {
        "boxes": torch.cat([center - 12, center + 12], 1) + scores[:, :1],
        "scores": scores.sigmoid(),
        "keypoints": torch.cat([near, points.reshape(-1, 2, 3)[..., 2:].sigmoid()], 2),
        "corners": center[:, None] + 8 * corners.reshape(-1, 4, 2),
        # Of the prototypes' role: maps of the whole image, mixed by each cell.
        "masks": torch.einsum("mp,phw->mhw", masks, output[0, -5:]),
    }


def plain():
    torch.manual_seed(0)
    return whybox.load(Everything(), candidates=read_everything, features=["neck"], size=(64, 96), score_threshold=0.3)


def yolo(head):
    return lambda: whybox.load(small_yolo.BaseModel(head=head))


def detr():
    torch.manual_seed(0)
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "layer_type": "basic"}
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], **stages)
    # The mask head wants channels and heads that can be divided by 8, and divides by 64 in the end.
    small = {"d_model": 128, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 4}
    config = transformers.DetrConfig(backbone_config=backbone, **OWN_BACKBONE, **small, **heads)
    processor = transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return whybox.load(transformers.DetrForSegmentation(config), processor=processor, score_threshold=0.0)


BUILDERS = {
    "torchvision masks": lambda: whybox.load(small_rcnn.network("mask")),
    "torchvision keypoints": lambda: whybox.load(small_rcnn.network("keypoint")),
    "ultralytics masks": yolo(small_yolo.Segment),
    "ultralytics keypoints": yolo(small_yolo.Pose),
    "ultralytics corners": yolo(small_yolo.OBB),
    "hf masks": detr,
    "plain": plain,
}


@cache
def sample(name):
    return BUILDERS[name]()


@pytest.fixture(params=BUILDERS)
def model(request):
    return sample(request.param)


def traced(model):
    trace = whybox.trace(model, image(0, 60, 90))
    assert len(trace.detections) >= 3
    return trace, trace.detections[:3]


def own_targets(model):
    names = parts_of(model)
    # Of many keypoints some.
    chosen = [*names[:3], *names[-2:]] if len(names) > 12 else names
    return [find_target(name, model.classes, (), model) for name in dict.fromkeys(chosen)]


def test_detections_carry_what_the_model_gives(model):
    trace, found = traced(model)
    full = model.complete(trace, found)
    given = {part for part in ("masks", "keypoints", "corners") if getattr(full, part) is not None}
    assert given == model.gives & {"masks", "keypoints", "corners"}
    assert given
    if "masks" in given:
        assert full.masks.shape == (3, 60, 90)
    if "keypoints" in given:
        assert full.keypoints.shape == (3, len(model.keypoints), 3)
    assert all(torch.equal(getattr(full, part), getattr(found, part)) for part in ("boxes", "scores", "labels", "source"))
    shown = whybox.explain(model, trace, detections=found).detections
    assert all(torch.equal(getattr(shown, part), getattr(full, part)) for part in given)


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_targets_have_gradients_on_every_route_and_every_row_comes_once(model, route):
    trace, found = traced(model)
    for target in own_targets(model):
        branch, rows = branch_of(target), []
        ways = model.pullbacks if not branch else lambda *given, branch=branch: model.branch_pullbacks(branch, *given)
        exact = {row: gradient for row, gradient, _ in gradients(ways(trace, found, None, "exact"), target)}
        for row, gradient, value in gradients(ways(trace, found, None, route), target):
            rows.append(row)
            assert value.isfinite()
            scale = float(exact[row].abs().max())
            torch.testing.assert_close(gradient, exact[row], rtol=1e-3, atol=1e-5 * scale, msg=target.name)
        assert sorted(rows) == [0, 1, 2]
        assert any(gradient.any() for gradient in exact.values()), target.name


def gradients(pullbacks, target):
    """(row, gradient on the whole layer, value), one at a time."""
    for pullback in pullbacks:
        values, whole = target(pullback.trace).detach(), pullback.gradient(target).whole().gradient
        yield from zip(pullback.rows.tolist(), whole, values, strict=True)


def test_the_value_is_that_of_the_detection(model):
    """Keypoints' scores and corners, as detections carry them."""
    trace, found = traced(model)
    full = model.complete(trace, found)
    for target in own_targets(model):
        ways = model.branch_pullbacks("keypoint", trace, found, None, "auto")
        if target.name.startswith("keypoint:") and target.value == "score":
            for pullback in ways:
                wanted = full.keypoints[pullback.rows, target.index, 2]
                torch.testing.assert_close(target(pullback.trace).detach(), wanted, rtol=1e-3, atol=1e-4)
        if target.name.startswith("corner:"):
            for pullback in model.pullbacks(trace, found, None, "auto"):
                wanted = full.corners[pullback.rows, target.index, "xy".index(target.axis)]
                torch.testing.assert_close(target(pullback.trace).detach(), wanted, rtol=1e-3, atol=1e-2)


def test_the_module_is_left_as_it_was_also_after_an_exception(model):
    net = getattr(model, "whole", None) or model.network
    trace, found = traced(model)
    needs, modes = [weight.requires_grad for weight in net.parameters()], [part.training for part in net.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()]

    def broken(passed):
        raise KeyError("the user's own mistake")

    broken.branch = branch_of(own_targets(model)[0])
    model.complete(trace, found)
    with pytest.raises(KeyError):
        draw_maps(model, trace, found, [broken], lambda *parts: parts[0])
    assert [weight.requires_grad for weight in net.parameters()] == needs
    assert [part.training for part in net.modules()] == modes
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()] == hooks
    assert all(weight.grad is None for weight in net.parameters())


def test_what_it_does_not_give_is_refused_in_one_line(model):
    asked = {"masks": "mask:edge", "keypoints": "keypoint:nose:x", "corners": "corner:0:x"}
    trace, found = traced(model)
    for part, target in asked.items():
        if part not in model.gives:
            with pytest.raises(WhyboxError, match=rf"^target '{target}' is about .*, and .* gives none$"):
                whybox.explain(model, trace, detections=found, target=target)
    misspelled = parts_of(model)[0] + "z"
    with pytest.raises(UnknownNameError, match="did you mean"):
        whybox.explain(model, trace, detections=found, target=misspelled)
