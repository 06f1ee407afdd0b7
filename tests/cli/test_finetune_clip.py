"""`whybox finetune-clip` from its options to the folder it leaves."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

import whybox
from training.finetuning import write_captions
from whybox.cli.finetune_clip import finetune_clip
from whybox.errors import WhyboxError

transformers = pytest.importorskip("transformers")
pytest.importorskip("lightning_fabric")

FEW = ["--steps", "2", "--batch", "3", "--every", "1", "--threads", "1"]


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(finetune_clip)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"coco-captions:{write_captions(tmp_path_factory.mktemp('captioned'))}"


def test_finetune_and_resume(run, data, tmp_path):
    given = ["--model", "whybox/scenes-clip", "--data", data, "--out", tmp_path, "--maps", "maskclip", "--form", "earlier", *FEW]
    first = run(*given)
    assert first.exit_code == 0, first.output
    assert f"whybox.load: {tmp_path}" in first.stdout
    assert "step 2 of 2" in first.stderr
    trained = json.loads((tmp_path / "card.json").read_text())["trained"]
    assert (trained["maps"], trained["presence"], trained["momentum"], trained["lr"]) == ("maskclip", "constant", False, 1e-5)
    command = trained["command"]
    assert command.startswith("whybox finetune-clip --model whybox/scenes-clip --data coco-captions:")
    assert "--maps maskclip --form earlier" in command
    assert "--epochs" not in command
    assert whybox.load(str(tmp_path)).kind == "image-text"
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a red ball").input_ids
    again = run(*given, "--resume", "--json")
    assert json.loads(again.stdout)["trained"]["steps"] == 2


def test_epochs(run, data, tmp_path):
    few = [*FEW[2:], "--maps", "none", "--epochs", "2", "--limit", "3"]
    done = run("--model", "whybox/scenes-clip", "--data", data, "--out", tmp_path, *few)
    assert done.exit_code == 0, done.output
    trained = json.loads((tmp_path / "card.json").read_text())["trained"]
    assert (trained["steps"], trained["images"], trained["steps_per_epoch"]) == (2, 3, 1)
    assert "--epochs 2" in trained["command"]


def test_a_model_of_open_clip(run, data, tmp_path):
    pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    from models.open_clip_models import TEXT, VISION, clip

    torch.manual_seed(0)
    base = tmp_path / "base"
    base.mkdir()
    text = {**TEXT, "context_length": 24}
    settings = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text}, "preprocess_cfg": {"size": 64}}
    (base / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(clip(text=text).state_dict(), base / "open_clip_model.safetensors")
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    out = tmp_path / "out"
    done = run("--model", f"open_clip/local-dir:{base}", "--data", data, "--out", out, "--lr", 0.01, *FEW)
    assert done.exit_code == 0, done.output
    assert f"whybox.load: open_clip/local-dir:{out}" in done.stdout
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before
    kept, start = (whybox.load(f"open_clip/local-dir:{place}").network.state_dict() for place in (out, base))
    assert kept.keys() == start.keys()
    assert not torch.equal(kept["logit_scale"], start["logit_scale"])
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(value, checkpoint["network"][key]) for key, value in kept.items())
    refused = run("--model", f"open_clip/local-dir:{base}", "--data", data, "--out", base, *FEW)
    assert "holds the model itself" in str(refused.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "whybox/scenes"], "is a detector: fine-tuning with captions needs a model of images and texts"),
        (["--maps", "odam"], "maps"),
        (["--form", "later"], "form"),
        (["--data", "scenes"], "the data must have captions"),
        (["--tagger", "words"], "tagger"),
        (["--precision", "float8"], "precision must be float32, bfloat16"),
    ],
)
def test_mistakes_reach_the_caller_by_name(run, data, tmp_path, words, message):
    result = run("--model", "whybox/scenes-clip", "--data", data, "--out", tmp_path, *FEW, *words)
    assert isinstance(result.exception, WhyboxError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
