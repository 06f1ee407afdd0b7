"""ODAM-Train in training steps: its maps are those of explaining, its gradients those of double autograd, and the detector stays
as it was."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
from whybox.training.launch import launch
from whybox.training.odam_train import watching
from whybox.training.pass_losses import make_loss, spec_of
from whybox.training.recipe import Recipe
from whybox.zoo._residual_pyramid import ResidualPyramid

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


def state(net):
    """What a user could see changed: attributes, hooks, modes, whether weights require a gradient."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    parts = [(set(vars(part)), [dict(getattr(part, name)) for name in hooks], part.training) for part in net.modules()]
    return parts, [weight.requires_grad for weight in net.parameters()]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_detector_is_left_as_it_was(name):
    net = network(name)
    before = state(net)
    torch.manual_seed(0)
    losses_before = copy.deepcopy(net)(*batch())
    losses, explained = passed(net, OdamTrain(order="second"))
    assert losses.keys() == losses_before.keys()
    assert all(torch.equal(losses[key], losses_before[key]) for key in losses), "watching changes no number"
    torch.autograd.backward(explained.loss() + sum(losses.values()))
    assert state(net) == before
    with pytest.raises(KeyboardInterrupt), watching(net):
        raise KeyboardInterrupt
    broken = batch()[0], [{"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([1])}] * 2
    with pytest.raises(Exception, match="positive height"):
        passed(net, given=broken)
    assert state(net) == before


def test_an_attribute_of_the_users_survives():
    net = network("retinanet")
    own, calls = net.head.compute_loss, []
    net.head.compute_loss = lambda *args: calls.append(1) or own(*args)
    mine = net.head.compute_loss
    _, explained = passed(net)
    assert explained.loss() > 0
    assert calls == [1]
    assert net.head.compute_loss is mine


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["reference", "paper"])
def test_images_without_objects(name, form):
    net = network(name)
    images, _ = batch()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    losses, explained = passed(net, OdamTrain(form=form), (images, [none, none]))
    loss = explained.loss()
    assert loss == 0
    torch.autograd.backward(loss + sum(losses.values()))
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in net.parameters())
    _, explained = passed(net, OdamTrain(form=form), (images, [none, batch()[1][1]]))
    found = explained.positives()
    assert set(found.image.tolist()) == {1}
    assert set(found.owner.tolist()) == {0}


@pytest.mark.parametrize("name", ["fcos", "faster rcnn"])
def test_objects_of_two_images_have_numbers_of_their_own(name):
    _, explained = passed(network(name))
    found = explained.positives()
    assert set(found.owner[found.image == 0].tolist()) <= {0, 1, 2}
    assert set(found.owner[found.image == 1].tolist()) == {3}
    labels = torch.tensor([1, 2, 1, 3])
    assert torch.equal(found.labels, labels[found.owner])


def test_only_the_predictions_with_the_highest_iou_get_maps():
    net = network("fcos")
    every, few = (passed(net, OdamTrain(most_samples=most))[1].positives() for most in (300, 2))
    assert few.image.tolist() == [0, 0, 1, 1]
    for number in range(2):
        best = every.truth_iou[every.image == number].topk(2).values
        torch.testing.assert_close(few.truth_iou[few.image == number].sort(descending=True).values, best)


@pytest.mark.parametrize(("name", "order"), [("fcos", "first"), ("fcos", "second"), ("faster rcnn v2", "first")])
def test_a_short_training_lowers_the_loss(name, order):
    net, options = network(name), OdamTrain(form="paper", order=order)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    values = []
    for _ in range(12):
        loss = passed(net, options)[1].loss()
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(values[-3:]) < 0.8 * sum(values[:3])


def test_the_step_decides_over_the_loss():
    net = network("fcos")

    def loss_of(step, **options):
        torch.manual_seed(0)
        with watching(net, OdamTrain(**options), step=step) as explained:
            hooks = len(net.backbone._forward_pre_hooks)
            net(*batch())
        return explained.loss().item(), hooks

    full, _ = loss_of(0)
    assert loss_of(3, warmup=9)[0] == pytest.approx(0.4 * full, rel=1e-3)
    assert loss_of(1, every=2) == (0, 0)
    with watching(net, OdamTrain(every=2), step=1) as explained, pytest.raises(WhyboxError, match="step 1 has no maps"):
        explained.positives()
    assert loss_of(2, every=2)[0] == pytest.approx(full, rel=1e-3)
    assert loss_of(0, weight=2.0)[0] == pytest.approx(4 * full, rel=1e-3)


def test_in_half_precision_maps_are_taken_in_single():
    net = network("fcos")
    with torch.autocast("cpu", torch.bfloat16):
        losses, explained = passed(net)
        half = explained.positives()
        torch.autograd.backward(explained.loss() + sum(losses.values()))
    assert half.maps.dtype == torch.float32
    net.zero_grad()
    single = passed(net)[1].positives()
    common = torch.nn.functional.cosine_similarity(half.maps.flatten(1), single.maps.flatten(1))
    assert common.median() > 0.98


def test_what_is_not_supported_is_said_in_one_line():
    class Squeezed(nn.Conv2d):
        pass

    own = network("retinanet")
    own.head.classification_head.conv[0][0] = Squeezed(CHANNELS, CHANNELS, 3, padding=1)
    pooled = network("faster rcnn")
    pooled.roi_heads.box_roi_pool = nn.Identity()
    for net, message in (
        (nn.Linear(1, 1), r"FCOS, RetinaNet and R-CNNs, not for Linear; for another network write a loss on whybox\.trace"),
        (detector("ssdlite320_mobilenet_v3_large"), "not for SSD"),
        (own, "the head of this RetinaNet is not made as torchvision's own"),
        (pooled, "need torchvision's MultiScaleRoIAlign as box_roi_pool, not Identity"),
    ):
        with pytest.raises(WhyboxError, match=message) as caught, watching(net):
            pass
        assert "\n" not in str(caught.value)
    for name in ("fcos", "faster rcnn"):
        net = network(name)
        with watching(net) as explained:
            pass
        with pytest.raises(WhyboxError, match="its backbone was not called; call it once"):
            explained.loss()
        with watching(net.eval()) as explained:
            net(batch()[0])
        with pytest.raises(WhyboxError, match="was not seen training as torchvision's own does"):
            explained.loss()
    net = network("fcos")
    with watching(net) as explained:
        net(*batch())
        net(*batch())
    with pytest.raises(WhyboxError, match="its head ran more than once"):
        explained.loss()


def test_a_loss_is_made_from_its_name_and_written_back():
    assert make_loss("odam_train") == OdamTrain()
    made = make_loss("ODAM-Train:weight=1:order=second:every=2")
    assert made == OdamTrain(weight=1.0, order="second", every=2)
    assert spec_of(made) == "odam_train:weight=1.0:order=second:every=2"
    assert make_loss(spec_of(made)) == made
    for text, message in (
        ("odm_train", "unknown loss 'odm_train'; did you mean odam_train"),
        ("odam_train:wieght=1", "loss 'odam_train' has no option 'wieght'; did you mean weight"),
        ("fgd:weight=2", "loss .fgd. compares a student with a teacher: it is a loss of `whybox distill`, not of `whybox train`"),
        ("odam_train:order=third", "order must be one of first, second, got 'third'"),
        ("odam_train:every=often", "every must be a whole number, got 'often'"),
    ):
        with pytest.raises(WhyboxError, match=message) as caught:
            make_loss(text)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def data():
    return open_training_data("scenes", 4, limit=5, held_out=2)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_training_goes_on_as_the_unbroken_one_and_with_the_same_loss(data, tmp_path):
    loss = OdamTrain(weight=2.0, warmup=2, every=3, most_pairs=20)
    seen = []
    note = lambda step, losses: seen.append(losses)
    whole = training.fit(network("fcos"), data, RECIPE, tmp_path / "whole", loss=loss, interim=0, on_progress=note)
    assert [step["odam_train"] > 0 for step in seen] == [True, False, False, True]

    def stop(step, losses):
        if step == 3:
            raise KeyboardInterrupt

    given = {"loss": loss, "interim": 0, "every": 2}
    with pytest.raises(KeyboardInterrupt):
        training.fit(network("fcos"), data, RECIPE, tmp_path / "cut", on_progress=stop, **given)
    for other in (None, replace(loss, weight=1.0)):
        with pytest.raises(WhyboxError, match="it was started with another loss; use the same settings"):
            training.fit(network("fcos"), data, RECIPE, tmp_path / "cut", resume=True, loss=other, interim=0)
    cut = training.fit(network("fcos"), data, RECIPE, tmp_path / "cut", resume=True, **given)
    assert same(whole.network.state_dict(), cut.network.state_dict())
    card = training.keep(cut, data, tmp_path / "cut", "compact_fcos", SMALL, "")
    assert card["trained"]["loss"] == "odam_train:weight=2.0:warmup=2:every=3:most_pairs=20"


def test_a_run_from_before_there_were_losses_had_none(data, tmp_path):
    training.fit(network("fcos"), data, RECIPE, tmp_path, interim=0)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del saved["recipe"]["loss"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    training.fit(network("fcos"), data, RECIPE, tmp_path, resume=True, interim=0)
    with pytest.raises(WhyboxError, match="it was started with another loss"):
        training.fit(network("fcos"), data, RECIPE, tmp_path, resume=True, loss=OdamTrain(), interim=0)


@pytest.mark.parametrize(("name", "precision"), [("retinanet", "bfloat16"), ("faster rcnn", "float32")])
def test_other_detectors_train_in_parts(name, precision, data, tmp_path):
    seen = []
    recipe = replace(RECIPE, steps=2, accumulate=2, precision=precision)
    note = lambda step, losses: seen.append(losses["odam_train"])
    given = {"fabric": launch(precision=precision), "loss": OdamTrain(order="second"), "interim": 0, "on_progress": note}
    training.fit(network(name), data, recipe, tmp_path, **given)
    assert len(seen) == 2
    assert all(0 < value < 20 for value in seen)


def test_a_detector_without_maps_is_refused_before_training(data):
    net = detector("ssdlite320_mobilenet_v3_large")
    with pytest.raises(WhyboxError, match="not for SSD"):
        training.begin(net, data, RECIPE, loss=OdamTrain())


def test_a_loop_of_ones_own_over_a_wrapped_detector(tmp_path, monkeypatch):
    import torch.distributed as distributed
    from torch.nn.parallel import DistributedDataParallel

    # By default gloo looks this machine's name up, and waits for minutes where no name server answers.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    net = network("fcos")
    alone, explained = passed(copy.deepcopy(net))
    expected = explained.loss().item()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net)
        losses, explained = passed(wrapped, OdamTrain(order="second"))
        losses["odam_train"] = explained.loss()
        torch.autograd.backward(sum(losses.values()))
    finally:
        distributed.destroy_process_group()
    assert losses.keys() == {*alone, "odam_train"}
    assert losses["odam_train"].item() == pytest.approx(expected, rel=1e-5)
    assert net.head.classification_head.cls_logits.weight.grad.any()


def without_norm(net):
    """Without what couples the images of a batch."""
    for part in list(net.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.Identity())
    return net


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_the_weight_means_the_same_in_a_batch_of_any_size(name):
    """The loss of four images is the mean of those of two and two: parts of a step and processes add up to one batch."""
    net = without_norm(network(name))
    (one, two), (first, second) = batch()
    images, targets = [one, two, two, one], [first, second, second, second]
    whole = passed(net, OdamTrain(), (images, targets))[1].loss()
    halves = [passed(net, OdamTrain(), (images[part], targets[part]))[1].loss() for part in (slice(2), slice(2, 4))]
    assert whole.item() > 0
    assert whole.item() == pytest.approx(sum(half.item() for half in halves) / 2, rel=1e-4)


TWO = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths}
import torch
from training import test_odam_train as given
from whybox.training.launch import Devices, launch
torch.set_num_threads(1)
fabric = launch(Devices("cpu", int(sys.argv[2]), "ddp" if sys.argv[2] != "1" else "auto"))
seen = given.train_a_little(Path(sys.argv[1]) / ("run" + sys.argv[2]), fabric)
Path(sys.argv[1], f"{{sys.argv[2]}}-{{fabric.global_rank}}.json").write_text(json.dumps(seen))
if torch.distributed.is_initialized():
    # Else gloo's threads may still run when the interpreter ends, which aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def train_a_little(folder, fabric):
    """The loss on maps of each step, and a digest of the weights."""
    seen = []
    data = open_training_data("scenes:variant=crowd", 4, limit=8, held_out=2)
    run = training.fit(
        without_norm(network("fcos")),
        data,
        Recipe(3, batch=4, seed=4, warmup=2),
        folder,
        fabric=fabric,
        loss=OdamTrain(),
        interim=0,
        on_progress=lambda step, losses: seen.append(losses["odam_train"]),
    )
    return seen, [float(weight.double().sum()) for weight in run.averaged.values()]


def test_two_processes_train_as_one(tmp_path):
    """About as one: FCOS itself divides by the objects of a process's images, which are padded to the largest of them."""
    script = tmp_path / "two.py"
    script.write_text(TWO.format(paths=[str(Path(__file__).parents[1]), *sys.path]))
    free = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    for count in (1, 2):
        words = [sys.executable, str(script), str(tmp_path), str(count)]
        done = subprocess.run(words, capture_output=True, text=True, env=free, timeout=240)
        assert done.returncode == 0, done.stderr
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert first == second, "both see the same losses and end with the same weights"
    assert len(first[0]) == 3
    assert first[0] == pytest.approx(one[0], rel=0.15)
