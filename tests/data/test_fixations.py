"""Where people looked: joined over viewers, matched to annotations, and every broken entry by name."""

import json
import pickle

import pytest
import torch
from PIL import Image

from whybox.data.coco import open_data
from whybox.errors import WhyboxError


@pytest.fixture
def folder(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (1, 2)]
    rows = [{"id": n, "image_id": 1 + n // 13, "category_id": 1, "bbox": [2, 3, 10, 8]} for n in (11, 12, 13)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    for n in (1, 2):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{n}.png")
    return tmp_path


def looked(folder, entries, **options):
    file = folder / "looked.txt"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return open_data(str(folder / "val.json"), fixations=file, **options)


def test_viewers_are_joined_and_others_are_none(folder):
    entries = [
        {"annotation_id": 12, "fixations": [[1, 2, 0.25], [3.5, 4, 0.5]]},
        {"annotation_id": 11, "fixations": []},
        {"annotation_id": 12, "fixations": [[39.5, 0, 1]], "viewer": "b"},
    ]
    data = looked(folder, entries)
    assert data.problems == ()
    first, second = data[0].truth.fixations
    assert first is None, "a viewer who did not look"
    assert torch.equal(second, torch.tensor([[1, 2, 0.25], [3.5, 4, 0.5], [39.5, 0, 1]]))
    assert data[1].truth.fixations == (None,)
    assert torch.equal(pickle.loads(pickle.dumps(data))[0].truth.fixations[1], second)


def test_without_a_file_there_are_none(folder):
    assert open_data(str(folder / "val.json"))[0].truth.fixations == ()


GOOD = {"annotation_id": 13, "fixations": [[5, 6, 0.1]]}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"annotation_id": 14, "fixations": [[5, 6, 0.1]]}, "entry 2: annotation 14 is not in the data set, or was left out"),
        ({"annotation_id": 13}, "entry 2: expected annotation_id and fixations, got"),
        ([13, [5, 6, 1]], "entry 2: expected annotation_id and fixations"),
        ({"annotation_id": 13, "fixations": None}, "entry 2: fixations of annotation 13 must be a list"),
        (
            {"annotation_id": 13, "fixations": [[5, 6]]},
            r"entry 2: a fixation of annotation 13 must be \[x, y, seconds\]",
        ),
        ({"annotation_id": 13, "fixations": [[5, 6, -1]]}, "entry 2: a fixation of annotation 13 must be"),
        ({"annotation_id": 13, "fixations": [[5, 6, float("nan")]]}, "entry 2: a fixation of annotation 13 holds NaN"),
        ({"annotation_id": 13, "fixations": [5, 6, 1]}, "entry 2: a fixation of annotation 13 is no list of numbers"),
        ({"annotation_id": 13, "fixations": [[40, 6, 1]]}, r"entry 2 \(annotation 13\): 1 of 1 fixations lie outside the image"),
    ],
)
def test_a_broken_entry_is_left_out_by_name_or_refused(folder, entry, reason):
    data = looked(folder, [GOOD, entry])
    assert torch.equal(data[1].truth.fixations[0], torch.tensor([[5, 6, 0.1]]))
    (line,) = data.problems
    assert line.startswith(str(folder / "looked.txt"))
    with pytest.raises(WhyboxError, match=rf"looked.txt: {reason}"):
        looked(folder, [GOOD, entry], on_problem="refuse")


def test_points_outside_are_left_out_and_counted(folder):
    data = looked(folder, [{"annotation_id": 13, "fixations": [[-1, 6, 1], [5, 6, 1], [5, 30, 1]]}])
    assert data[1].truth.fixations[0].tolist() == [[5, 6, 1]]
    assert "2 of 3 fixations lie outside" in data.problems[0]


@pytest.mark.parametrize(("text", "reason"), [("{", "cannot read .* as JSON"), ("{}", "is no list of fixations")])
def test_a_file_that_is_wrong_as_a_whole(folder, text, reason):
    with pytest.raises(WhyboxError, match=reason):
        looked(folder, text)
    with pytest.raises(WhyboxError, match=r"cannot read .*nowhere"):
        open_data(str(folder / "val.json"), fixations=folder / "nowhere.json")
