"""`whybox match`, from the words on the line to the page, the files and the exit code."""

import json
import os

import pytest
import torch

from models import hf_models
from whybox import api
from whybox.cli.match import _read_size
from whybox.errors import WhyboxError
from whybox.explanation import Explanation
from whybox.methods.grad_eclip import GradEclip

TEXTS = ("a red ball left of a tree", "a dog")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights, its image processor and its tokenizer in a folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(2)
    hf_models.stirred(hf_models.clip(), 0.5).save_pretrained(folder)
    hf_models.tokenizer().save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return str(folder)


def said(err):
    """Lines on standard error, without the progress bars that other packages draw there."""
    return [line for line in err.splitlines() if line.startswith("whybox: ")]


def test_texts_become_a_folder_with_a_page(whybox, clip, pictures):
    code, out, err = whybox("match", "one.png", *TEXTS, "--model", clip)
    assert (code, said(err)) == (0, [])
    read = Explanation.load(pictures / "whybox-one")
    assert (read.names, read.name, read.maps.method) == (TEXTS, "one.png", "grad_eclip")
    assert read.single_words.names == ("a", "red", "ball", "left", "of", "tree", "dog")
    lines = out.splitlines()
    assert lines[0] == f"{TEXTS[0]}: cosine {read.detections.scores[0]:.3f}, peak {read.peak[0]:.3g}"
    assert lines[1].split() == [part for word, weight in read.words[0] for part in (word, f"{weight:.3g}")]
    assert lines[-1] == f"page: {(pictures / 'whybox-one' / 'index.html').resolve().as_uri()}"
    assert "What speaks for" in (pictures / "whybox-one" / "index.html").read_text()


def test_words_are_drawn_by_the_same_model_and_method(whybox, clip, pictures):
    words = ("--heads", "single", "--size", "40x48")
    assert whybox("match", "one.png", TEXTS[0], "--model", clip, "--out", "out", *words)[0] == 0
    read = Explanation.load(pictures / "out")
    model = api.load(clip, size=(40, 48))
    for i, word in enumerate(read.single_words.names):
        own = api.explain(model, pictures / "one.png", text=word, method=GradEclip(heads="single"))
        assert torch.allclose(read.single_words.maps.native[i], own.maps.native[0], atol=1e-6)
        assert float(read.single_words.detections.scores[i]) == pytest.approx(float(own.detections.scores[0]), abs=1e-6)


def test_json_is_all_that_is_printed(whybox, clip, pictures):
    code, out, _ = whybox("match", "one.png", *TEXTS, "--model", clip, "--out", "out", "--json")
    told = json.loads(out)
    assert (code, told["folder"]) == (0, "out")
    assert [row["name"] for row in told["explanation"]["detections"]] == list(TEXTS)
    manifest = json.loads((pictures / "out" / "manifest.json").read_text())
    assert told["explanation"]["detections"][0]["words"] == manifest["detections"][0]["words"]


def test_heads_and_size_reach_method_and_model(whybox, clip, pictures):
    words = ("--heads", "single", "--size", "40x48", "--option", "weighting=projected")
    assert whybox("match", "one.png", "a dog", "--model", clip, "--out", "out", *words)[0] == 0
    read = Explanation.load(pictures / "out")
    assert (read.maps.options["heads"], read.maps.options["weighting"]) == ("single", "projected")
    assert read.maps.frame.network == (40, 48)
    assert whybox("match", "one.png", "a dog", "--model", clip, "--out", "whole", "--size", "keep")[0] == 0
    assert Explanation.load(pictures / "whole").maps.frame.network == (64, 96)


def test_a_text_that_is_too_long_is_cut_and_told(whybox, clip, pictures):
    text = "a red " + "dog " * 14 + "tree"
    code, _, err = whybox("match", "one.png", text, "--model", clip, "--out", "out")
    # The clip's random weights give no word a weight here.
    note = "longer than the model's context: it read 14 tokens and not 'dog dog tree'; no word has a weight for score"
    assert (code, said(err)) == (0, [f"whybox: {text[:40]!r}: {note}"])
    read = Explanation.load(pictures / "out")
    assert read.notes == (note,)
    assert '"cut":true' in (pictures / "out" / "index.html").read_text()


def test_a_word_that_the_model_does_not_know_is_told(whybox, clip, pictures):
    code, _, err = whybox("match", "one.png", "a red 名前", "--model", clip, "--out", "out")
    told = "whybox: 'a red 名前': not in the model's vocabulary: '名前'; no word has a weight for score"
    assert (code, said(err)) == (0, [told])
    assert Explanation.load(pictures / "out").texts[0].unknown == ("名前",)


def test_a_method_without_maps_of_words_says_scores_alone(whybox, clip, pictures):
    words = ("--method", "control_blob", "--out", "out")
    code, out, _ = whybox("match", "one.png", "a dog", "--model", clip, *words)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert Explanation.load(pictures / "out").single_words is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "no text to match; give one in quotes"),
        (("a dog", " "), "a text is empty"),
        (("a dog", "--size", "12"), "--size '12': expected keep, or height and width"),
        (("a dog", "--size", "2x2"), "size must be None"),
        (("a dog", "--method", "grad_eclp"), "unknown method 'grad_eclp'; did you mean grad_eclip"),
        (("a dog", "--heads", "many"), "heads must be one of native, single, got 'many'"),
        (("a dog", "--method", "rollout", "--heads", "single"), "method 'rollout' has no option 'heads'"),
        (("a dog", "--weights", "none"), "comes with its own weights"),
    ],
)
def test_a_mistake_is_one_line(whybox, clip, pictures, words, line):
    code, out, err = whybox("match", "one.png", *words, "--model", clip, "--out", "out")
    assert (code, out) == (2, "")
    assert line in err
    assert len(said(err)) == 1
    assert not (pictures / "out").exists()


def test_a_detector_reads_no_texts(whybox, network, pictures):
    code, _, err = whybox("match", "one.png", "a dog", "--model", network, "--out", "out")
    assert (code, len(said(err))) == (2, 1)
    assert "does not match images with texts: pass an image-text model" in err


def test_an_unknown_model_is_told_with_one_that_is_known(whybox, pictures):
    code, _, err = whybox("match", "one.png", "a dog", "--model", "whybox/nothing", "--out", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown" in err
    assert "--model takes an image-text model, such as open_clip/ViT-B-16" in err


def test_a_missing_tokenizer_is_one_line(whybox, clip, pictures, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        os.link(os.path.join(clip, file), folder / file)
    code, _, err = whybox("match", "one.png", "a dog", "--model", folder, "--out", "out")
    assert (code, len(said(err))) == (2, 1)
    assert "tokenizer" in err


@pytest.mark.parametrize(("image", "line"), [("bad.jpg", "not an image"), ("gone.png", "no such file")])
def test_a_bad_image_is_told_before_the_model_is_loaded(whybox, pictures, image, line):
    code, _, err = whybox("match", image, "a dog", "--model", "never/loaded", "--out", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert line in err


def test_an_existing_folder_is_refused_before_any_work(whybox, pictures):
    (pictures / "out").mkdir()
    (pictures / "out" / "mine.txt").write_text("mine")
    code, _, err = whybox("match", "one.png", "a dog", "--model", "never/loaded", "--out", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "nothing was overwritten" in err
    assert os.listdir(pictures / "out") == ["mine.txt"]


def test_sizes_are_read():
    assert [_read_size(text) for text in ("keep", "224x336", "10X20")] == ["keep", (224, 336), (10, 20)]
    for text in ("x", "12x", "-1x3", "1x2x3", "keeps"):
        with pytest.raises(WhyboxError, match="expected keep"):
            _read_size(text)
