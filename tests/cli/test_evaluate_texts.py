"""`whybox evaluate` on an image-text model, as the shell calls it."""

import json

import pytest
import transformers

from runs.small_clip import VISION, make_clip, make_tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words that every evaluation here begins with; the model lies in a folder."""
    folder = tmp_path_factory.mktemp("clip")
    side = VISION["image_size"]
    crop = {"height": side, "width": side}
    make_clip().network.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)
    return ["evaluate", "--model", f"hf/{folder}", "--data", "scenes:count=1:size=96x64", "--metrics", "pixel_ap,words"]


def test_the_table_what_it_lacks_and_what_a_map_takes(whybox, words):
    code, out, err = whybox(*words, "--methods", "grad_eclip,maskclip", "--out", "run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [name in lines[0] for name in ("Pixel AP (mask) ↑", "Text deletion ↓", "Text insertion ↑")] == [True] * 3
    assert lines[-3].startswith("seconds per map: grad_eclip ")
    assert lines[-2] == "No maps of words, so no value for text_deletion, text_insertion: MaskCLIP, Control: blob."
    assert lines[-1].startswith("report: file://")
    assert whybox(*words, "--methods", "grad_eclip,maskclip", "--out", "run") == (code, out, err)


def test_methods_target_and_prompts_follow_the_model(whybox, words):
    code, out, _ = whybox(*words, "--prompts", "phrase", "--out", "run", "--json")
    told = json.loads(out)
    assert code == 0
    assert {cell["method"] for cell in told["cells"]} >= {"grad_eclip", "game", "maskclip", "raw_attention", "control_box"}
    assert told["facts"]["Selection"].startswith("the objects' own phrases")
    assert told["accuracy"].keys() == {"top1", "top5"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--template", "a photo"), "template must be a text with one {} where the class name stands"),
        (("--prompts", "words"), "unknown prompts 'words'"),
        (("--select", "failures"), "select failures is for detectors"),
    ],
)
def test_a_mistake_is_one_line(whybox, words, more, told):
    code, out, err = whybox(*words, *more, "--out", "run")
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
