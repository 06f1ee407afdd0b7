"""`whybox train-clip` from its options to the folder it leaves."""

import json

import pytest
import typer
from typer.testing import CliRunner

from whybox.cli.train_clip import train_clip
from whybox.errors import WhyboxError

transformers = pytest.importorskip("transformers")

FEW = ["--steps", "2", "--batch", "2", "--count", "4", "--held-out", "2", "--every", "1", "--threads", "1"]


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(train_clip)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_train_and_resume(run, tmp_path):
    first = run("--out", tmp_path, "--seed", 7, "--patches", 0.5, *FEW)
    assert first.exit_code == 0, first.output
    assert "held-out scenes (2 of each variant): object" in first.stdout
    assert "rendering 4 scenes" in first.stderr
    assert "step 2 of 2" in first.stderr
    command = json.loads((tmp_path / "card.json").read_text())["trained"]["command"]
    assert command.startswith("whybox train-clip --data scenes --steps 2 --batch 2")
    assert "--patches 0.5" in command
    assert not (tmp_path / "drawn").exists(), "half a gigabyte that nobody needs any more"
    assert transformers.CLIPModel.from_pretrained(tmp_path).config.vision_config.num_hidden_layers > 1
    again = run("--out", tmp_path, "--seed", 7, "--patches", 0.5, "--resume", "--json", *FEW)
    assert json.loads(again.stdout)["trained"]["steps"] == 2


def test_mistakes_reach_the_caller_by_name(run, tmp_path):
    result = run("--out", tmp_path, "--data", "coco:nowhere", *FEW)
    assert isinstance(result.exception, WhyboxError)
    assert "data must be scenes, the only data that annotates which texts are true of which images, got 'coco:nowhere'" in str(
        result.exception
    )
    result = run("--out", tmp_path, "--precision", "float8", *FEW)
    assert "precision must be float32, bfloat16" in str(result.exception)
