"""COCO-format folders: several layouts, all forms of masks, and mistakes by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whybox.data.coco import decode_mask, encode_mask, read_coco
from whybox.errors import WhyboxError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture
def content():
    return {
        "images": [{"id": 7, "file_name": "one.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [5, 6, 10, 12], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 4], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 0, 4]},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def write(folder, content, annotations="train.json", images="images"):
    (folder / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (10, 20, 30)).save(folder / images / "one.png")
    (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
    (folder / annotations).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_boxes_labels_and_crowd_regions(tmp_path, content):
    data = read_coco(write(tmp_path, content))
    (entry,) = data
    assert data.classes == ("dog", "cat"), "classes follow the order of their ids"
    assert entry.boxes.tolist() == [[5, 6, 15, 18], [0, 0, 40, 4]], "cut at the image's edge, the empty box left out"
    assert entry.labels.tolist() == [2, 1]
    assert entry.iscrowd.tolist() == [False, True]
    assert np.asarray(entry.image())[0, 0].tolist() == [10, 20, 30]
    assert entry.masks()[0].sum() == 120, "without a segmentation the mask is the box"


@pytest.mark.parametrize(
    ("annotations", "images", "given"),
    [
        ("train.json", "images", "."),
        ("only.json", ".", "."),
        ("annotations/instances_train2017.json", "train2017", "."),
        ("annotations/instances_train2017.json", "train2017", "annotations/instances_train2017.json"),
        ("annotations/train.json", "images", "."),
    ],
)
def test_layouts(tmp_path, content, annotations, images, given):
    write(tmp_path, content, annotations, images)
    assert read_coco(tmp_path / given)[0].image().size == (40, 30)


def test_the_split_is_chosen_by_name(tmp_path, content):
    write(tmp_path, content)
    write(tmp_path, {**content, "annotations": []}, "val.json")
    write(tmp_path, "[]", "captions.json")
    assert len(read_coco(tmp_path, "train")[0].boxes) == 2
    assert len(read_coco(tmp_path, "val")[0].boxes) == 0
    with pytest.raises(WhyboxError, match="no single JSON file for the split 'test'"):
        read_coco(tmp_path, "test")


def test_masks_survive_every_form():
    from pycocotools.mask import encode

    rng = np.random.default_rng(0)
    for mask in (rng.random((13, 17)) > 0.5, np.zeros((4, 5), bool), np.ones((4, 5), bool)):
        size = mask.shape[1], mask.shape[0]
        runs = encode_mask(mask)
        packed = encode(np.asfortranarray(mask.astype(np.uint8)))
        assert sum(runs["counts"]) == mask.size
        for form in (runs, packed, {**packed, "counts": packed["counts"].decode()}):
            assert np.array_equal(decode_mask(form, size), mask)
    square = decode_mask([[2, 3, 8, 3, 8, 9, 2, 9]], (20, 15))
    assert square[3:9, 2:8].all()
    assert square.sum() <= 49


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "cannot read .* as JSON"),
        ("[]", "lacks images, annotations, categories"),
        ({"images": [{"id": 7, "file_name": "two.png", "width": 4, "height": 3}]}, "'two.png' .* is neither beside it"),
        ({"images": [{"id": 7, "file_name": "one.png"}]}, "not in COCO's format: KeyError 'width'"),
        ({"categories": [{"id": 9, "name": "cat"}]}, "the categories lack id 3 of image 7"),
        ({"annotations": [{"image_id": 7}]}, "not in COCO's format: KeyError 'bbox'"),
        ({"images": []}, "lists no images"),
    ],
)
def test_mistakes_are_named(tmp_path, content, change, message):
    write(tmp_path, change if isinstance(change, str) else {**content, **change})
    with pytest.raises(WhyboxError, match=message) as caught:
        read_coco(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_broken_image(tmp_path, content):
    with pytest.raises(WhyboxError, match="no COCO annotations at"):
        read_coco(tmp_path / "nowhere")
    write(tmp_path, content)
    (tmp_path / "images" / "one.png").write_bytes(b"no image")
    with pytest.raises(WhyboxError, match=r"cannot read the image .*one.png"):
        read_coco(tmp_path)[0].image()


def test_real_blood_smears():
    folder = shared("bccd")
    train, val = read_coco(folder, "train"), read_coco(folder, "val")
    assert train.classes == val.classes == ("RBC", "WBC", "Platelets")
    assert (len(train), len(val)) == (300, 64)
    assert val[0].image().size == val[0].size == (640, 480)


def test_real_nuclei_have_masks_that_fill_their_boxes():
    entry = read_coco(shared("nuclei"), "val")[0]
    for mask, box in zip(entry.masks(), entry.boxes, strict=True):
        ys, xs = np.nonzero(mask)
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() <= 1
