"""Training: it learns, is the same again, goes on after it was killed, and its shipped result holds what it claims."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from whybox import zoo
from whybox.data.scenes import CLASSES, export_coco
from whybox.errors import WhyboxError
from whybox.training import detector
from whybox.training.detector_scores import evaluate
from whybox.training.examples import Example, Examples, TrainingData, open_training_data
from whybox.training.recipe import Recipe

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL = {"num_classes": 7, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 72, "max_size": 96}
RECIPE = Recipe(6, batch=2, seed=4, warmup=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return open_training_data("scenes", 4, limit=5, held_out=2)


def small():
    torch.manual_seed(0)
    return zoo.build("compact_fcos", SMALL)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_same_seed_gives_the_same_weights(data, tmp_path):
    runs = [detector.fit(small(), data, RECIPE, tmp_path / name, interim=0) for name in "ab"]
    other = detector.fit(small(), data, replace(RECIPE, seed=5), tmp_path / "c", interim=0)
    assert same(runs[0].averaged, runs[1].averaged)
    assert not same(runs[0].averaged, other.averaged)


def test_a_resumed_run_ends_as_the_unbroken_one(data, tmp_path):
    whole = detector.fit(small(), data, RECIPE, tmp_path / "whole", interim=0)

    def stop(step, losses):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.fit(small(), data, RECIPE, tmp_path / "cut", every=2, interim=0, on_progress=stop)
    steps = []
    cut = detector.fit(
        small(), data, RECIPE, tmp_path / "cut", resume=True, interim=0, on_progress=lambda step, _: steps.append(step)
    )
    assert steps == [5, 6], "goes on after the checkpoint of step 4"
    assert same(whole.averaged, cut.averaged)
    assert same(whole.network.state_dict(), cut.network.state_dict())


KILLED = """
import sys, torch
from pathlib import Path
from whybox import zoo
from whybox.training import detector
from whybox.training.examples import open_training_data
from whybox.training.recipe import Recipe
torch.set_num_threads(1)
torch.manual_seed(0)
data = open_training_data("scenes", 4, limit=5, held_out=2)
network = zoo.build("compact_fcos", {arguments})
recipe = Recipe(400, batch=2, seed=4)
detector.fit(network, data, recipe, Path(sys.argv[1]), every=3, interim=0, log=lambda text: print(text, flush=True))
"""


def test_a_killed_run_leaves_a_whole_checkpoint(tmp_path):
    code = KILLED.format(arguments=SMALL)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(words, env=paths, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        lines = [child.stdout.readline() for _ in range(2)]
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert lines[1].startswith("step 6 of 400")
    run = detector.begin(small(), open_training_data("scenes", 4, 5, 2), Recipe(400, batch=2, seed=4))
    run.read(tmp_path / "checkpoint.pt")
    assert run.progress.step >= 6
    assert run.progress.step % 3 == 0
    run.advance()


def test_losses_fall_when_few_images_are_seen_often(data, tmp_path):
    losses = []
    recipe = Recipe(40, batch=4, warmup=4)
    detector.fit(
        small(), data, recipe, tmp_path, zoom=(1.0, 1.0), interim=0, on_progress=lambda _, now: losses.append(sum(now.values()))
    )
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_another_kind_of_network_starts_from_the_backbone(tmp_path):
    """The shipped FCOS's backbone fits a Faster R-CNN; its head has no place there."""
    network, arguments = detector.start(CLASSES, "96x72", 3, "whybox/scenes", network="compact_faster_rcnn")
    shipped = zoo.load("whybox/scenes")
    assert all(
        torch.equal(value, network.backbone.state_dict()[key]) for key, value in shipped.network.backbone.state_dict().items()
    )
    assert (arguments["widths"], arguments["max_size"]) == (shipped.card["arguments"]["widths"], 96)
    rebuilt = zoo.build("compact_faster_rcnn", arguments)
    rebuilt.load_state_dict(network.state_dict())
    with pytest.raises(WhyboxError, match="unknown network 'compact_rcnn'; did you mean compact_"):
        detector.start(CLASSES, network="compact_rcnn")


def test_a_broken_loss_stops_the_run_with_one_line(data, tmp_path):
    network = small()
    network.head.classification_head.cls_logits.bias.data[0] = torch.nan
    with pytest.raises(WhyboxError, match="the loss of step 0 is nan; lower the learning rate") as caught:
        detector.fit(network, data, RECIPE, tmp_path, interim=0)
    assert "\n" not in str(caught.value)


def test_resuming_asks_for_the_same_recipe_and_network(data, tmp_path):
    detector.fit(small(), data, RECIPE, tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="is from an earlier run; resume it"):
        detector.fit(small(), data, RECIPE, tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="it was started with another batch, lr"):
        detector.fit(small(), data, replace(RECIPE, batch=3, lr=1.0), tmp_path, resume=True)
    other = zoo.build("compact_fcos", {**SMALL, "channels": 64})
    with pytest.raises(WhyboxError, match="cannot resume from"):
        detector.fit(other, data, RECIPE, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nonsense")
    with pytest.raises(WhyboxError, match="cannot resume from"):
        detector.fit(small(), data, RECIPE, tmp_path, resume=True)


def test_what_is_kept_is_loaded_with_its_scores(data, tmp_path):
    run = detector.fit(small(), data, RECIPE, tmp_path, every=3, interim=1)
    card = detector.keep(run, data, tmp_path, "compact_fcos", SMALL, "whybox train --seed 4")
    loaded = zoo.load(tmp_path)
    assert loaded.card == json.loads(json.dumps(card))
    assert loaded.classes == data.classes
    made = card["trained"]
    assert made["command"] == "whybox train --seed 4"
    assert made["seed"] == 4
    assert made["steps"] == 6
    assert set(made["scores"]) == {"mixed", "crowd"}
    assert [row["step"] for row in made["history"]] == [3, 6]


def test_an_image_without_objects_can_be_trained_on(tmp_path):
    empty = Example(np.full((72, 96, 3), 255, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    data = TrainingData(("a",) * 6, Examples(1, lambda index: empty), {})
    detector.fit(small(), data, RECIPE, tmp_path, interim=0)


def test_what_is_left_out_of_the_data_is_said(tmp_path):
    file = export_coco(tmp_path / "one", 3, seed=3) / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    data, said = open_training_data(f"coco:{file}"), []
    network, _ = detector.start(data.classes, "96x72")
    detector.fit(network, data, replace(RECIPE, steps=1), tmp_path, interim=0, on_warning=said.append)
    assert said[0].startswith("problems in the data, left out or corrected: 1; the first: ")
    assert f"{file}: image '000000.png' (id 1), annotation 1: bbox" in said[0]


def test_the_start_takes_over_what_fits(tmp_path):
    zoo.save(small(), {"network": "compact_fcos", "arguments": SMALL, "classes": list(CLASSES)}, tmp_path)
    given = zoo.load(tmp_path).network.state_dict()
    network, arguments = detector.start(("a", "b"), "128x96", init=str(tmp_path))
    assert arguments == {**SMALL, "num_classes": 3, "min_size": 96, "max_size": 128}
    head = "head.classification_head.cls_logits.weight"
    own = network.state_dict()
    assert same({key: value for key, value in given.items() if "cls_logits" not in key}, own)
    assert own[head].shape[0] == 3
    with pytest.raises(WhyboxError, match="size must be WIDTHxHEIGHT"):
        detector.start(("a",), "big")


def test_a_card_says_how_its_windows_and_steps_were_made(data, tmp_path):
    recipe = replace(RECIPE, steps=1, accumulate=2)
    run = detector.fit(small(), data, recipe, tmp_path, zoom=(0.9, 1.1), interim=0)
    made = detector.keep(run, data, tmp_path, "compact_fcos", SMALL, "")["trained"]
    assert (made["zoom"], made["accumulate"], made["processes"]) == ((0.9, 1.1), 2, 1)


def test_real_photographs_can_be_trained_on(tmp_path):
    folder = SHARED / "bccd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    data = open_training_data(f"coco:{folder}", limit=4)
    assert data.classes == ("RBC", "WBC", "Platelets")
    assert len(data.held_out["val"]) == 64
    network, _ = detector.start(data.classes, "96x72")
    run = detector.fit(network, data, replace(RECIPE, steps=2), tmp_path, interim=2)
    assert run.progress.step == 2


def test_the_shipped_weights_find_what_their_card_claims():
    network, classes, card = zoo.load("whybox/scenes")
    claimed = card["trained"]["scores"]
    assert claimed["mixed"]["ap50"] >= 0.85
    assert card["threshold"] == claimed["mixed"]["threshold"]
    held_out = open_training_data("scenes", held_out=30).held_out
    mixed = evaluate(network, held_out["mixed"], classes)
    assert mixed.ap50 == pytest.approx(claimed["mixed"]["ap50"], abs=0.03)
    crowd = evaluate(network, held_out["crowd"], classes)
    people = claimed["crowd"]["ap50_per_class"]["person"]
    assert crowd.ap50_per_class["person"] == pytest.approx(people, abs=0.05), "other classes are too few in 15 crowds"


class Says(torch.nn.Module):
    """A detector that gives every image one box of one label."""

    def __init__(self, label):
        super().__init__()
        self.weight, self.label = torch.nn.Parameter(torch.zeros(1)), label

    def forward(self, images):
        one = {"boxes": torch.tensor([[4.0, 4, 20, 20]]), "labels": torch.tensor([self.label]), "scores": torch.ones(1)}
        return [one for _ in images]


def test_a_label_that_no_class_has_is_refused_in_scores():
    box = np.array([[4.0, 4, 20, 20]], np.float32)
    example = Example(np.zeros((32, 32, 3), np.uint8), box, np.array([1]), np.array([False]))
    assert evaluate(Says(2), [example], ["cat", "dog"]).ap50 == pytest.approx(1)
    with pytest.raises(WhyboxError, match=r"predicts label 3, and the data has 2 classes, labels 1 to 2"):
        evaluate(Says(3), [example], ["cat", "dog"])
