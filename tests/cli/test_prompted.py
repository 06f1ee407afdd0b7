"""`whybox explain` with a detector that reads text, from the words on the line to the files."""

import json
import re

import pytest

from models.prompted_models import prompted_pair
from whybox import api
from whybox.explanation import Explanation

TEXT = ("--text", "a red ball. a big blue dog.")


@pytest.fixture(scope="session")
def grounding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grounding")
    net, processor = prompted_pair("grounding_dino")
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"hf/{folder}"


@pytest.fixture
def strict(grounding, tmp_path):
    """The same detector, which gives no box."""
    file = tmp_path / "strict.py"
    file.write_text(f"import whybox\n\ndef build():\n    return whybox.load({grounding!r}, score_threshold=1.0)\n")
    return f"{file}:build"


def test_boxes_are_explained_for_phrases(whybox, grounding, pictures):
    code, _, err = whybox(
        "explain", "one.png", "--model", grounding, *TEXT, "--out", "out", "--score-threshold", "0", "--top", "2"
    )
    assert (code, err) == (0, "")
    read = Explanation.load(pictures / "out")
    assert list(read.classes) == ["a red ball", "a big blue dog"]
    assert len(read) == 2


def test_the_words_of_each_box_in_text_and_json_and_on_the_page(whybox, grounding, pictures):
    ask = ("explain", "one.png", "--model", grounding, *TEXT, "--score-threshold", "0", "--top", "1", "--words")
    code, out, err = whybox(*ask, "--out", "out")
    assert (code, err) == (0, "")
    read = Explanation.load(pictures / "out")
    (words,) = read.words
    assert f"    words: {', '.join(f'{word} {weight:+.3g}' for word, weight in words)}\n" in out
    code, out, _ = whybox(*ask, "--target", "score,x1", "--out", "both", "--json")
    assert code == 0
    score, side = json.loads(out)["images"][0]["explanations"]
    assert [word for word, _ in side["detections"][0]["words"]] == read.names[0].split()
    assert [weight for _, weight in score["detections"][0]["words"]] == pytest.approx([weight for _, weight in words])
    page = (pictures / "both" / "index.html").read_text()
    assert '"texts":[[{"text":"a","weight":' in page
    assert whybox(*ask, "--target", "combined", "--out", "none")[2].startswith("whybox: words are explained for one target")


def test_words_that_do_not_depend_on_the_method_are_computed_and_told_once(whybox, grounding, pictures, monkeypatch):
    asked, explain_tokens = [], api.explain_tokens
    monkeypatch.setattr(api, "explain_tokens", lambda *given: asked.append(1) or explain_tokens(*given))
    ask = ("explain", "one.png", "--model", grounding, *TEXT, "--score-threshold", "0", "--top", "1", "--words")
    code, out, _ = whybox(*ask, "--method", "odam,gradcam", "--out", "out")
    assert (code, out.count("    words: "), len(asked)) == (0, 1, 1)
    one, other = (Explanation.load(pictures / "out" / f"{method}-score") for method in ("odam", "gradcam"))
    assert one.words == other.words
    _, out, _ = whybox(*ask, "--method", "odam,gradcam", "--target", "score,x1", "--out", "both")
    assert out.count("    words (odam, score) (gradcam, score): ") == out.count("    words (odam, x1) (gradcam, x1): ") == 1


def test_the_models_own_threshold_is_told_where_it_leaves_something_out(whybox, strict, pictures):
    text = ("--text", "tree")
    code, out, err = whybox("explain", "one.png", "--model", strict, *text, "--score-threshold", "0", "--out", "out")
    assert (code, "no detection" in out) == (0, True)
    assert "itself gives nothing under a score of 1" in err
    code, out, err = whybox("detect", "one.png", "--model", strict, *text, "--score-threshold", "0")
    assert (code, out) == (0, "one.png: no detection\n")
    assert "itself gives nothing under a score of 1" in err
    code, _, err = whybox("detect", "one.png", "--model", strict, *text, "--score-threshold", "1")
    assert (code, err) == (0, "")


def test_several_texts_a_contrast_and_a_missed_object(whybox, grounding, pictures):
    texts = ("--text", "a red ball", "--text", "a big blue dog")
    why = ("--target", "contrast:a red ball", "--box", "10,10,40,40", "--label", "a big blue dog")
    code, _, err = whybox("explain", "one.png", "--model", grounding, *texts, *why, "--out", "out")
    assert (code, err) == (0, "")
    read = Explanation.load(pictures / "out")
    assert (read.names, read.maps.target) == (("a big blue dog",), "contrast:a red ball")
    assert read.notes[0].startswith("best candidate: IoU")


def test_boxes_are_detected_for_phrases(whybox, grounding, pictures):
    code, out, _ = whybox("detect", "one.png", "--model", grounding, *TEXT, "--score-threshold", "0", "--json")
    assert code == 0
    assert "a big blue dog" in json.dumps(json.loads(out))


def test_its_errors_are_sorted_by_the_classes_of_the_data(whybox, grounding, pictures):
    data = ("--data", "scenes:count=1:size=96x64", "--score-threshold", "0.25", "--top", "1")
    code, out, err = whybox("errors", "--model", grounding, *data, "--out", "out")
    assert (code, err) == (0, "")
    # Without the objects that are missed there is none, and no AP.
    assert re.search(r"^missed\t\d+\t–$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((), "finds boxes for texts: say which"),
        (("--text", " "), "a text is empty (' ')"),
        (
            ("--text", "a red ball " * 20),
            "63 tokens together, and the network reads 24: give fewer or shorter ones",
        ),
        ((*TEXT, "--target", "contrast:a tree"), "unknown class 'a tree'"),
    ],
)
def test_a_mistake_is_one_line(whybox, grounding, pictures, texts, told):
    code, _, err = whybox("explain", "one.png", "--model", grounding, *texts, "--out", "out")
    assert code != 0
    assert told in err
    assert len(err.splitlines()) == 1
