"""`whybox score-clip`, as the shell calls it."""

import json

import pytest
import transformers

from runs.small_clip import VISION, make_clip, make_tokenizer

DATA = "scenes:count=3:size=96x64"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    side = VISION["image_size"]
    make_clip().network.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    crop = {"height": side, "width": side}
    transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)
    return f"hf/{folder}"


def test_the_table_a_second_time_and_against_itself(whybox, clip, tmp_path):
    words = ["score-clip", "--model", clip, "--data", DATA, "--out", "run"]
    code, out, err = whybox(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("\t")[0] for line in lines[:3]] == ["boxes: top-1", "boxes: top-5", "boxes: mean over classes of top-1"]
    assert any(line.startswith("Retrieval is among 3 images and ") for line in lines)
    assert whybox(*words) == (0, out, "")
    code, more, _ = whybox(*words, "--against", "run")
    assert code == 0
    told = [line.split("\t") for line in more.splitlines() if len(line.split("\t")) == 7]
    assert {row[3] for row in told} == {"+0.0"}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"run.json", "regions.jsonl", "retrieval.jsonl", "scores.json"}


def test_as_json_and_chosen_tasks(whybox, clip):
    words = ["score-clip", "--model", clip, "--data", DATA, "--tasks", "classification", "--templates", "a {}"]
    code, out, _ = whybox(*words, "--limit", "2", "--json")
    told = json.loads(out)
    assert code == 0
    assert {key.rpartition("_")[0] for key in told["measures"]} == {"classification", "classification_macro"}
    assert (told["templates"], told["images"], told["folder"]) == (["a {}"], 2, None)
    whybox(*words, "--out", "run")
    code, out, _ = whybox(*words, "--json", "--against", "run")
    assert json.loads(out)["differences"]["classification_top1"]["mean"] == 0


def test_an_earlier_run_on_other_data_is_refused_before_anything_is_scored(whybox, clip, tmp_path):
    whybox("score-clip", "--model", clip, "--data", DATA, "--tasks", "regions", "--out", "run")
    code, _, err = whybox("score-clip", "--model", clip, "--data", f"{DATA}:seed=4", "--against", "run", "--out", "new")
    assert code == 2
    assert "--against run: scored other data, scenes:" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--tasks", "retrival"), "unknown task 'retrival'"),
        (("--model", "whybox/scenes"), "matches no images with texts"),
        (("--against", "nothing"), "nothing: no scores, run.json is missing"),
        (("--templates", "a photo"), "neither a text with one {}"),
        (("--limit", "0"), "limit must be a whole number from 1"),
    ],
)
def test_mistakes_are_one_line(whybox, clip, more, told):
    code, out, err = whybox("score-clip", "--model", clip, "--data", DATA, *more)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
