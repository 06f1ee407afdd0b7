"""Captioned images in COCO's format: where the file is, what is left out, and one line on every mistake."""

import json

import pytest

from whybox.data.coco_captions import read_captions
from whybox.data.scenes import draw_scene, export_coco
from whybox.errors import MissingSplitError, WhyboxError
from whybox.loading import open_data


@pytest.fixture
def folder(tmp_path):
    return export_coco(tmp_path / "scenes", 3, seed=5)


def change(folder, edit):
    file = folder / "captions.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return file


def test_exported_scenes_are_read(folder):
    opened = open_data(f"coco-captions:{folder}")
    assert len(opened) == 3
    assert opened.problems == ()
    for index in range(3):
        scene = draw_scene(index, seed=5)
        assert opened.captions[index] == tuple(scene.captions)
        assert opened[index].image.tobytes() == scene.image.convert("RGB").tobytes()
    file = folder / "captions.json"
    assert open_data(f"coco-captions:{file}").images == opened.images
    assert len(opened.digest) == 16


def test_cocos_own_layout(folder, tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (folder / "images").rename(root / "val2017")
    for split in ("train", "val"):
        (root / "annotations" / f"captions_{split}2017.json").write_bytes((folder / "captions.json").read_bytes())
    (root / "annotations" / "instances_val2017.json").write_text("{}")
    assert len(open_data(f"coco-captions:{root}:split=val")) == 3
    assert len(read_captions(root, "train", images=root / "val2017")) == 3
    with pytest.raises(MissingSplitError, match=r"no single captions\*.json for the split 'test'"):
        open_data(f"coco-captions:{root}:split=test")
    with pytest.raises(WhyboxError, match=r"the image '000000.png' .* is neither beside it nor in an images/ folder"):
        open_data(f"coco-captions:{root}:split=train")


def test_what_is_broken_is_left_out_and_told(folder):
    def edit(content):
        content["annotations"].append({"image_id": 1, "caption": "  "})
        content["annotations"].append({"caption": "a dog"})
        content["annotations"] = [row for row in content["annotations"] if row.get("image_id") != 2]
        content["annotations"].append({"image_id": "003", "caption": "a  dog\n"})
        content["images"].append({"id": 9, "file_name": "nowhere.png"})
        content["annotations"].append({"image_id": 9, "caption": "a dog"})

    change(folder, edit)
    opened = open_data(f"coco-captions:{folder}")
    assert [image.name for image in opened.images] == ["000000.png", "000002.png"]
    assert opened.captions[1][-1] == "a dog"
    assert len(opened.problems) == 4
    assert all("left out" in line for line in opened.problems)
    with pytest.raises(WhyboxError, match="and 3 more problems"):
        open_data(f"coco-captions:{folder}", on_problem="refuse")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.update(annotations=[]), "lacks a list of annotations"),
        (lambda content: content.pop("images"), "lacks a list of images"),
        (lambda content: content.update(annotations=[{"image_id": 1, "bbox": [0, 0, 1, 1]}]), "holds no captions"),
        (lambda content: content.update(annotations=[{"image_id": 77, "caption": "a"}]), "none of the 3 images .* can be used"),
    ],
)
def test_files_without_captions(folder, edit, message):
    change(folder, edit)
    with pytest.raises(WhyboxError, match=message) as caught:
        open_data(f"coco-captions:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("coco-captions:", "coco-captions needs a place"),
        ("coco-captions:nowhere", "no captions at nowhere"),
    ],
)
def test_mistakes_are_named(data, message):
    with pytest.raises(WhyboxError, match=message):
        open_data(data)


def test_a_file_that_is_no_json(folder):
    (folder / "captions.json").write_text("{")
    with pytest.raises(WhyboxError, match=r"cannot read .* as JSON"):
        open_data(f"coco-captions:{folder}")
