"""ODAM-Train in training steps: its maps are those of explaining, its gradients those of double autograd, and the detector stays
as it was."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign

import whybox
from models.detectors import detector, image
from whybox import zoo
from whybox.errors import WhyboxError
from whybox.frame import paste_boxes, resize_maps
from whybox.losses import OdamTrain
from whybox.losses.odam_train import odam_train_loss
from whybox.methods import Odam
from whybox.training import detector as training
from whybox.training.examples import open_training_data
from whybox.training.odam_train import make_loss, spec_of, watching
from whybox.training.recipe import Recipe
from whybox.zoo.compact_fcos import ResidualPyramid

CHANNELS, SIZE = 32, {"min_size": 96, "max_size": 128}
SMALL = {"num_classes": 7, "widths": [8, 8, 16, 16], "channels": CHANNELS, **SIZE}
RECIPE = Recipe(4, batch=2, seed=4, warmup=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def anchors(sizes):
    return AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * len(sizes))


def pyramid():
    return ResidualPyramid([8, 8, 16, 16], [1, 1, 1, 1], CHANNELS)


def retinanet(norm=None):
    head = RetinaNetHead(CHANNELS, 1, 7, norm_layer=norm)
    return RetinaNet(pyramid(), 7, anchor_generator=anchors([16, 32, 64]), head=head, **SIZE)


def faster_rcnn(head):
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    return FasterRCNN(pyramid(), 7, rpn_anchor_generator=anchors([16, 32, 64]), box_roi_pool=pool, box_head=head(), **SIZE)


def small_fcos():
    return zoo.build("compact_fcos", SMALL)


NETWORKS = {
    "fcos": small_fcos,
    "retinanet": retinanet,
    "retinanet v2": lambda: retinanet(lambda channels: nn.GroupNorm(8, channels)),
    "faster rcnn": lambda: faster_rcnn(lambda: TwoMLPHead(CHANNELS * 49, 1024)),
    "faster rcnn v2": lambda: faster_rcnn(lambda: FastRCNNConvFCHead((CHANNELS, 7, 7), [16], [1024], nn.BatchNorm2d)),
}


def network(name):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    for path, part in net.named_modules():
        if path.startswith("head.") and isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return net.train()


def batch():
    """Two images with three objects and one."""
    first = {"boxes": torch.tensor([[8.0, 10, 60, 90], [40, 20, 120, 80], [70, 60, 100, 90]]), "labels": torch.tensor([1, 2, 1])}
    second = {"boxes": torch.tensor([[20.0, 5, 90, 70]]), "labels": torch.tensor([3])}
    return [image(1, 96, 128), image(2, 96, 128)], [first, second]


def passed(net, options=None, given=None, seed=0):
    """The detector's losses and the pass."""
    torch.manual_seed(seed)
    with watching(net, options) as explained:
        losses = net(*copy.deepcopy(given or batch()))
    return losses, explained


def keeping_statistics(net):
    """In training mode, but for the normalizations' statistics."""
    for part in net.train().modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return net


class Fixed(nn.Module):
    """Proposals in the place of a proposal network's."""

    def __init__(self, proposals):
        super().__init__()
        self.proposals = proposals

    def forward(self, images, features, targets=None):
        return [self.proposals], {}


def explained_alone(net, number, rows, labels, proposals):
    """whybox.explain's maps of the same predictions, on the grid of the training's."""
    if proposals is not None:
        net.rpn = Fixed(proposals)
    model = whybox.load(net.eval())
    trace = model.trace(batch()[0][number])
    boxes = trace.candidates.boxes_of(rows, labels)
    chosen = whybox.Detections(boxes, trace.candidates.scores[rows, labels], labels, rows)
    method = Odam(route="fast", layer="fpn" if proposals is None else "roi")
    maps = whybox.explain(model, trace, detections=chosen, method=method, target="logit").maps.native
    return torch.cat([resize_maps(values[None], (6, 8), rounded=True) for values in maps])


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_a_training_pass_are_those_of_explaining(name):
    net = keeping_statistics(network(name))
    _, explained = passed(net, OdamTrain(most_samples=12))
    found, assigned = explained.positives(), explained.seen._assigned(12)
    assert found.maps.shape[1:] == (6, 8)
    assert set(found.image.tolist()) == {0, 1}
    two_stage = explained.seen.two_stage
    proposals = explained.seen._samples[1][0] if two_stage else [None, None]
    start = 0
    for number, regions in enumerate(proposals):
        rows = found.image == number
        count = len(regions) if two_stage else explained.seen._assignment["head_outputs"]["cls_logits"].shape[1]
        expected = explained_alone(copy.deepcopy(net), number, assigned.row[rows] - start, found.labels[rows], regions)
        start += count
        assert expected.flatten(1).any(1).float().mean() > 0.5, "most maps show something"
        torch.testing.assert_close(found.maps[rows].detach(), expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def straightforward(net, images, explained, second):
    """The loss by autograd through the whole head, one prediction at a time, from a pass of its own."""
    found, assigned = explained.positives(), explained.seen._assigned(300)

    given, _ = net.transform(images)
    features = net.backbone(given.tensors)
    if explained.seen.two_stage:
        proposals = explained.seen._samples[1][0]
        pooled = net.roi_heads.box_roi_pool(features, proposals, given.image_sizes)
        logits = net.roi_heads.box_predictor(net.roi_heads.box_head(pooled))[0]
        sources, regions = [pooled], torch.cat(proposals)
    else:
        sources = list(features.values())
        logits = net.head(sources)["cls_logits"].flatten(0, 1)
    maps = []
    for row, label, number in zip(assigned.row, found.labels, found.image, strict=True):
        gradients = torch.autograd.grad(logits[row, label], sources, create_graph=True, allow_unused=True)
        (level,) = [i for i, value in enumerate(gradients) if value is not None and value.any()] or [0]
        gradient = gradients[level] if second else gradients[level].detach()
        drawn = (gradient * sources[level]).sum(1).relu()[row if explained.seen.two_stage else number][None]
        if explained.seen.two_stage:
            pool = net.roi_heads.box_roi_pool
            at = int(pool.map_levels([regions[row][None]]))
            drawn = paste_boxes(drawn, regions[row][None].to(drawn) * pool.scales[at], tuple(features[str(at)].shape[-2:]))
        maps.append(nn.functional.interpolate(drawn[None], (6, 8), mode="bilinear")[0, 0])
    two_stage = explained.seen.two_stage
    terms = odam_train_loss(
        torch.stack(maps), found.boxes, found.truth_iou, found.owner, found.image, form="paper", two_stage=two_stage
    )
    return sum(terms)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("name", "head"), [("retinanet", "head.classification_head."), ("faster rcnn", "roi_heads.box_head.")])
def test_gradients_are_those_of_double_autograd(name, head, order):
    net = network(name).double()
    images, targets = batch()
    doubled = [each.double() for each in images], [{**each, "boxes": each["boxes"].double()} for each in targets]
    torch.set_default_dtype(torch.float64)
    try:
        _, explained = passed(net, OdamTrain(form="paper", order=order, most_pairs=10**6), doubled)
        expected = straightforward(net, doubled[0], explained, order == "second")
        loss = explained.loss()
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = {path: weight for path, weight in net.named_parameters() if path.startswith((head, "backbone."))}
    ours, theirs = (
        dict(zip(weights, torch.autograd.grad(value, list(weights.values()), allow_unused=True), strict=True))
        for value in (loss, expected)
    )
    reached = {path for path, value in theirs.items() if value is not None and value.abs().max() > 1e-12}
    assert any(path.startswith(head) for path in reached) == (order == "second")
    assert any(path.startswith("backbone.stem") for path in reached)
    for path in reached:
        torch.testing.assert_close(ours[path], theirs[path], rtol=1e-4, atol=1e-6 * float(theirs[path].abs().max()))
    for path in set(weights) - reached:
        assert ours[path] is None or ours[path].abs().max() < 1e-9
