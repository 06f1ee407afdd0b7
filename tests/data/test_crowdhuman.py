"""CrowdHuman's odgt: three boxes a person, what is ignored, and every broken line by its number."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from whybox.data.crowdhuman import open_data
from whybox.errors import ImageError, WhyboxError
from whybox.truth import DataSet


def person(**changes):
    boxes = {"fbox": [10, 5, 20, 40], "vbox": [12, 6, 10, 20], "hbox": [15, 6, 5, 6]}
    extra = {"extra": {"box_id": 0, "occ": 1}, "head_attr": {"ignore": 0, "occ": 0, "unsure": 0}}
    return {"tag": "person", **boxes, **extra, **changes}


PEOPLE = [
    person(fbox=[-7, 5, 20.5, 60]),
    person(head_attr={"ignore": 1}),
    person(tag="mask", extra={"box_id": 2, "ignore": 1}, head_attr={}, vbox=[0, 0, 0, 0]),
    person(extra={"box_id": 3, "ignore": 1}),
    {"tag": "person", "fbox": [30, 5, 4, 9]},
]


def write(folder, lines, split="val", pictures=("a,1.jpg", "b,2.jpg")):
    (folder / "Images").mkdir(exist_ok=True)
    for name in pictures:
        Image.new("RGB", (50, 40), (10, 20, 30)).save(folder / "Images" / name)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / f"annotation_{split}.odgt").write_text("\n".join(texts) + "\n")
    return folder


def test_a_file_by_hand(tmp_path):
    data = open_data(str(write(tmp_path, [{"ID": "a,1", "gtboxes": PEOPLE}, {"ID": "b,2", "gtboxes": []}])))
    assert isinstance(data, DataSet)
    assert (data.classes, data.problems, data.names) == (("person",), (), ["a,1", "b,2"])
    assert data.name == f"crowdhuman:{tmp_path / 'annotation_val.odgt'}"
    sample = data[0]
    truth = sample.truth
    assert (sample.name, sample.image.size, sample.image.mode) == ("a,1", (50, 40), "RGB")
    whole = [10, 5, 30, 45]
    assert truth.boxes.tolist() == [[-7, 5, 13.5, 65], whole, whole, whole, [30, 5, 34, 14]], "they may leave the image"
    assert truth.labels.tolist() == [0] * 5
    assert truth.ids == ("a,1/0", "a,1/1", "a,1/2", "a,1/3", "a,1/4")
    assert truth.ignore.tolist() == [False, False, True, True, False]
    assert truth.masks is None
    none, seen, head = [np.nan] * 4, [12, 6, 22, 26], [15, 6, 20, 12]
    np.testing.assert_array_equal(truth.parts["visible"], [seen, seen, none, none, none])
    np.testing.assert_array_equal(truth.parts["head"], [head, none, none, none, none])
    empty = data[1].truth
    assert (len(empty), empty.boxes.shape, empty.parts["head"].shape) == (0, (0, 4), (0, 4))
    with pytest.raises(IndexError):
        data[2]


def test_pickled_and_back(tmp_path):
    data = open_data(str(write(tmp_path, [{"ID": "a,1", "gtboxes": PEOPLE}])))
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[0].truth.boxes, data[0].truth.boxes)
    assert again.names == data.names


def test_splits_files_and_folders_of_images(tmp_path):
    folder = write(write(tmp_path, [{"ID": "a,1", "gtboxes": []}]), [{"ID": "b,2", "gtboxes": []}], "train")
    assert open_data(str(folder), split="train").names == ["b,2"]
    file = str((folder / "annotation_val.odgt").rename(folder / "other.odgt"))
    assert open_data(file).names == ["a,1"]
    (folder / "Images").rename(folder / "pictures")
    with pytest.raises(WhyboxError, match=r"names no image that can be used: .*line 1: there is no a,1.jpg in .*Images"):
        open_data(file)
    assert open_data(file, images=folder / "pictures")[0].name == "a,1"
    with pytest.raises(WhyboxError, match=r"no CrowdHuman annotations at .*annotation_val.odgt"):
        open_data(str(folder))
    with pytest.raises(WhyboxError, match="crowdhuman needs a place"):
        open_data("")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (person(fbox=None), "no fbox"),
        (person(fbox=[1, 2, 3]), "fbox must be"),
        (person(fbox=[1, 2, 0, 4]), "fbox must have a width and a height above 0"),
        (person(fbox=[1, 2, -3, 4]), "fbox must have"),
        (person(fbox=[1, float("nan"), 3, 4]), "fbox holds NaN"),
        (person(tag=None), "expected a tag and an fbox"),
        ("person", "expected a tag and an fbox"),
    ],
)
def test_a_broken_person_is_left_out_by_name_or_refused(tmp_path, broken, reason):
    write(tmp_path, [{"ID": "a,1", "gtboxes": [broken, person()]}])
    data = open_data(str(tmp_path))
    assert data[0].truth.ids == ("a,1/1",), "the others keep their numbers"
    (line,) = data.problems
    assert line.startswith(f"{tmp_path / 'annotation_val.odgt'}: annotation a,1/0: {reason}")
    with pytest.raises(WhyboxError, match=f"{reason}.*; mend it"):
        open_data(str(tmp_path), on_problem="refuse")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (person(extra=[1]), "extra must hold attributes by name, got [1]"),
        (person(extra={"ignore": "perhaps"}), "ignore of extra must be 0 or 1, got 'perhaps'"),
        (person(head_attr="no"), "head_attr must hold attributes by name"),
    ],
)
def test_a_broken_attribute_costs_neither_box_nor_parts(tmp_path, broken, reason):
    truth = (data := open_data(str(write(tmp_path, [{"ID": "a,1", "gtboxes": [broken]}]))))[0].truth
    assert truth.boxes.tolist() == [[10, 5, 30, 45]]
    assert truth.ignore.tolist() == [False]
    assert not truth.parts["head"].isnan().any()
    (line,) = data.problems
    assert f"annotation a,1/0: {reason}" in line


@pytest.mark.parametrize(
    ("flag", "ignored"), [("0", False), ("false", False), ("1", True), ("true", True), (True, True), (0.0, False)]
)
def test_flags_and_numbers_as_text(tmp_path, flag, ignored):
    row = person(fbox=["10", "5.0", " 20 ", 40], extra={"ignore": flag}, head_attr={"ignore": flag})
    data = open_data(str(write(tmp_path, [{"ID": "a,1", "gtboxes": [row]}])))
    assert data.problems == ()
    assert data[0].truth.boxes.tolist() == [[10, 5, 30, 45]]
    assert data[0].truth.ignore.tolist() == [ignored]
    assert data[0].truth.parts["head"].isnan().all().item() == ignored


@pytest.mark.parametrize("name", ["7", 7, "7.jpg", "C:\\people\\7", "/home/someone/Images/7.jpg"])
def test_an_id_leads_to_its_picture(tmp_path, name):
    data = open_data(str(write(tmp_path, [{"ID": name, "gtboxes": []}], pictures=("7.jpg",))))
    assert data[0].image.size == (50, 40)
    assert data.names == [str(name)]
    assert len(data.problems) == (len(str(name)) > 5)


@pytest.mark.parametrize("key", ["vbox", "hbox"])
def test_a_broken_part_leaves_the_person(tmp_path, key):
    data = open_data(str(write(tmp_path, [{"ID": "a,1", "gtboxes": [person(**{key: [3, 4, 0, 0]})]}])))
    parts = data[0].truth.parts
    assert parts["visible" if key == "vbox" else "head"].isnan().all()
    assert not parts["head" if key == "vbox" else "visible"].isnan().any()
    assert f"annotation a,1/0: {key} must have a width and a height above 0" in data.problems[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: no JSON"),
        ("[" * 10**5, "line 2: no JSON"),
        ("[1]", "line 2: expected an ID and gtboxes, got [1]"),
        ({"gtboxes": []}, "line 2: expected an ID and gtboxes"),
        ({"ID": [7], "gtboxes": []}, "line 2: expected an ID and gtboxes"),
        ({"ID": 7.0, "gtboxes": []}, "line 2: there is no 7.jpg in "),
        ({"ID": "b,2"}, "line 2: image 'b,2' has no list of gtboxes"),
        ({"ID": "a,1", "gtboxes": []}, "line 2: the image 'a,1' is already on line 1"),
        ({"ID": "c,3", "gtboxes": []}, "line 2: there is no c,3.jpg in "),
    ],
)
def test_a_broken_line_is_numbered(tmp_path, line, reason):
    write(tmp_path, [{"ID": "a,1", "gtboxes": PEOPLE}, line, "", {"ID": "b,2", "gtboxes": []}])
    data = open_data(str(tmp_path))
    assert data.names == ["a,1", "b,2"]
    (problem,) = data.problems
    assert problem.startswith(f"{tmp_path / 'annotation_val.odgt'}: {reason}")
    with pytest.raises(WhyboxError, match="line 2"):
        open_data(str(tmp_path), on_problem="refuse")


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path):
    write(tmp_path, [{"ID": "a,1", "gtboxes": []}])
    file = tmp_path / "annotation_val.odgt"
    file.write_bytes(file.read_bytes() + b'{"ID": "\xff\xfe\n')
    assert "line 2: no JSON" in open_data(str(tmp_path)).problems[0]


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(WhyboxError, match=r"names no image that can be used$"):
        open_data(str(write(tmp_path, [""])))


def test_what_shows_only_when_the_picture_is_read(tmp_path):
    people = [person(), person(fbox=[50, 5, 9, 9], extra={"ignore": 1}), person(fbox=[50, 5, 9, 9])]
    write(tmp_path, [{"ID": "a,1", "gtboxes": people[:2]}, {"ID": "b,2", "gtboxes": people}])
    data = open_data(str(tmp_path))
    assert len(data[0].truth) == 2, "what is ignored may lie anywhere"
    with pytest.raises(WhyboxError, match=r"b,2/2 lies outside the image of 50x40"):
        data[1]
    (tmp_path / "Images" / "a,1.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match="the file is empty"):
        data[0]
