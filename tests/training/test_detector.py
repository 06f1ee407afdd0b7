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
from whybox.data.scenes import draw_scene, export_coco
from whybox.errors import WhyboxError
from whybox.training import detector

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL = {"num_classes": 7, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 72, "max_size": 96}
RECIPE = detector.Recipe(6, batch=2, seed=4, warmup=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def task():
    return detector.scenes_task(4, limit=5, held_out=2)


def small():
    torch.manual_seed(0)
    return zoo.build("compact_fcos", SMALL)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_same_seed_gives_the_same_weights(task, tmp_path):
    runs = [detector.fit(small(), task, RECIPE, tmp_path / name, interim=0) for name in "ab"]
    other = detector.fit(small(), task, replace(RECIPE, seed=5), tmp_path / "c", interim=0)
    assert same(runs[0].averaged, runs[1].averaged)
    assert not same(runs[0].averaged, other.averaged)


def test_a_resumed_run_ends_as_the_unbroken_one(task, tmp_path):
    whole = detector.fit(small(), task, RECIPE, tmp_path / "whole", interim=0)

    def stop(step, losses):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.fit(small(), task, RECIPE, tmp_path / "cut", every=2, interim=0, tick=stop)
    steps = []
    cut = detector.fit(small(), task, RECIPE, tmp_path / "cut", resume=True, interim=0, tick=lambda step, _: steps.append(step))
    assert steps == [5, 6], "goes on after the checkpoint of step 4"
    assert same(whole.averaged, cut.averaged)
    assert same(whole.network.state_dict(), cut.network.state_dict())


KILLED = """
import sys, torch
from pathlib import Path
from whybox import zoo
from whybox.training import detector
torch.set_num_threads(1)
torch.manual_seed(0)
task = detector.scenes_task(4, limit=5, held_out=2)
network = zoo.build("compact_fcos", {arguments})
recipe = detector.Recipe(400, batch=2, seed=4)
detector.fit(network, task, recipe, Path(sys.argv[1]), every=3, interim=0, say=lambda text: print(text, flush=True))
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
    run = detector.Fit(small(), detector.scenes_task(4, 5, 2), detector.Recipe(400, batch=2, seed=4))
    run.read(tmp_path / "checkpoint.pt")
    assert run.progress.step >= 6
    assert run.progress.step % 3 == 0
    run.advance()


def test_losses_fall_when_few_images_are_seen_often(task, tmp_path):
    losses = []
    recipe = detector.Recipe(40, batch=4, warmup=4, zoom=(1.0, 1.0))
    detector.fit(small(), task, recipe, tmp_path, interim=0, tick=lambda _, now: losses.append(sum(now.values())))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_broken_loss_stops_the_run_with_one_line(task, tmp_path):
    network = small()
    network.head.classification_head.cls_logits.bias.data[0] = torch.nan
    with pytest.raises(WhyboxError, match="the loss of step 0 is nan; lower the learning rate") as caught:
        detector.fit(network, task, RECIPE, tmp_path, interim=0)
    assert "\n" not in str(caught.value)


def test_resuming_asks_for_the_same_recipe_and_network(task, tmp_path):
    detector.fit(small(), task, RECIPE, tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="is from an earlier run; resume it"):
        detector.fit(small(), task, RECIPE, tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="it was begun with another batch, lr"):
        detector.fit(small(), task, replace(RECIPE, batch=3, lr=1.0), tmp_path, resume=True)
    other = zoo.build("compact_fcos", {**SMALL, "channels": 64})
    with pytest.raises(WhyboxError, match="cannot resume from"):
        detector.fit(other, task, RECIPE, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nonsense")
    with pytest.raises(WhyboxError, match="cannot resume from"):
        detector.fit(small(), task, RECIPE, tmp_path, resume=True)


def test_what_is_kept_is_loaded_with_its_scores(task, tmp_path):
    run = detector.fit(small(), task, RECIPE, tmp_path, every=3, interim=1)
    card = detector.keep(run, tmp_path, "compact_fcos", SMALL, "whybox train --seed 4")
    loaded = zoo.load(tmp_path)
    assert loaded.card == json.loads(json.dumps(card))
    assert loaded.classes == task.classes
    made = card["trained"]
    assert made["command"] == "whybox train --seed 4"
    assert made["seed"] == 4
    assert made["steps"] == 6
    assert set(made["scores"]) == {"mixed", "crowd"}
    assert [row["step"] for row in made["history"]] == [3, 6]


def rectangles(size, boxes):
    image = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 0
    count = len(boxes)
    return detector.Example(image, np.asarray(boxes, np.float32).reshape(-1, 4), np.arange(count), np.zeros(count, bool))


@pytest.mark.parametrize("size", [(320, 240), (640, 480), (100, 300)])
def test_augmented_boxes_stay_on_their_objects(size):
    example = rectangles(size, [(30, 80, 70, 140)])
    seen = 0
    for seed in range(30):
        image, target = detector.augment(example, (240, 320), (0.7, 1.4), np.random.default_rng(seed))
        assert min(image.shape[1:]) <= 240
        assert max(image.shape[1:]) <= 320
        for box in target["boxes"]:
            seen += 1
            dark = image.mean(0) < image.min() + 0.1
            ys, xs = torch.nonzero(dark, as_tuple=True)
            drawn = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert (drawn - box).abs().max() <= 2
    assert seen > 20


def test_uncounted_regions_are_not_trained_on():
    example = rectangles((320, 240), [(30, 80, 70, 140), (150, 80, 270, 200)])._replace(iscrowd=np.array([False, True]))
    labels = [detector.augment(example, (240, 320), (1.0, 1.0), np.random.default_rng(s))[1]["labels"] for s in range(5)]
    assert all(found.tolist() == [1] for found in labels)


def test_an_image_without_objects_can_be_trained_on(tmp_path):
    empty = rectangles((96, 72), [])
    task = detector.Task(("a",) * 6, detector.Examples(1, lambda index: empty), {})
    detector.fit(small(), task, RECIPE, tmp_path, interim=0)


def test_every_example_is_seen_once_an_epoch():
    recipe = detector.Recipe(10, batch=4, seed=1)
    rows = [row for step in range(5) for row in detector._rows(recipe, step, 10)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def test_the_rate_warms_up_and_falls():
    recipe = detector.Recipe(1000, lr=1.0, warmup=100)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == rates[99] == 1
    assert rates[-1] < 0.011
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_data_by_name(tmp_path):
    export_coco(tmp_path / "one", 20, seed=3)
    single = detector.task(f"coco:{tmp_path / 'one'}", limit=7)
    assert (len(single.train), len(single.held_out["val"])) == (7, 2)
    drawn = {draw_scene(index, seed=3).image.tobytes() for index in range(20)}
    assert {example.image.tobytes() for example in single.train} < drawn
    with pytest.raises(WhyboxError, match="seed 1000003 is kept for the held-out scenes"):
        detector.task("scenes", seed=detector.HELD_OUT_SEED)
    with pytest.raises(WhyboxError, match=r"data is scenes, coco:FOLDER or coco:FILE.json, not 'voc:x'"):
        detector.task("voc:x")


def test_what_is_left_out_of_the_data_is_said(tmp_path):
    file = export_coco(tmp_path / "one", 3, seed=3) / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    task, said = detector.task(f"coco:{file}"), []
    network, _ = detector.start(task.classes, "96x72")
    detector.fit(network, task, replace(RECIPE, steps=1), tmp_path, interim=0, say=said.append)
    assert said[0].startswith("problems in the data, left out or mended: 1; the first: ")
    assert f"{file}: image '000000.png' (id 1), annotation 1: bbox" in said[0]


def test_the_start_takes_over_what_fits(tmp_path):
    zoo.save(small(), {"network": "compact_fcos", "arguments": SMALL, "classes": list(detector.CLASSES)}, tmp_path)
    given = zoo.load(tmp_path).network.state_dict()
    network, arguments = detector.start(("a", "b"), "128x96", init=str(tmp_path))
    assert arguments == {**SMALL, "num_classes": 3, "min_size": 96, "max_size": 128}
    head = "head.classification_head.cls_logits.weight"
    own = network.state_dict()
    assert same({key: value for key, value in given.items() if "cls_logits" not in key}, own)
    assert own[head].shape[0] == 3
    with pytest.raises(WhyboxError, match="size is WIDTHxHEIGHT"):
        detector.start(("a",), "big")


def test_examples_are_kept_while_they_fit():
    made = []
    examples = detector.Examples(3, lambda index: made.append(index) or rectangles((10, 10), []), memory=700)
    for index in (0, 1, 2, 0, 1, 2):
        assert examples[index].image.nbytes == 300
    assert made == [0, 1, 2, 2]


def test_a_device_that_is_not_here():
    assert detector.device("cpu").type == "cpu"
    with pytest.raises(WhyboxError, match="no device 'abacus' here"):
        detector.device("abacus")


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch": 0}, {"precision": "float16"}])
def test_recipes_that_make_no_sense(change):
    with pytest.raises(WhyboxError):
        replace(RECIPE, **change)


def test_real_photographs_can_be_trained_on(tmp_path):
    folder = SHARED / "bccd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    task = detector.task(f"coco:{folder}", limit=4)
    assert task.classes == ("RBC", "WBC", "Platelets")
    assert len(task.held_out["val"]) == 64
    network, _ = detector.start(task.classes, "96x72")
    run = detector.fit(network, task, replace(RECIPE, steps=2), tmp_path, interim=2)
    assert run.progress.step == 2


def test_the_shipped_weights_find_what_their_card_claims():
    network, classes, card = zoo.load("whybox/scenes")
    claimed = card["trained"]["scores"]
    assert claimed["mixed"]["ap50"] >= 0.85
    assert card["threshold"] == claimed["mixed"]["threshold"]
    mixed = detector.evaluate(network, detector.scene_examples(30, detector.HELD_OUT_SEED, "mixed"), classes)
    assert mixed.ap50 == pytest.approx(claimed["mixed"]["ap50"], abs=0.03)
    crowd = detector.evaluate(network, detector.scene_examples(15, detector.HELD_OUT_SEED, "crowd"), classes)
    people = claimed["crowd"]["ap50_per_class"]["person"]
    assert crowd.ap50_per_class["person"] == pytest.approx(people, abs=0.05), "other classes are too few in 15 crowds"
