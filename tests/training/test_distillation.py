"""Distillation: what both networks show in a step, what the losses get of it, and that neither network is changed by it."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from training.test_odam_train import (
    NETWORKS,
    batch,
    keeping_statistics,
    network,
    one_thread,
    same,
    small_fcos,
    state,
    without_norm,
)
from whybox import zoo
from whybox.errors import WhyboxError
from whybox.losses import FeatureImitation, Fgd, Mgd, OdamKd, OdamTrain, Pkd
from whybox.losses.fgd import fgd_loss
from whybox.models.torchvision.distillation_pass import watching
from whybox.training import detector
from whybox.training.distillation import Distiller, attend, inherit, make_loss
from whybox.training.examples import open_training_data
from whybox.training.recipe import Recipe

__all__ = ["one_thread"]

LOSSES = {
    "fgd": Fgd(),
    "odam_kd": OdamKd(least_iou=0.1, least_score=0.02),
    "gradcam": OdamKd(form="gradcam", refresh=False, least_iou=0.1, least_score=0.02, empty="skip"),
    "feature_imitation": FeatureImitation(),
    "pkd": Pkd(),
    "mgd": Mgd(),
}


def pair(name):
    """A teacher in evaluation mode, and a student that differs from it."""
    teacher, student = network(name).eval(), network(name)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1 * weight.std(correction=0) * torch.randn_like(weight))
    return teacher, student


def step(distiller, given=None, seed=0):
    """The student's losses with the distiller's, and the pass."""
    torch.manual_seed(seed)
    with distiller.watching() as seen:
        losses = distiller.student(*copy.deepcopy(given or batch()))
    return {**losses, **seen.losses()}, seen.seen


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_trains_the_student_and_the_blocks_and_leaves_the_teacher(name, loss):
    teacher, student = pair(name)
    seen, weights = [state(net) for net in (teacher, student)], copy.deepcopy(teacher.state_dict())
    distiller = Distiller(teacher, student, LOSSES[loss])
    losses, _ = step(distiller)
    taught = losses[LOSSES[loss].name]
    assert taught > 0
    taught.backward()
    backbone = list(student.backbone.parameters())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in backbone)
    assert all(weight.grad is not None for weight in distiller.parameters())
    assert all(weight.grad is None and weight.requires_grad for weight in teacher.parameters())
    assert [state(net) for net in (teacher, student)] == seen
    assert same(teacher.state_dict(), weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_students_own_losses_are_untouched(name):
    teacher, student = pair(name)
    alone = copy.deepcopy(student)
    torch.manual_seed(0)
    expected = alone(*copy.deepcopy(batch()))
    losses, _ = step(Distiller(teacher, student, LOSSES["odam_kd"]))
    assert {key: value for key, value in losses.items() if key != "odam_kd"}.keys() == expected.keys()
    assert all(torch.equal(losses[key], value) for key, value in expected.items())
    assert same(alone.state_dict(), student.state_dict())


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "mgd"])
@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster rcnn"])
def test_a_student_like_its_teacher_has_no_loss(name, loss):
    teacher = network(name).eval()
    student = keeping_statistics(copy.deepcopy(teacher))
    losses, _ = step(Distiller(teacher, student, LOSSES[loss]))
    assert losses[LOSSES[loss].name].abs() < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster rcnn"])
def test_images_without_objects(name, loss):
    images, _ = batch()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    teacher, student = pair(name)
    losses, _ = step(Distiller(teacher, student, LOSSES[loss]), (images, [none, dict(none)]))
    losses[LOSSES[loss].name].backward()
    assert all(value.isfinite() for value in losses.values())


def test_fgd_gets_the_features_and_the_objects_of_the_pass():
    teacher, student = pair("fcos")
    losses, seen = step(Distiller(teacher, student, Fgd(relation=0.0)))
    images, targets = teacher.transform(*copy.deepcopy(batch()))
    with torch.no_grad():
        expected = list(teacher.backbone(images.tensors).values())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen.teacher_features(), expected, strict=True))
    assert all(torch.equal(own, target["boxes"]) for own, target in zip(seen.boxes, targets, strict=True))
    constants = Fgd(relation=0.0).constants("fcos")._asdict()
    terms = fgd_loss(seen.student_features(), expected, seen.boxes, tuple(images.tensors.shape[-2:]), **constants)
    assert torch.allclose(losses["fgd"], sum(terms), rtol=1e-5)


@pytest.mark.parametrize("judged_by", ["best", "assigned"])
@pytest.mark.parametrize("name", ["fcos", "retinanet", "retinanet v2"])
def test_predictions_are_those_of_both_heads_at_the_same_places(name, judged_by):
    teacher, student = pair(name)
    with watching(teacher, student, predicting=True) as seen:
        student(*copy.deepcopy(batch()))
    found = seen.predictions(least_score=0.02, judged_by=judged_by)
    raw = seen._assignment
    with torch.no_grad():
        theirs = teacher.head(seen.teacher_features())
    cells = [level[0, 0].numel() for level in seen.teacher_features()]
    row = 0
    objects = torch.cat(seen.boxes)
    for image in range(2):
        decode = [teacher.box_coder.decode, lambda boxes, anchors: teacher.box_coder.decode_single(boxes, anchors)]
        decode = decode[name != "fcos"]
        anchors, matched = raw["anchors"][image], raw["matched_idxs"][image]
        boxes = decode(theirs["bbox_regression"][image], anchors)
        own_boxes = decode(raw["head_outputs"]["bbox_regression"][image].detach(), anchors)
        scores = raw["head_outputs"]["cls_logits"][image].sigmoid()
        for place in range(len(anchors)):
            assigned = matched[place] >= 0
            if not assigned and scores[place].max() <= 0.02:
                continue
            first = 3 * image
            owner = int(matched[place]) + first if assigned else -1
            label = int(batch()[1][image]["labels"][matched[place]]) if assigned else int(scores[place].argmax())
            level = next(index for index in range(3) if place < sum(cells[: index + 1]))
            assert (found.image[row], found.owner[row], found.level[row]) == (image, owner, level)
            assert torch.allclose(found.student[row], scores[place, label])
            assert torch.allclose(found.teacher[row], theirs["cls_logits"][image, place, label].sigmoid(), atol=1e-6)
            expected = box_iou(boxes[place : place + 1], objects[owner : owner + 1])[0, 0] if assigned else torch.tensor(0.0)
            assert torch.allclose(found.teacher_iou[row], expected, atol=1e-5)
            overlaps = box_iou(own_boxes[place : place + 1], seen.boxes[image])[0]
            of_owner = overlaps[matched[place]] if assigned else torch.tensor(0.0)
            assert torch.allclose(found.student_iou[row], overlaps.max() if judged_by == "best" else of_owner, atol=1e-5)
            row += 1
    assert row == len(found.owner) > 20


def test_predictions_of_regions_are_those_of_both_box_heads():
    teacher, student = pair("faster rcnn")
    with watching(teacher, student, predicting=True) as seen:
        student(*copy.deepcopy(batch()))
    found = seen.predictions(least_score=0.02, judged_by="assigned")
    proposals, matched, labels, (logits, deltas) = seen._sampled()
    levels = dict(zip("012", seen.teacher_features(), strict=True))
    heads = teacher.roi_heads
    with torch.no_grad():
        theirs, their_deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, proposals, seen._sizes)))
    owner = torch.cat(
        [torch.where(label > 0, index + 3 * i, -1) for i, (label, index) in enumerate(zip(labels, matched, strict=True))]
    )
    score = logits.softmax(1)[:, 1:].max(1)
    used = ((owner >= 0) | (score.values > 0.02)).nonzero()[:, 0]
    label = torch.where(owner >= 0, torch.cat(labels), score.indices + 1)[used]
    assert torch.equal(found.owner, owner[used])
    assert (found.owner >= 0).any()
    assert torch.allclose(found.student, logits.softmax(1)[used, label])
    assert torch.allclose(found.teacher, theirs.softmax(1)[used, label], atol=1e-6)
    assert torch.equal(found.level, heads.box_roi_pool.map_levels(proposals)[used])
    objects = torch.cat(seen.boxes)
    for values, iou in ((their_deltas, found.teacher_iou), (deltas, found.student_iou)):
        boxes = heads.box_coder.decode(values.detach(), proposals).reshape(len(owner), -1, 4)[used, label]
        for row in range(len(used)):
            expected = box_iou(boxes[row : row + 1], objects[found.owner[row]][None])[0, 0] if found.owner[row] >= 0 else 0.0
            assert iou[row].item() == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("form", ["odam", "gradcam"])
@pytest.mark.parametrize("name", ["fcos", "retinanet v2", "faster rcnn"])
def test_one_backward_pass_gives_the_maps_of_each_level_alone(name, form):
    options = OdamKd(form=form, least_iou=0.1, least_score=0.02, scale="none", sharpness=1.0)
    teacher, student = pair(name)
    with watching(teacher, student, predicting=True) as seen:
        student(*copy.deepcopy(batch()))
    found = seen.predictions(least_score=0.02, judged_by="best")
    attention = attend(seen, options)
    weight = (found.teacher - found.student).detach().abs()
    wrong = (found.student > 0.02) & (found.student_iou < 0.1)
    for level, features in enumerate(zip(seen.teacher_features(), seen.student_features(), strict=True)):
        here = (found.level == level).nonzero()[:, 0]
        chosen = set(here[wrong[here]].tolist())
        for owner in set(found.owner[here].tolist()) - {-1}:
            own = [int(i) for i in here if found.owner[i] == owner and found.teacher_iou[i] > 0.1]
            chosen |= set(sorted(own, key=lambda i: -found.teacher_iou[i])[:10])
        maps = []
        for values, feature in ((found.teacher, features[0]), (found.student, features[1])):
            rows = torch.tensor(sorted(chosen), dtype=torch.long)
            value = (weight[rows] * values[rows]).sum()
            part = torch.autograd.grad(value, feature, retain_graph=True, allow_unused=True)[0] if chosen else None
            total = torch.zeros_like(feature) if part is None else part
            total = total.mean((2, 3), keepdim=True) if form == "gradcam" else total
            maps.append((feature * total).sum(1).relu().detach())
        joined = torch.maximum(*maps).flatten(1)
        expected = joined.shape[1] * joined.softmax(1)
        assert torch.allclose(attention.top_down[level].flatten(1), expected, atol=1e-5)
        assert attention.used[level].tolist() == [any(found.image[i] == image for i in chosen) for image in range(2)]
        touched = {int(n) for i in chosen for n in (found.owner[i], found.judge[i])} - {-1}
        assert [len(boxes) for boxes in attention.focused[level]] == [len(touched & {0, 1, 2}), len(touched & {3})]


def test_the_students_own_map_is_an_option():
    teacher, student = pair("fcos")
    with watching(teacher, student, predicting=True) as seen:
        student(*copy.deepcopy(batch()))
    given = {"least_iou": 0.1, "least_score": 0.02}
    both, alone = (attend(seen, OdamKd(refresh=refresh, **given)) for refresh in (True, False))
    assert not torch.allclose(both.top_down[0], alone.top_down[0])


def test_without_key_predictions():
    teacher, student = pair("fcos")
    with watching(teacher, student, predicting=True) as seen:
        student(*copy.deepcopy(batch()))
    given = {"least_iou": 0.999, "least_score": 0.999}
    for empty, objects in (("background", [0, 0]), ("objects", [3, 1])):
        attention = attend(seen, OdamKd(empty=empty, **given))
        assert all(torch.equal(level, torch.ones_like(level)) for level in attention.top_down)
        assert [[len(boxes) for boxes in of_level] for of_level in attention.focused] == [objects] * 3
        assert not torch.stack(attention.used).any()
    evenly, _ = step(Distiller(teacher, student, OdamKd(empty="objects", **given)))
    fgd, _ = step(Distiller(teacher, student, Fgd()))
    assert torch.allclose(evenly["odam_kd"], fgd["fgd"]), "nothing to explain: FGD"


def test_channels_are_adapted_where_they_differ_alone():
    teacher, student = network("fcos").eval(), other_channels()
    distiller = Distiller(teacher, student, OdamKd(least_score=0.02))
    assert [tuple(layer.weight.shape) for layer in distiller.adapters] == [(32, 64, 1, 1)] * 3
    losses, _ = step(distiller)
    losses["odam_kd"].backward()
    assert all(weight.grad is not None for weight in distiller.parameters())
    assert not list(Distiller(teacher, network("fcos"), Pkd()).parameters())
    assert len(Distiller(teacher, network("fcos"), Fgd()).state_dict()) == 2 * 3 * 8


def other_channels():
    torch.manual_seed(3)
    arguments = {"num_classes": 7, "widths": [8, 8, 8, 8], "channels": 64, "min_size": 96, "max_size": 128}
    return zoo.build("compact_fcos", arguments).train()


def test_neck_and_head_are_inherited_where_they_fit():
    torch.manual_seed(5)
    teacher, student = small_fcos(), small_fcos()
    before = copy.deepcopy(student.state_dict())
    copied = inherit(student, teacher)
    after = student.state_dict()
    assert any(name.startswith("backbone.fpn.") for name in copied)
    assert "head.classification_head.cls_logits.weight" in copied
    for name, value in teacher.state_dict().items():
        inherited = name.startswith(("backbone.fpn.", "head."))
        assert (name in copied) == inherited
        assert torch.equal(after[name], value if inherited else before[name])
    few = inherit(other_channels(), teacher)
    assert few, "biases of the classes fit"
    assert "head.classification_head.cls_logits.weight" not in few


def test_half_precision():
    teacher, student = pair("fcos")
    distiller = Distiller(teacher, student, LOSSES["odam_kd"])
    exact, _ = step(distiller)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = step(distiller)
    assert rounded["odam_kd"].dtype == torch.float32
    assert rounded["odam_kd"].item() == pytest.approx(exact["odam_kd"].item(), rel=0.1)


@pytest.mark.parametrize(
    ("teacher", "student", "loss", "message"),
    [
        ("retinanet", "fcos", OdamKd(), "the teacher is a retinanet, the student a fcos"),
        ("other", "fcos", OdamKd(), "distillation is there for torchvision's FCOS, RetinaNet and R-CNNs, not for Linear"),
        ("classes", "fcos", OdamKd(), "the teacher has 4 columns of classes, the student 7: both need the same classes"),
        ("mean", "fcos", Pkd(), "teacher and student normalize images with different means or deviations"),
        ("levels", "retinanet", Pkd(), "the teacher has 2 levels of features, the student 3: both need the same strides"),
        ("fcos", "fcos", OdamTrain(), "loss 'odam_train' needs no teacher"),
    ],
)
def test_pairs_that_do_not_fit(teacher, student, loss, message):
    made = nn.Linear(1, 1) if teacher == "other" else network(teacher if teacher in NETWORKS else student)
    if teacher == "classes":
        made = zoo.build("compact_fcos", {"num_classes": 4, "widths": [8, 8, 16, 16], "channels": 32})
    elif teacher == "mean":
        made.transform.image_mean = [0.5, 0.5, 0.5]
    elif teacher == "levels":
        made.anchor_generator.sizes = made.anchor_generator.sizes[:2]
    with pytest.raises(WhyboxError, match=message) as caught:
        Distiller(made, network(student), loss)
    assert "\n" not in str(caught.value)


def test_features_alone_may_come_from_another_kind():
    losses, _ = step(Distiller(network("retinanet").eval(), network("fcos"), Pkd()))
    assert losses["pkd"] > 0


def test_strides_that_differ_and_a_student_that_did_not_run():
    teacher = network("fcos").eval()
    teacher.backbone.stem[0].stride = (4, 4)
    with pytest.raises(WhyboxError, match="both need the same strides"):
        step(Distiller(teacher, network("fcos"), Pkd()))
    with Distiller(network("fcos"), network("fcos"), Pkd()).watching() as seen:
        pass
    with pytest.raises(WhyboxError, match="was not seen training as torchvision's own does"):
        seen.losses()


def test_a_loss_is_made_from_its_name():
    assert make_loss("odam_kd:form=gradcam:weight=2") == OdamKd(form="gradcam", weight=2.0)
    assert make_loss("FGD:relation=0") == Fgd(relation=0.0)
    for text, message in (
        ("odam_train", "loss 'odam_train' needs no teacher: it is a loss of `whybox train`, not of `whybox distill`"),
        ("odamkd:wieght=1", "loss 'odam_kd' has no option 'wieght'; did you mean weight"),
        ("fdg", "unknown loss 'fdg'; did you mean fgd"),
    ):
        with pytest.raises(WhyboxError, match=message):
            make_loss(text)


@pytest.mark.parametrize("loss", ["fgd", "odam_kd", "gradcam", "feature_imitation"])
@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_the_weight_means_the_same_in_a_batch_of_any_size(name, loss):
    teacher, student = (without_norm(net) for net in pair(name))
    distiller = Distiller(teacher, student, LOSSES[loss])
    (one, two), (first, second) = batch()
    images, targets = [one, two, two, one], [first, second, second, second]
    taught = lambda part: step(distiller, (images[part], targets[part]))[0][LOSSES[loss].name].item()
    assert taught(slice(4)) == pytest.approx((taught(slice(2)) + taught(slice(2, 4))) / 2, rel=1e-4)


TWO = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths}
import torch
from training import test_distillation as given
from whybox.training.launch import Devices, launch
torch.set_num_threads(1)
fabric = launch(Devices("cpu", int(sys.argv[2]), "ddp" if sys.argv[2] != "1" else "auto"))
seen = given.distill_a_little(Path(sys.argv[1]) / ("run" + sys.argv[2]), fabric)
Path(sys.argv[1], f"{{sys.argv[2]}}-{{fabric.global_rank}}.json").write_text(json.dumps(seen))
if torch.distributed.is_initialized():
    # Else gloo's threads may still run when the interpreter ends, which aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def distill_a_little(folder, fabric):
    """The loss of each step, and a digest of the student's and of the blocks' weights."""
    seen = []
    teacher, student = (without_norm(net) for net in pair("fcos"))
    distiller = Distiller(teacher, student, OdamKd(least_score=0.02))
    run = detector.fit(
        student,
        open_training_data("scenes:variant=crowd", 4, limit=8, held_out=2),
        Recipe(3, batch=4, seed=4, warmup=2, accumulate=2 // fabric.world_size),
        folder,
        fabric=fabric,
        distiller=distiller,
        interim=0,
        on_progress=lambda step, losses: seen.append(losses["odam_kd"]),
    )
    weights = [*run.averaged.values(), *distiller.parameters()]
    return seen, [float(weight.detach().double().sum()) for weight in weights]


def test_two_processes_distill_as_one(tmp_path):
    """As one that accumulates two parts: parts of a step draw the same crops as processes."""
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
    assert first[0] == pytest.approx(one[0], rel=1e-4)
    assert first[1] == pytest.approx(one[1], rel=1e-3, abs=1e-3)
