"""`whybox distill` from its options to the files it leaves."""

import os
import signal
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from cli.test_train import FEW
from whybox import zoo
from whybox.cli.distill import distill
from whybox.errors import WhyboxError
from whybox.training import detector
from whybox.training.examples import open_training_data
from whybox.training.recipe import Recipe


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(distill)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An untrained one, as a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    classes = open_training_data("scenes", 0, limit=1, held_out=1).classes
    network, arguments = detector.start(classes, "96x72", 5)
    zoo.save(network, {"network": "compact_fcos", "arguments": arguments, "classes": list(classes)}, folder)
    return folder


def test_distill_resume_and_the_card(run, teacher, tmp_path):
    words = [
        "--teacher",
        teacher,
        "--width",
        0.5,
        "--depth",
        2,
        "--loss",
        "odam_kd:least_score=0.01",
        "--out",
        tmp_path / "a",
        *FEW,
    ]
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "mixed (2 images): AP50" in done.stdout
    assert " odam_kd " in done.stderr
    made = zoo.load(tmp_path / "a").card
    assert made["arguments"]["widths"] == [16, 32, 48, 64]
    assert made["arguments"]["blocks"] == [2, 2, 2, 2]
    assert made["trained"]["distillation"] == "odam_kd:least_score=0.01"
    assert f"whybox distill --teacher {teacher} --student compact_fcos" in made["trained"]["command"]
    assert "--width 0.5 --depth 2" in made["trained"]["command"]
    again = run(*words, "--resume")
    assert again.exit_code == 0, again.output
    other = run(*words, "--resume", "--loss", "fgd")
    assert "it was started with another distillation" in str(other.exception)


def test_the_teachers_neck_and_head_are_inherited(run, teacher, tmp_path):
    few = [*FEW, "--lr", "1e-12"]
    theirs = zoo.load(teacher).network.state_dict()
    name = "head.classification_head.conv.0.weight"
    for words, inherited in (([], True), (["--no-inherit"], False)):
        out = tmp_path / str(inherited)
        done = run("--teacher", teacher, "--loss", "pkd", "--seed", 9, "--out", out, *few, *words)
        assert done.exit_code == 0, done.output
        own = zoo.load(out)
        assert torch.allclose(own.network.state_dict()[name], theirs[name], atol=1e-4) == inherited
        assert ("--no-inherit" in own.card["trained"]["command"]) == (not inherited)


@pytest.mark.parametrize("precision", ["bfloat16", "bf16-true"])
@pytest.mark.parametrize("loss", ["odam_kd:least_score=0.01", "mgd"])
def test_half_precision(run, teacher, tmp_path, precision, loss):
    done = run("--teacher", teacher, "--precision", precision, "--loss", loss, "--out", tmp_path, *FEW)
    assert done.exit_code == 0, done.exception or done.output


def test_a_student_goes_on_from_its_folder(run, teacher, tmp_path):
    done = run("--teacher", teacher, "--student", teacher, "--loss", "feature_imitation", "--out", tmp_path / "a", *FEW)
    assert done.exit_code == 0, done.output
    assert zoo.load(tmp_path / "a").card["trained"]["distillation"] == "feature_imitation"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss", "odam_train"], "loss 'odam_train' needs no teacher: it is a loss of `whybox train`"),
        (["--student", "compact_faster_rcnn", "--loss", "odam_kd"], "the teacher is a fcos, the student a faster_rcnn"),
        (["--student", "compact_fcoz"], "unknown network 'compact_fcoz'"),
        (["--width", 0], "width must be over 0 and at most 8, got 0"),
        (["--depth", 0], "depth must be 1 to 16 blocks, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(run, teacher, tmp_path, words, message):
    result = run("--teacher", teacher, "--out", tmp_path, *FEW, *words)
    assert isinstance(result.exception, WhyboxError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_other_classes_and_a_student_with_a_shape_of_its_own(run, teacher, tmp_path):
    for words in (["--width", 0.5], ["--depth", 2]):
        result = run("--teacher", teacher, "--student", teacher, *words, "--out", tmp_path, *FEW)
        assert "has weights and a shape of its own: leave out --init, --width and --depth" in str(result.exception)
    card = {"network": "compact_fcos", "arguments": {"num_classes": 3}, "classes": ["a", "b"]}
    zoo.save(zoo.build("compact_fcos", card["arguments"]), card, tmp_path / "other")
    result = run("--teacher", tmp_path / "other", "--out", tmp_path / "x", *FEW)
    assert "the teacher's classes are a, b; those of the data are person" in str(result.exception)


def test_a_distillation_that_was_killed_ends_as_the_unbroken_one(teacher, tmp_path):
    from whybox.losses import Mgd
    from whybox.training.distillation import Distiller

    data = open_training_data("scenes", 4, limit=5, held_out=2)
    recipe = Recipe(4, batch=2, seed=4, warmup=2)

    def train(folder, **options):
        torch.manual_seed(0)
        network, _ = detector.start(data.classes, "96x72", 3)
        distiller = Distiller(zoo.load(teacher).network, network, Mgd())
        return detector.fit(network, data, recipe, tmp_path / folder, distiller=distiller, interim=0, every=2, **options)

    def stop(step, losses):
        if step == 3:
            raise KeyboardInterrupt

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", on_progress=stop)
    cut = train("cut", resume=True)
    for first, second in ((whole.averaged, cut.averaged), *((run.state_dict() for run in pair) for pair in beside(whole, cut))):
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_command_killed_by_the_system_ends_as_the_unbroken_one(run, teacher, tmp_path, one_thread):
    words = ["--teacher", str(teacher), "--width", "0.5", "--loss", "odam_kd:least_score=0.01", "--steps", "10", "--every", "2"]
    words += ["--batch", "2", "--size", "96x72", "--limit", "4", "--held-out", "2", "--threads", "1", "--out"]
    whole = run(*words, tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-m", "whybox", "distill", *words, str(tmp_path / "cut")]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, env=paths, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    with child.stderr:
        reached = next((line for line in child.stderr if line.startswith("step 4 of 10")), None)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert reached, "the second checkpoint"
    assert not (tmp_path / "cut" / "model.safetensors").exists(), "killed on the way"
    again = run(*words, tmp_path / "cut", "--resume")
    assert again.exit_code == 0, again.output
    assert "step 2 of 10" not in again.stderr, "it went on"
    assert "step 10 of 10" in again.stderr
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert first == second
    # Also what the file rounds to half precision, and the distiller's blocks.
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")]
    first, second = map(tensors_of, states)
    assert any("distiller" in name for name in first)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def tensors_of(state, name=""):
    """The tensors anywhere in a checkpoint, by their path."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {path: value for key, part in parts for path, value in tensors_of(part, f"{name}/{key}").items()}


def beside(*runs):
    return [(runs[0].beside["distiller"], runs[1].beside["distiller"])]
