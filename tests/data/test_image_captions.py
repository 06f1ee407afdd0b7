"""Captions in COCO's format, found and joined with images; which classes are stuff."""

import json

import pytest

from whybox.data.image_captions import captions_of_images, find_captions, read_captions, read_stuff
from whybox.errors import WhyboxError

IMAGES = [{"id": 7, "file_name": "one.png"}, {"id": "008", "file_name": "train/two.png"}]
TEXTS = [(8, "a dog"), (7, " a  red\nball"), (7, "the ball"), (9, "of no image"), (7, " "), (7, None)]
ROWS = [{"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(TEXTS)]
READ = {"one.png": ("a red ball", "the ball"), "train/two.png": ("a dog",)}


def write(file, **content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_captions_by_image_in_the_files_order(tmp_path):
    assert read_captions(write(tmp_path / "captions.json", images=IMAGES, annotations=ROWS)) == READ


def test_names_come_from_the_other_file_where_this_one_has_none(tmp_path):
    boxes = write(tmp_path / "val.json", images=IMAGES, annotations=[], categories=[])
    assert read_captions(write(tmp_path / "captions.json", annotations=ROWS), boxes) == READ


def test_names_match_whole_or_by_their_end_where_only_one_has_it():
    assert captions_of_images(READ, ["two.png", "one.png", "moved/one.png", "none.png"]) == [
        ("a dog",),
        ("a red ball", "the ball"),
        ("a red ball", "the ball"),
        (),
    ]
    twice = {"a/one.png": ("a",), "b/one.png": ("b",)}
    assert captions_of_images(twice, ["one.png", "b/one.png"]) == [(), ("b",)]


@pytest.mark.parametrize(
    ("boxes", "captions"),
    [
        ("annotations/instances_val2017.json", "annotations/captions_val2017.json"),
        ("val.json", "captions_val.json"),
        ("val.json", "annotations/captions_val.json"),
        ("val.json", "captions.json"),
    ],
)
def test_the_file_of_the_split_is_found(tmp_path, boxes, captions):
    given = write(tmp_path / boxes, annotations=[{"image_id": 7, "bbox": [0, 0, 1, 1]}])
    assert find_captions(given) is None
    for other in ("captions_train.json", "annotations/captions_train2017.json"):
        write(tmp_path / other, annotations=ROWS)
    if captions == "captions.json":
        (tmp_path / "captions_train.json").unlink()
    assert find_captions(given) is None
    found = write(tmp_path / captions, annotations=ROWS)
    assert find_captions(given) == found


def test_a_file_with_boxes_and_captions_is_its_own(tmp_path):
    file = write(tmp_path / "val.json", images=IMAGES, annotations=[{"bbox": [0, 0, 1, 1]}, *ROWS])
    assert find_captions(file) == file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [{"image_id": 7}]}, "has no captions"),
        ({"annotations": ROWS}, "no images with these ids"),
        ({"annotations": ROWS[:1], "images": IMAGES[:1]}, "no images with these ids"),
    ],
)
def test_what_gives_no_caption_is_one_line(tmp_path, content, message):
    with pytest.raises(WhyboxError, match=message) as caught:
        read_captions(write(tmp_path / "captions.json", **content))
    assert "\n" not in str(caught.value)


def test_a_list_of_results_is_one_line_too(tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(ROWS))
    with pytest.raises(WhyboxError, match="has no captions"):
        read_captions(tmp_path / "captions.json")


def test_stuff_is_what_is_no_thing(tmp_path):
    told = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}, {"id": 3, "name": "untold"}]
    assert read_stuff(write(tmp_path / "a.json", categories=told)) == {"sky"}
    assert read_stuff(write(tmp_path / "b.json", categories=told[:1])) == frozenset()
    assert read_stuff(write(tmp_path / "c.json", categories=told[2:])) is None
    with pytest.raises(WhyboxError, match="isthing must be 0 or 1"):
        read_stuff(write(tmp_path / "d.json", categories=[{"name": "cat", "isthing": "maybe"}]))
