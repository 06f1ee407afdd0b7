"""`whybox errors`, from the words on the line to the files and the exit code."""

import json

import pytest
from PIL import Image

SCENES = ("--data", "scenes:count=2:variant=crowd")


@pytest.fixture
def folder(tmp_path):
    """A COCO folder of two images for the network's classes, and one class that it lacks; objects fill most of the image."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("one.png", "two.png"):
        Image.new("RGB", (96, 64), (90, 120, 150)).save(tmp_path / "data" / "images" / name)
    boxes = [{"id": i, "image_id": i, "category_id": i, "bbox": [8, 8, 60, 48], "iscrowd": 0} for i in (1, 2)]
    images = [{"id": i, "file_name": f"{name}.png", "width": 96, "height": 64} for i, name in enumerate(("one", "two"), 1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cow"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "data" / "val.json").write_text(json.dumps(content))
    return tmp_path


def test_the_shipped_detector_on_scenes(whybox, tmp_path):
    code, out, err = whybox("errors", *SCENES, "--out", "out", "--top", "3")
    assert (code, err) == (0, "")
    told = json.loads((tmp_path / "out" / "errors.json").read_text())
    rows = [line.split("\t") for line in out.splitlines()[:-1]]
    assert {kind: int(count) for kind, count, _ in rows} == told["counts"]
    assert out.splitlines()[-1] == f"page: {(tmp_path / 'out' / 'index.html').resolve().as_uri()}"
    assert (told["model"], told["method"], told["images"]) == ("whybox/scenes", "odam", 2)


def test_json_is_the_file_and_all_that_is_printed(whybox, network, folder):
    words = ("--data", "coco:data:split=val", "--model", network, "--out", "out", "--score-threshold", "0", "--top", "2")
    code, out, err = whybox("errors", *words, "--json")
    assert code == 0
    assert "does not know cow" in err
    told = json.loads(out)
    assert told.pop("folder") == "out"
    assert told == json.loads((folder / "out" / "errors.json").read_text())
    assert len(told["errors"]) >= 2


def test_an_image_that_breaks_on_the_way(whybox, network, folder):
    (folder / "data" / "images" / "two.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    words = ("--data", "coco:data:split=val", "--model", network, "--out", "out", "--score-threshold", "0", "--top", "1")
    code, out, err = whybox("errors", *words)
    assert code == 1
    assert "two.png" in err
    assert "page: " in out
    assert json.loads((folder / "out" / "errors.json").read_text())["images"] == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--data", "nowhere:x"), "unknown data 'nowhere'"),
        ((*SCENES, "--method", "odem"), "unknown method 'odem'; did you mean odam"),
        ((*SCENES, "--top", "0"), "top and limit must be at least 1"),
        ((*SCENES, "--score-threshold", "2"), "must lie between 0 and 1"),
        ((*SCENES, "--option", "masks=3"), "has no option 'masks'"),
        ((*SCENES, "--rename", "tree"), "--rename 'tree': expected OLD=NEW"),
        ((*SCENES, "--rename", "tre=oak"), "unknown class of the data in rename 'tre'; did you mean tree"),
        ((*SCENES, "--rename", "tree=oak, person=ball"), "unknown class of the model in rename 'oak'"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(whybox, tmp_path, words, line):
    code, out, err = whybox("errors", "--out", "out", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert line in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(whybox, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, err = whybox("errors", *SCENES, "--out", "out")
    assert code == 2
    assert "already exists" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
