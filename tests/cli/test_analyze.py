"""`whybox analyze`, from the words on the line to the files and the exit code."""

import json

import pytest

from methods import small_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a small CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    for part in (small_clip.make_clip(), small_clip.tokenizer(), small_clip.processor()):
        part.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("analysis", ["composition", "attributes", "concreteness", "objects"])
def test_an_analysis_on_two_scenes(whybox, clip, tmp_path, analysis):
    code, out, _ = whybox("analyze", analysis, "--model", clip, "--count", "2", "--out", "out")
    assert code == 0
    told = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert (told["analysis"], told["methods"], told["count"], told["images"]) == (analysis, ["grad_eclip"], 2, 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["analysis.json", "index.html", "table.md"]
    lines = out.splitlines()
    assert len(lines) == len(told["numbers"]) + 1
    assert lines[-1] == f"page: {(tmp_path / 'out' / 'index.html').resolve().as_uri()}"


def test_json_is_the_file_and_all_that_is_printed(whybox, clip, tmp_path):
    words = ("--methods", "grad_eclip:heads=single,maskclip", "--count", "1", "--seed", "2", "--json")
    code, out, _ = whybox("analyze", "objects", "--model", clip, *words)
    assert code == 0
    told = json.loads(out)
    assert told.pop("folder") == "whybox-objects"
    assert told == json.loads((tmp_path / "whybox-objects" / "analysis.json").read_text())
    assert told["methods"] == ["grad_eclip:heads=single", "maskclip"]


def test_ratings(whybox, clip, tmp_path):
    (tmp_path / "ratings.csv").write_text("word,rating\na,1\nand,1.5\nin,2\nred,4\npeople,5\n")
    words = ("--count", "2", "--ratings", "ratings.csv", "--out", "out", "--json")
    code, out, _ = whybox("analyze", "concreteness", "--model", clip, *words)
    assert code == 0
    assert "rated drop" in {row["measure"] for row in json.loads(out)["numbers"]}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("colors",), "unknown analysis 'colors'"),
        (("objects", "--count", "0"), "count is a whole number from 1"),
        (("objects", "--methods", "grad_eklip"), "did you mean grad_eclip"),
        (("objects", "--ratings", "none.csv"), "cannot be read"),
        (("concreteness", "--methods", "gradcam"), "has no maps of words"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(whybox, clip, tmp_path, words, line):
    code, out, err = whybox("analyze", *words, "--model", clip, "--out", "out")
    # Transformers says on standard error that it loads weights.
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_detector_is_refused(whybox):
    code, _, err = whybox("analyze", "objects", "--model", "whybox/scenes")
    assert code == 2
    assert "needs an image-text model" in err
