"""COCO's panoptic format: segments by color, things and stuff, and what cannot be read, by name."""

import json

import numpy as np
import pytest
from PIL import Image

from whybox.api import open_data
from whybox.errors import MissingSplitError, WhyboxError

WIDTH, HEIGHT = 12, 8
SKY, CAT, CROWD = 3 + 256 * 7 + 65536 * 2, 300, 5


def content():
    segments = [
        {"id": CAT, "category_id": 17, "iscrowd": 0, "bbox": [2, 3, 4, 4]},
        {"id": SKY, "category_id": 187, "iscrowd": 0},
        {"id": CROWD, "category_id": 17, "iscrowd": 1},
        {"id": 77, "category_id": 17, "iscrowd": 0},
    ]
    return {
        "images": [{"id": 9, "file_name": "one.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 9, "file_name": "one.png", "segments_info": segments}],
        "categories": [
            {"id": 187, "name": "sky-other-merged", "isthing": 0},
            {"id": 17, "name": "cat", "isthing": 1},
            {"id": 122, "name": "door-stuff", "isthing": 0},
        ],
    }


def write(folder, told, split="val2017"):
    """In COCO's own layout."""
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    numbers[:3], numbers[3:7, 2:6], numbers[5:, 8:] = SKY, CAT, CROWD
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    drawn = folder / "annotations" / f"panoptic_{split}"
    drawn.mkdir(parents=True)
    Image.fromarray(colors).save(drawn / "one.png")
    (folder / split).mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(folder / split / "one.jpg")
    (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(told))
    return folder


def test_segments_become_objects_with_masks_and_boxes(tmp_path):
    data = open_data(f"coco-panoptic:{write(tmp_path, content())}")
    assert data.classes == ("cat", "door", "sky")
    assert data.stuff == ("door", "sky")
    assert (data.names, data.problems, len(data)) == (["one.jpg"], (), 1)
    truth = data[0].truth
    # The segment without a pixel is left out.
    assert truth.ids == (str(CAT), str(SKY), str(CROWD))
    assert [data.classes[label] for label in truth.labels] == ["cat", "sky", "cat"]
    assert truth.ignore.tolist() == [False, False, True]
    assert truth.boxes.tolist() == [[2, 3, 6, 7], [0, 0, 12, 3], [8, 5, 12, 8]]
    assert truth.masks.sum((1, 2)).tolist() == [16, 36, 12]
    assert data[0].image.size == (WIDTH, HEIGHT)


def test_it_is_opened_by_its_file_too(tmp_path):
    folder = write(tmp_path, content())
    assert open_data(f"coco-panoptic:{folder}/annotations/panoptic_val2017.json").digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["annotations"].clear(), "lists no segments_info: it is no panoptic file"),
        (lambda told: told["annotations"][0].update(image_id=4), "has no image with segments: .*no segments: left out"),
    ],
)
def test_a_file_of_no_use_is_one_line(tmp_path, change, message):
    told = content()
    change(told)
    with pytest.raises(WhyboxError, match=message) as caught:
        open_data(f"coco-panoptic:{write(tmp_path, told)}")
    assert "\n" not in str(caught.value)


def test_broken_segments_are_left_out_and_named(tmp_path):
    told = content()
    told["annotations"][0]["segments_info"][0]["category_id"] = 4
    told["annotations"][0]["segments_info"][3]["id"] = "x"
    data = open_data(f"coco-panoptic:{write(tmp_path, told)}")
    assert [line.partition("segment ")[2] for line in data.problems] == [
        "1: no category has the id 4: left out",
        "4: its id is no whole number: left out",
    ]
    assert len(data[0].truth) == 2
    with pytest.raises(WhyboxError, match="no category has the id 4"):
        open_data(f"coco-panoptic:{tmp_path}", on_problem="refuse")


def test_files_that_are_missing_are_one_line(tmp_path):
    folder = write(tmp_path, content())
    data = open_data(f"coco-panoptic:{folder}")
    (folder / "annotations" / "panoptic_val2017" / "one.png").unlink()
    with pytest.raises(WhyboxError, match=r"the segments .*one\.png cannot be read"):
        data[0]
    (folder / "annotations" / "panoptic_val2017").rmdir()
    with pytest.raises(WhyboxError, match="say where they are: segments=FOLDER"):
        open_data(f"coco-panoptic:{folder}")
    with pytest.raises(MissingSplitError):
        open_data(f"coco-panoptic:{folder}:split=train")
    for rest, message in (("", "needs a place"), (":nowhere", "no panoptic annotations at nowhere")):
        with pytest.raises(WhyboxError, match=message):
            open_data(f"coco-panoptic{rest}")


def test_segments_of_another_size_are_refused(tmp_path):
    folder = write(tmp_path, content())
    Image.new("RGB", (3, 3)).save(folder / "annotations" / "panoptic_val2017" / "one.png")
    with pytest.raises(WhyboxError, match="3x3 pixels for an image of 12x8"):
        open_data(f"coco-panoptic:{folder}")[0]
