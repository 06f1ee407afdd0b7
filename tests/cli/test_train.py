"""`whybox train` from its options to the files it leaves."""

import json

import pytest
import typer
from typer.testing import CliRunner

import whybox
from whybox import zoo
from whybox.cli.train import train
from whybox.errors import WhyboxError

FEW = ["--steps", "2", "--batch", "2", "--size", "96x72", "--limit", "4", "--held-out", "2", "--every", "1"]


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(train)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_train_resume_and_go_on_from_the_result(run, tmp_path):
    first = run("--out", tmp_path / "a", "--seed", 7, *FEW)
    assert first.exit_code == 0, first.output
    assert "mixed (2 images): AP50" in first.stdout
    assert "step 2 of 2" in first.stderr
    command = zoo.load(tmp_path / "a").card["trained"]["command"]
    assert command.startswith("whybox train --data scenes --network compact_fcos --steps 2")
    again = run("--out", tmp_path / "a", "--seed", 7, "--resume", "--json", *FEW)
    assert json.loads(again.stdout)["classes"][0] == "person"
    second = run("--out", tmp_path / "b", "--init", tmp_path / "a", *FEW)
    assert second.exit_code == 0, second.output


def test_fabrics_options_reach_the_training_and_its_card(run, tmp_path):
    few = [*FEW, "--accumulate", 2, "--accelerator", "cpu", "--devices", "1", "--precision", "32-true"]
    done = run("--out", tmp_path, "--data", "scenes:variant=single:size=96x72", *few)
    assert done.exit_code == 0, done.output
    assert "single (2 images): AP50" in done.stdout
    made = zoo.load(tmp_path).card["trained"]
    assert made["accumulate"] == 2
    assert made["command"].endswith("--precision 32-true --device cpu --accelerator cpu --devices 1 --accumulate 2 --out DIR")
    for words, message in (
        (["--accelerator", "abacus"], "training cannot run on accelerator abacus, devices 1, strategy auto"),
        (["--device", "abacus"], "device 'abacus' is not available"),
        (["--accumulate", 3], "a batch of 2 cannot be divided among 1 process with accumulate 3; choose a multiple of 3"),
    ):
        result = run("--out", tmp_path / "other", *FEW, *words)
        assert isinstance(result.exception, WhyboxError)
        assert message in str(result.exception)


def test_mistakes_reach_the_caller_by_name(run, tmp_path):
    result = run("--out", tmp_path, "--data", "coco:nowhere", *FEW)
    assert isinstance(result.exception, WhyboxError)
    assert "no COCO annotations at nowhere" in str(result.exception)


def test_a_loss_on_maps_is_named_with_its_options(run, tmp_path):
    words = ["--loss", "odam_train:weight=2:order=second"]
    done = run("--out", tmp_path / "a", *FEW, *words)
    assert done.exit_code == 0, done.output
    assert " odam_train " in done.stderr
    made = zoo.load(tmp_path / "a").card["trained"]
    assert made["loss"] == "odam_train:weight=2.0:order=second"
    assert "--loss odam_train:weight=2:order=second" in made["command"]
    wrong = run("--out", tmp_path / "b", *FEW, "--loss", "odam_train:wieght=2")
    assert isinstance(wrong.exception, WhyboxError)
    assert "loss 'odam_train' has no option 'wieght'; did you mean weight" in str(wrong.exception)


def test_several_losses_and_the_head_that_one_trains(run, tmp_path):
    words = ["--loss", "feature_margin:size=8:layers=1", "--loss", "odam_train"]
    done = run("--out", tmp_path / "a", *FEW, *words)
    assert done.exit_code == 0, done.output
    assert " feature_margin " in done.stderr
    card = zoo.load(tmp_path / "a").card
    assert card["trained"]["loss"] == "feature_margin:size=8:layers=1 odam_train"
    assert "--loss feature_margin:size=8:layers=1 --loss odam_train --held-out" in card["trained"]["command"]
    assert card["arguments"]["embedding"] == {"size": 8, "layers": 1}
    assert whybox.with_nms(str(tmp_path / "a"), "feature").embeds
    again = run("--out", tmp_path / "a", "--resume", *FEW, *words)
    assert again.exit_code == 0, again.output
    twice = run("--out", tmp_path / "b", *FEW, "--loss", "odam_train", "--loss", "odam_train:weight=1")
    assert "loss 'odam_train' is given twice" in str(twice.exception)
