"""Fixations of eye trackers, pointers, COCO-Search18 and SALICON, in files of the form in which they are published."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import whybox
from whybox.data._fixations_pointer import clicks, dwells
from whybox.data.coco import open_data
from whybox.errors import WhyboxError
from whybox.frame import OnScreen
from whybox.truth import Truth

BOXES = {11: (1, [10, 20, 40, 30], 1), 12: (1, [60, 20, 30, 30], 2), 13: (2, [5, 5, 20, 60], 1)}
"""By annotation id: image, [x, y, width, height], category."""
NAMES = {1: "COCO_val2014_000000000001.jpg", 2: "sub/b.png"}
SIZES = {1: (120, 60), 2: (40, 80)}


@pytest.fixture
def folder(tmp_path):
    images = [{"id": n, "file_name": NAMES[n], "width": w, "height": h} for n, (w, h) in SIZES.items()]
    rows = [{"id": n, "image_id": image, "bbox": box, "category_id": kind} for n, (image, box, kind) in BOXES.items()]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "fork"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "sub").mkdir()
    for n, name in NAMES.items():
        Image.new("RGB", SIZES[n]).save(tmp_path / name)
    return tmp_path


def looked(folder, name, content, **options):
    """By annotation id, the fixations as a list, or None; and the data set."""
    file = folder / name
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        file.write_text(json.dumps(content))
    data = open_data(str(folder / "val.json"), fixations=file, **options)
    truths = [data[index].truth for index in range(len(data))]
    pairs = [(name, points) for truth in truths for name, points in zip(truth.ids, truth.fixations, strict=True)]
    return {int(name): None if points is None else points.tolist() for name, points in pairs}, data


def near(rows):
    return pytest.approx(np.asarray(rows, dtype=float), abs=1e-4)


# Eye trackers.


def test_a_table_in_pixels_of_the_picture(folder):
    text = "x,y,duration,participant,image,object\n12,22,0.25,p1,1,11\n13,23,.5,p2,000000000001.jpg,11\n6,7,0.1,p1,b,13\n"
    found, data = looked(folder, "gaze.csv", text)
    assert found[11] == near([[12, 22, 0.25], [13, 23, 0.5]])
    assert found[12] is None
    assert found[13] == near([[6, 7, 0.1]])
    assert data[0].truth.viewers == (("p1", "p2"), None)
    assert data.problems == ()
    assert pickle.loads(pickle.dumps(data))[1].truth.viewers == (("p1",),)


@pytest.mark.parametrize(
    ("screen", "left", "top", "scale"),
    [
        ("1280x1024", (1280 - 120) / 2, (1024 - 60) / 2, 1),
        ("1280x1024-fit", 0, (1024 - 640) / 2, 1280 / 120),
        ("30,40,240,120", 30, 40, 2),
    ],
)
def test_the_screens_pixels_are_mapped_back(folder, screen, left, top, scale):
    rows = [[left + 12.5 * scale, top + 22 * scale, 0.2]]
    text = "x;y;duration;participant;object\n" + "".join(f"{x};{y};{seconds};p;11\n" for x, y, seconds in rows)
    found, data = looked(folder, "gaze.csv", text, screen=screen)
    assert found[11] == near([[12.5, 22, 0.2]])
    assert data.digest != looked(folder, "gaze.csv", None)[1].digest


def test_a_place_for_each_line_as_eyelink_names_its_columns(folder):
    head = (
        "RECORDING_SESSION_LABEL\tCURRENT_FIX_X\tCURRENT_FIX_Y\tCURRENT_FIX_DURATION\timage\tobject\tleft\ttop\twidth\theight\n"
    )
    lines = "s1\t140\t70\t250\tb.png\t13\t100\t50\t160\t320\ns1\t.\t.\t90\tb.png\t13\t100\t50\t160\t320\n"
    found, data = looked(folder, "gaze.tsv", head + lines)
    assert found[13] == near([[10, 5, 0.25]])
    assert "line 3: x is no number: '.'; 1 of 2 lines" in data.problems[0]


def test_without_an_object_a_fixation_is_of_what_it_lies_in(folder):
    text = "x,y,duration,image\n12,22,0.25,1\n61,30,0.5,1\n1,1,0.5,1\n"
    found, data = looked(folder, "gaze.csv", text)
    assert (found[11], found[12]) == (near([[12, 22, 0.25]]), near([[61, 30, 0.5]]))
    assert data[0].truth.viewers == (("one person",), ("one person",))
    found, _ = looked(folder, "gaze.csv", text, free="all")
    assert len(found[11]) == len(found[12]) == 3
    with pytest.raises(WhyboxError, match="unknown free 'some'"):
        looked(folder, "gaze.csv", text, free="some")


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("x,duration,image\n1,2,3\n", {}, "lacks the column y"),
        ("x,y,image\n1,2,3\n", {}, "lacks the column duration"),
        ("x,y,duration\n1,2,3\n", {}, "lacks the column image or object"),
        ("x,y,duration,object,left\n1,2,3,11,4\n", {}, "lacks the column top, width, height"),
        ("", {}, "lacks the column x, y"),
        ("x,y,duration,object\n1,2,250,11\n1,2,180,11\n", {}, "name the column duration_ms"),
        ("x,y,duration,object\n1,2,.2,11\n", {"screen": "wide"}, "screen must be 1280x1024"),
        ("x,y,duration,object\n1,2,.2,11\n", {"screen": "1,2,0,4"}, "screen must be 1280x1024"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole(folder, text, options, reason):
    with pytest.raises(WhyboxError, match=reason):
        looked(folder, "gaze.csv", text, **options)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,.2,p,9,11", "participant p, image 9, object 11: object 11 is in image 'COCO_val2014_000000000001.jpg', not in '9'"),
        ("1,2,.2,p,b,11", "object 11 is in image 'COCO_val2014_000000000001.jpg'"),
        ("1,2,.2,p,b,99", "annotation '99' is not in the data set"),
        ("1,2,-1,p,b,13", "line 2: a duration below 0"),
        ("1,,.2,p,b,13", "line 2: no y"),
        ("90,2,.2,p,b,13", "1 of 2 fixations lie outside"),
    ],
)
def test_a_line_that_cannot_be_used_is_a_problem(folder, line, reason):
    _, data = looked(folder, "gaze.csv", f"x,y,duration,participant,image,object\n{line}\n3,9,.2,p,b,13\n")
    assert reason in data.problems[0]
    assert data[1].truth.fixations[0].tolist() == near([[3, 9, 0.2]])


def test_a_fixation_of_a_day_is_none(folder):
    found, data = looked(folder, "looked.json", [{"annotation_id": 13, "fixations": [[3, 2, 1e300], [3, 2, 0.1]]}])
    assert "1 of 2 fixations last longer than a day" in data.problems[0]
    assert found[13] == near([[3, 2, 0.1]])


def test_screen_is_for_tables(folder):
    with pytest.raises(WhyboxError, match=r"screen is for the tables of eye trackers \(.csv, .tsv\)"):
        looked(folder, "looked.json", [], screen="1280x1024")


def test_the_options_stand_in_the_data_sets_name(folder):
    (folder / "gaze.csv").write_text("x,y,duration,image\n55,64,.2,1\n")
    for screen in ("1280x1024-fit", "30,20,240,120"):
        data = whybox.open_data(f"coco:{folder / 'val.json'}:fixations={folder / 'gaze.csv'}:screen={screen}:free=all")
        where = (55 * 120 / 1280, (64 - 192) * 120 / 1280) if screen.endswith("fit") else (12.5, 22)
        assert bool(data.problems) == (where[1] < 0)
        if not data.problems:
            assert data[0].truth.fixations[1].tolist() == near([[*where, 0.2]])


# Pointers.


def trial(**changes):
    entry = {"format": "whybox-pointer/1", "kind": "click", "participant": "p1", "image": "b.png", "annotation_id": 13}
    entry |= {"shown": [100, 50, 80, 160], "radius": 20, "blur": 9, "samples": [[500, 120, 70], [900, 140.5, 90]], "end": 1000}
    return json.dumps(entry | changes)


def test_clicks_hold_until_the_next(folder):
    again = trial(participant="p2", samples=[[0, 120, 70], [100, None, None], [300, 130, 70]], end=800)
    found, data = looked(folder, "clicks.jsonl", trial() + "\n\n" + again + "\n")
    assert found[13] == near([[10, 10, 0.4], [20.25, 20, 0.1], [10, 10, 0.1], [15, 10, 0.5]])
    assert data[1].truth.viewers == (("p1", "p1", "p2", "p2"),)
    assert data.problems == ()


def test_a_lens_stays_or_passes(folder):
    """200 ms at (120, 70), a quick way through, off the picture, and at the end one sample that holds."""
    samples = [[0, 120, 70], [100, 122, 70], [200, 150, 90], [230, 170, 130], [260, None, None], [300, 110, 60]]
    found, _ = looked(folder, "lens.jsonl", trial(kind="lens", samples=samples, end=700))
    assert found[13] == near([[10.5, 10, 0.2], [5, 5, 0.4]])


def test_dispersion_by_hand():
    steps = np.array([[0, 0, 0], [0.05, 4, 0], [0.1, 8, 0], [0.15, 20, 0], [0.2, 24, 0], [0.35, 60, 0]], dtype=float)
    # 0 to 8 fit into 10 and last 0.15 s; then 20 and 24 last 0.2 s, of which 24 has three quarters; 60 has no time left.
    assert dwells(steps, 0.35, 10.0) == near([[4, 0, 0.15], [23, 0, 0.2]])
    # Nothing stays in 1 for long enough but 24.
    assert dwells(steps, 0.35, 1.0) == near([[24, 0, 0.15]])
    assert dwells(steps[:0], 1.0, 10.0).shape == clicks(steps[:0], 1.0).shape == (0, 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: no JSON"),
        ('{"format": "other"}', "expected a trial with format 'whybox-pointer/1'"),
        (trial(kind="hover"), "unknown kind 'hover'"),
        (trial(image="c.png", annotation_id=None), "image 'c.png' is not in the data set"),
        (trial(annotation_id=11), "object 11 is in image 'COCO_val2014_000000000001.jpg', not in 'b.png'"),
        (trial(shown=[1, 2, 3]), "shown must be"),
        (trial(shown=[1, 2, 0, 3]), "shown must be"),
        (trial(samples=[[1, 2]]), "a sample must be"),
        (trial(samples=5), "samples must be a list"),
        (trial(samples=[[5, 1, 2], [4, 1, 2]]), "must not go back"),
        (trial(end=600), "must not go back"),
        (trial(kind="lens", radius=0), "radius must be above 0"),
        (trial(kind="lens", radius=None), "radius is no number"),
        (json.dumps({"format": "whybox-pointer/1"}), "lacks participant, image, shown, samples, end"),
    ],
)
def test_a_trial_that_cannot_be_used_is_a_problem(folder, line, reason):
    _, data = looked(folder, "clicks.jsonl", f"{line}\n{trial()}\n")
    assert len(data.problems) == 1
    assert reason in data.problems[0]
    assert len(data[1].truth.fixations[0]) == 2


# COCO-Search18.


def search(centered, task="cup", number=11, **changes):
    """An entry as published: the picture fills 1680x1050 as far as its aspect ratio allows."""
    image, (x, y, width, height), _ = BOXES[number]
    scale = min(1680 / SIZES[image][0], 1050 / SIZES[image][1])
    left, top = [(extent - side * scale) / 2 * centered for extent, side in zip((1680, 1050), SIZES[image], strict=True)]
    looks = np.array([[60, 30], [x + 1, y + 2], [x + 3, y + 4]]) * scale + (left, top)
    entry = {"name": f"{image:012d}.jpg", "subject": 2, "task": task, "condition": "present"}
    entry["bbox"] = [x * scale + left, y * scale + top, width * scale, height * scale]
    entry |= {"X": looks[:, 0].tolist(), "Y": looks[:, 1].tolist(), "T": [180, 200, 300], "length": 3, "correct": 1, "RT": 700}
    return entry | {"split": "train"} | changes


@pytest.mark.parametrize("centered", [True, False])
def test_search18_is_mapped_back_wherever_the_padding_was(folder, centered):
    entries = [search(centered), search(centered, subject=3), search(centered, "fork", 12), search(centered, correct=0)]
    entries += [search(centered, condition="absent"), search(centered, name="000000000077.jpg")]
    found, data = looked(folder, "search.json", entries)
    assert found[11] == near([[11, 22, 0.2], [13, 24, 0.3]] * 2)
    assert found[12] == near([[61, 22, 0.2], [63, 24, 0.3]])
    assert data[0].truth.viewers[0] == ("subject 2", "subject 2", "subject 3", "subject 3")
    assert data.problems == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"X": [1, 2]}, "X, Y and T must be of one length"),
        ({"task": "knife"}, "no annotation of class 'knife' fits"),
        ({"bbox": [0, 0, 90, 90]}, "no annotation of class 'cup' fits"),
        ({"bbox": None}, "no bbox"),
    ],
)
def test_a_search_that_cannot_be_used_is_a_problem(folder, changes, reason):
    found, data = looked(folder, "search.json", [search(True, "fork", 12), search(True, **changes)])
    assert reason in data.problems[0]
    assert found[11] is None


def test_search18_of_other_images_is_refused(folder):
    with pytest.raises(WhyboxError, match="no search of its 1 with a target that was found is in an image"):
        looked(folder, "search.json", [search(True, name="000000000077.jpg")])


# SALICON.


def write_mat(file, people, resolution=(60, 120)):
    kinds = [("location", object), ("timestamp", object), ("fixations", object)]
    gaze = np.empty((len(people), 1), dtype=kinds)
    for index, fixations in enumerate(people):
        gaze[index, 0] = (np.ones((4, 2)), np.arange(4.0)[:, None], np.asarray(fixations, dtype=np.uint16).reshape(-1, 2))
    savemat(file, {"gaze": gaze, "image": file.stem, "resolution": np.array([resolution], dtype=np.uint16)})


def test_salicons_mat_files_count_from_one(folder):
    mats = folder / "mats"
    mats.mkdir()
    write_mat(mats / "COCO_val2014_000000000001.mat", [[[13, 23], [61, 30]], [[14, 24]], []])
    write_mat(mats / "COCO_val2014_000000000009.mat", [[[1, 1]]])
    write_mat(mats / "b.mat", [[[20, 20]]], resolution=(160, 80))
    found, data = looked(folder, "mats", None)
    assert found[11] == near([[12.5, 22.5, 1], [13.5, 23.5, 1]])
    assert found[12] == near([[60.5, 29.5, 1]])
    assert found[13] == near([[9.75, 9.75, 1]])
    assert len(set(data[0].truth.viewers[0])) == 2
    assert data.problems == ()
    alone, _ = looked(folder, "mats/b.mat", None)
    assert (alone[11], alone[13]) == (None, found[13])


def test_salicons_json_counts_from_zero(folder):
    images = [
        {"id": 7, "file_name": "COCO_val2014_000000000001.jpg", "width": 120, "height": 60},
        {"id": 8, "file_name": "no.jpg"},
    ]
    rows = [{"id": 1, "image_id": 7, "worker_id": 5, "fixations": [[12, 22], [61, 30]]}]
    rows += [
        {"id": 2, "image_id": 7, "worker_id": 6, "fixations": []},
        {"id": 3, "image_id": 8, "worker_id": 6, "fixations": [[1, 1]]},
    ]
    content = {"type": "fixations", "images": images, "annotations": rows}
    found, data = looked(folder, "fixations_val2014.json", content)
    assert (found[11], found[12]) == (near([[12.5, 22.5, 1]]), near([[61.5, 30.5, 1]]))
    assert data[0].truth.viewers[0] == ("worker 5",)
    content["annotations"] += [{"image_id": 7, "fixations": [[1]]}, {"image_id": 7}, {"image_id": 7, "fixations": 4}]
    _, data = looked(folder, "fixations_val2014.json", content)
    assert len(data.problems) == 3
    del content["annotations"][3:]
    images[0]["width"] = -1
    assert "the picture's size must be above 0, got -1x60" in looked(folder, "fixations_val2014.json", content)[1].problems[0]
    with pytest.raises(WhyboxError, match="the data set has none of its 2 images"):
        looked(folder, "fixations_val2014.json", content | {"annotations": rows[2:3]})


def test_mat_files_that_cannot_be_used(folder):
    mats = folder / "mats"
    mats.mkdir()
    with pytest.raises(WhyboxError, match=r"holds no \.mat file that is named like an image"):
        looked(folder, "mats", None)
    (mats / "b.mat").write_text("no such file")
    assert "the file: cannot be read as a .mat file" in looked(folder, "mats", None)[1].problems[0]
    savemat(mats / "b.mat", {"eyes": 3})
    assert "expected the variable gaze, got ['eyes']" in looked(folder, "mats", None)[1].problems[0]
    savemat(mats / "b.mat", {"gaze": {"fixations": np.ones((2, 3))}, "resolution": [80, 40]})
    assert "person 1: fixations must be (F,2)" in looked(folder, "mats", None)[1].problems[0]


# What the forms stand on.


def test_a_picture_on_a_screen_there_and_back():
    place = OnScreen.fitted((60, 120), (1050, 1680))
    assert (place.left, place.top, place.width, place.height) == (0, 105, 1680, 840)
    points = torch.tensor([[0.0, 0], [120, 60], [30.5, 11]], dtype=torch.float64)
    moved = place.points_to_screen(points, (60, 120))
    assert moved[:2].tolist() == [[0, 105], [1680, 945]]
    torch.testing.assert_close(place.points_to_image(moved, (60, 120)), points)
    with pytest.raises(ValueError, match="a width and a height above 0"):
        OnScreen(0, 0, 0, 5)


def test_names_of_two_images_are_not_guessed_at(folder):
    content = json.loads((folder / "val.json").read_text())
    (folder / "b.png").write_bytes((folder / "sub" / "b.png").read_bytes())
    content["images"].append({"id": 3, "file_name": "b.png", "width": 40, "height": 80})
    (folder / "val.json").write_text(json.dumps(content))
    _, data = looked(folder, "gaze.csv", "x,y,duration,image\n6,9,.2,b\n6,9,.2,sub/b.png\n")
    assert "image 'b' may be 'sub/b.png' (id 2) and 'b.png' (id 3); give the file's whole name" in data.problems[0]
    assert data[1].truth.fixations[0].tolist() == near([[6, 9, 0.2]])


def test_a_number_may_be_a_name_or_an_id(folder):
    """The object decides; without one, it is not guessed."""
    content = json.loads((folder / "val.json").read_text())
    (folder / "2.png").write_bytes((folder / "sub" / "b.png").read_bytes())
    content["images"].append({"id": 3, "file_name": "2.png", "width": 40, "height": 80})
    (folder / "val.json").write_text(json.dumps(content))
    _, data = looked(folder, "gaze.csv", "x,y,duration,image,object\n6,9,.2,2,13\n6,9,.2,2,\n")
    (line,) = data.problems
    assert "image '2' may be '2.png' (id 3) and 'sub/b.png' (id 2)" in line
    assert data[1].truth.fixations[0].tolist() == near([[6, 9, 0.2]])


def test_viewers_are_as_many_as_fixations():
    settings = (torch.zeros((1, 4)), torch.zeros(1, dtype=torch.long), ("a",), torch.zeros(1, dtype=torch.bool))
    truth = Truth(*settings, fixations=(torch.zeros((2, 3)),), viewers=(("p", "q"),))
    assert truth[torch.tensor([0])].viewers == (("p", "q"),)
    with pytest.raises(ValueError, match="viewers must name who made each fixation"):
        Truth(*settings, fixations=(torch.zeros((2, 3)),), viewers=(("p",),))
