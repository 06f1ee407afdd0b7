"""Damaged COCO files: what has one meaning is read, what can be repaired is repaired and named, and no valid box is lost."""

import json
import unicodedata
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from whybox.data.coco import read_coco
from whybox.errors import WhyboxError
from whybox.loading import open_data

WIDTH, HEIGHT = 40, 30
RING = [5, 6, 15, 6, 15, 18, 5, 18]
BOXES = [[5, 6, 15, 18], [1, 2, 9, 8], [20, 10, 30, 25]]


def sound():
    """Two images with objects and one without, three annotations with masks, two categories with a gap between their ids."""
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (7, 8, 9)]
    rows = [
        {"id": n, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": [x, y, w, h], "segmentation": [ring]}
        for n, image, category, (x, y, w, h), ring in (
            (1, 7, 9, (5, 6, 10, 12), RING),
            (2, 7, 3, (1, 2, 8, 6), [1, 2, 9, 2, 9, 8, 1, 8]),
            (3, 8, 3, (20, 10, 10, 15), [20, 10, 30, 10, 30, 25]),
        )
    ]
    return {"images": images, "annotations": rows, "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("coco")
    for n in (7, 8, 9):
        Image.new("RGB", (WIDTH, HEIGHT)).save(place / f"{n}.png")
    return place


def opened(folder, content, **options):
    (folder / "val.json").write_text(json.dumps(content))
    return read_coco(folder / "val.json", **options)


def damaged(place, key, value):
    """The sound file with one value of its first image, annotation or category replaced; `...` takes it away."""
    content = sound()
    if value is ...:
        del content[place][0][key]
    else:
        content[place][0][key] = value
    return content


def boxes_of(data):
    return [box for i in range(len(data)) for box in data[i].truth.boxes.tolist()]


def test_the_sound_file(folder):
    data = opened(folder, sound())
    assert data.problems == ()
    assert boxes_of(data) == BOXES
    assert data.classes == ("dog", "cat")
    assert [len(data[i].truth) for i in range(3)] == [2, 1, 0]
    assert all(data[i].truth.masks is not None for i in range(3))


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        *[("images", "id", value) for value in ("7", 7.0, "7.0", " 7 ", "007", "+7")],
        *[("annotations", "image_id", value) for value in ("7", 7.0, "7.0", "007")],
        *[("annotations", "category_id", value) for value in ("9", 9.0, "9.0")],
        *[("categories", "id", value) for value in ("9", 9.0, "9.0")],
        *[("annotations", "id", value) for value in ("1", 1.0, "1.0")],
        *[("annotations", "iscrowd", value) for value in ("0", "false", "False", "no", "", False, None, 0.0, "0.0", ...)],
        *[("annotations", "bbox", value) for value in (["5", "6", "10", "12"], [5.0, "6.0", " 1e1", "12."])],
        *[("annotations", "segmentation", [value]) for value in ([str(number) for number in RING], RING + RING[:2])],
        *[
            ("images", side, value)
            for side, number in (("width", WIDTH), ("height", HEIGHT))
            for value in (f"{number}", float(number))
        ],
    ],
)
def test_what_has_one_meaning_is_read(folder, place, key, value):
    data = opened(folder, damaged(place, key, value), on_problem="refuse")
    assert data.problems == ()
    assert boxes_of(data) == BOXES
    assert data[0].truth.ids == ("1", "2")
    assert data[0].truth.labels.tolist() == [1, 0]
    assert data[0].truth.ignore.tolist() == [False, False]
    assert data[0].truth.masks[0].sum() == 120


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", True, 1.0, 2])
def test_a_crowd(folder, value):
    assert opened(folder, damaged("annotations", "iscrowd", value))[0].truth.ignore.tolist() == [True, False]


@pytest.mark.parametrize(
    ("place", "key", "value", "words"),
    [
        ("annotations", "id", 2, "annotation 2: the id is that of another annotation, of '7.png': it is annotation 4 here"),
        ("annotations", "id", "2.0", "the id is that of another annotation, of '7.png': it is annotation 4 here"),
        *[
            ("annotations", "id", value, "the id must be a number or a word, got .*: it is annotation 4 here")
            for value in (..., None, [], {}, "", " ", True, float("nan"), float("inf"))
        ],
        ("annotations", "iscrowd", "perhaps", "annotation 1: iscrowd must be 0 or 1, got 'perhaps': read as 0"),
        ("annotations", "iscrowd", [1], r"annotation 1: iscrowd must be 0 or 1, got \[1\]: read as 0"),
        ("images", "width", ..., r"image '7.png' \(id 7\): width and height must be .*, got \(None, 30\): those of the picture"),
        *[
            ("images", side, value, r"image '7.png' \(id 7\): width and height must be .* of the picture are used, 40x30")
            for side in ("width", "height")
            for value in (None, 0, -3, 12.5, "wide", [40], True, float("nan"), float("inf"))
        ],
        ("images", "width", 7, r"image '7.png' \(id 7\): is 40x30, but annotated as 7x30: the picture's size is used"),
        ("images", "height", 3000, r"image '7.png' \(id 7\): is 40x30, but annotated as 40x3000: the picture's size is used"),
        *[
            (
                "images",
                "file_name",
                value,
                r"image .*7.png' \(id 7\): no such file in .*: read as '7.png', the one file that fits",
            )
            for value in ("C:\\data\\7.png", "/home/someone/7.png", "..\\pictures\\7.png", "D:7.png/../7.png", "a/b/c\\7.png")
        ],
    ],
)
def test_what_can_be_repaired_is_repaired_and_named(folder, place, key, value, words):
    content = damaged(place, key, value)
    data = opened(folder, content)
    assert sorted(boxes_of(data)) == sorted(BOXES)
    assert data.names == ["7.png", "8.png", "9.png"]
    assert data[0].truth.masks is not None
    assert len({row for i in range(3) for row in data[i].truth.ids}) == 3
    (line,) = data.problems
    assert line.startswith(f"{folder / 'val.json'}: ")
    assert "\n" not in line
    with pytest.raises(WhyboxError, match=words):
        opened(folder, content, on_problem="refuse")


@pytest.mark.parametrize(
    "value",
    [
        [[]],
        [[5, 6, 15, 6]],
        [RING[:7]],
        [[5, 6, 5, 6, 5, 6]],
        [[5, 6, 10, 6, 15, 6]],
        [[*RING[:7], float("nan")]],
        [[*RING[:7], 1e9]],
        RING,
        [[5, 6], [15, 6], [15, 18]],
        [[[5, 6], [15, 6], [15, 18]]],
        [{"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}],
        {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [7]},
        {"size": [HEIGHT, WIDTH], "counts": "junk"},
        {"counts": None},
        "mask",
        3,
        True,
    ],
)
def test_a_bad_segmentation_costs_the_mask_and_never_the_box(folder, value):
    data = opened(folder, damaged("annotations", "segmentation", value))
    assert boxes_of(data) == BOXES
    assert data[0].truth.masks is None
    assert data[1].truth.masks is not None
    (line,) = data.problems
    assert "image '7.png' (id 7), annotation 1: " in line
    assert line.endswith(": the box stays, without a mask, so that its image has no masks")


@pytest.mark.parametrize("value", [[], {}, "", None, ...])
def test_a_segmentation_that_is_empty_is_named_where_others_are_not(folder, value):
    content = damaged("annotations", "segmentation", value)
    data = opened(folder, content)
    assert boxes_of(data) == BOXES
    assert data[0].truth.masks is None
    (line,) = data.problems
    assert "annotation 1: no segmentation, though others of the file have one" in line
    for row in content["annotations"]:
        row["segmentation"] = []
    assert opened(folder, content).problems == (), "a file of boxes alone"


@pytest.mark.parametrize("bad", [[], [1, 2], [3, 3, 3, 3, 3, 3], "ring", {"counts": []}, [*RING[:7], None]])
def test_a_bad_ring_beside_a_good_one_costs_the_ring(folder, bad):
    data = opened(folder, damaged("annotations", "segmentation", [RING, bad]))
    assert boxes_of(data) == BOXES
    assert data[0].truth.masks[0].sum() == 120
    (line,) = data.problems
    assert "annotation 1: polygon 2 of 2 is left out of the mask: " in line


def test_no_image_that_is_left_out_takes_its_annotations_along_in_silence(folder):
    (line,) = opened(folder, damaged("images", "file_name", "nowhere.png")).problems
    assert line.endswith("; left out with its 2 annotations")


def test_ids_that_are_words_stay_words(folder):
    text = json.dumps(sound()).replace('"image_id": 7', '"image_id": "12e4"').replace('"id": 7', '"id": "12e4"')
    data = opened(folder, json.loads(text.replace('"id": 8', '"id": 120000').replace('"image_id": 8', '"image_id": 120000')))
    assert data.problems == ()
    assert [len(data[i].truth) for i in range(3)] == [2, 1, 0]


def test_categories_of_one_name_are_one_class(folder):
    content = sound()
    content["categories"].append({"id": "word", "name": "cat"})
    content["annotations"][2]["category_id"] = "word"
    data = opened(folder, content)
    assert data.classes == ("dog", "cat")
    assert data[1].truth.labels.tolist() == [1]
    (line,) = data.problems
    assert line.endswith("category 'cat': has the ids 9 and word: read as one class")


def test_categories_from_0_with_gaps_and_numbers_as_names(folder):
    content = sound()
    content["categories"] = [
        {"id": "30", "name": 5},
        {"id": 9, "name": "cat"},
        {"id": 0, "name": "sky"},
        {"id": 3.0, "name": "dog"},
    ]
    data = opened(folder, content)
    assert data.problems == ()
    assert data.classes == ("sky", "dog", "cat", "5")
    assert data[0].truth.labels.tolist() == [2, 1]


def test_the_file_that_shares_most_of_a_name_is_found_unless_there_are_two(tmp_path):
    content = sound()
    content["images"] = [{"id": 7, "file_name": "X:\\all\\left\\a.png", "width": WIDTH, "height": HEIGHT}]
    for part in ("left", "right"):
        (tmp_path / "images" / part).mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / part / "a.png")
    data = opened(tmp_path, content)
    assert data.names == ["left/a.png"]
    content["images"].append({"id": 8, "file_name": "X:\\all\\middle\\a.png", "width": WIDTH, "height": HEIGHT})
    lines = opened(tmp_path, content).problems
    assert any(
        "and 2 files have its last name: ['left/a.png', 'right/a.png']; left out with its 1 annotations" in line for line in lines
    )


def test_a_size_from_a_turned_picture_is_right_as_it_is(tmp_path):
    picture = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    for n in (7, 8, 9):
        picture.save(tmp_path / f"{n}.png", exif=exif)
    data = opened(tmp_path, sound())
    assert data.problems == ()
    assert data[0].image.size == (WIDTH, HEIGHT)
    (tmp_path / "9.png").write_bytes(b"no picture")
    assert opened(tmp_path, sound()).problems == (), "shows when it is read"
    content = sound()
    del content["images"][2]["width"]
    (line,) = opened(tmp_path, content).problems
    assert "image '9.png' (id 9): no usable width and height, and " in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SPELLED = st.sampled_from([str, float, lambda number: f" {number}.0 ", lambda number: number])
KEPT = {
    "images": {"width", "height", "license", "coco_url"},
    "annotations": {"id", "iscrowd", "segmentation", "area", "score"},
    "categories": {"supercategory"},
}
"""What may hold anything at all without costing a box."""


@st.composite
def damage(draw):
    """A file whose links between its parts are written in any way, and whose other values are anything."""
    content = deepcopy(sound())
    for place, keys in KEPT.items():
        for row in content[place]:
            for key in draw(st.sets(st.sampled_from(sorted(keys)))):
                row[key] = draw(JSON)
            for key in ("image_id", "category_id", "id"):
                if isinstance(row.get(key), int) and key not in keys:
                    row[key] = draw(SPELLED)(row[key])
            if "bbox" in row:
                row["bbox"] = [draw(SPELLED)(number) for number in row["bbox"]]
    for place in content:
        content[place] += draw(st.lists(JSON, max_size=2))
    return content


unhurried = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@unhurried
@given(content=damage())
def test_no_damage_beside_a_valid_box_loses_it(folder, content):
    data = opened(folder, content)
    found = boxes_of(data)
    assert all(box in found for box in BOXES)
    assert all("\n" not in line for line in data.problems)


@unhurried
@given(content=st.data())
def test_no_damage_raises_anything_but_a_whybox_error(folder, content):
    damaged = sound()
    for _ in range(content.draw(st.integers(1, 3))):
        place = content.draw(st.sampled_from(sorted(damaged)))
        row = content.draw(st.integers(0, len(damaged[place]) - 1))
        if isinstance(damaged[place][row], dict):
            key = content.draw(st.sampled_from(sorted(damaged[place][row])))
            damaged[place][row][key] = content.draw(JSON)
    with suppress(WhyboxError):
        data = opened(folder, damaged)
        for i in range(len(data)):
            data[i]


def test_boxes_in_fractions_are_refused_and_polygons_in_fractions_named(folder):
    content = sound()
    for row in content["annotations"]:
        row["bbox"] = [0.1, 0.1, 0.3, 0.3]
    with pytest.raises(WhyboxError, match=r"all 3 boxes lie in 0..1; COCO's bbox is \[x, y, width, height\] in pixels"):
        opened(folder, content)
    data = opened(folder, damaged("annotations", "segmentation", [[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]))
    assert "the segmentation lies in 0..1, its bbox in pixels" in data.problems[0]
    assert data[0].truth.masks is None


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("a.PNG", "a.png"),
        (unicodedata.normalize("NFC", "bär.png"), unicodedata.normalize("NFD", "bär.png")),
        ("a%20b.png", "a b.png"),
    ],
)
@pytest.mark.parametrize("below", ["", "set/"])
def test_a_name_that_file_systems_change_is_found_and_named(tmp_path, written, there, below):
    (tmp_path / "images" / below).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / below / there)
    content = sound()
    content["images"] = [{"id": 7, "file_name": below + written, "width": WIDTH, "height": HEIGHT}]
    content["annotations"] = content["annotations"][:1]
    data = opened(tmp_path, content)
    assert data.names == [below + there]
    assert f"read as {below + there!r}, the one file that fits" in data.problems[0]


def test_two_names_that_differ_in_case_alone_fit_neither(tmp_path):
    for name in ("a.png", "A.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    content = sound()
    content["images"] = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in ((7, "a.PNG"), (8, "b.png"))
    ]
    data = opened(tmp_path, content)
    assert data.names == ["b.png"]
    assert "2 files have its last name" in data.problems[0]


def test_an_address_alone_is_a_name(folder):
    content = sound()
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.example/val/7.png"
    data = opened(folder, content)
    assert data.names[0] == "7.png"
    assert data.problems == ()


def test_a_lone_surrogate_is_no_run_length(folder):
    data = opened(folder, damaged("annotations", "segmentation", {"size": [HEIGHT, WIDTH], "counts": "\ud800"}))
    assert "counts are no packed run lengths" in data.problems[0]


@pytest.mark.parametrize("name", ["a=b", "split=b"])
def test_a_folder_with_an_equals_sign(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    for n in (7, 8, 9):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name / f"{n}.png")
    (tmp_path / name / "val.json").write_text(json.dumps(sound()))
    monkeypatch.chdir(tmp_path)
    for written in (f"coco:{tmp_path / name}", f"coco:{name}", f"coco:{tmp_path / name}:split=val"):
        assert len(open_data(written)) == 3
