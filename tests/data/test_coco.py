"""COCO-format folders: held to pycocotools on made-up and real files, and every kind of broken entry by name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from whybox.data.coco import open_data, read_coco
from whybox.data.images import read_image
from whybox.errors import ImageError, WhyboxError
from whybox.truth import DataSet

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WIDTH, HEIGHT = 40, 30
numpy_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def shared(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture
def content():
    return {
        "images": [{"id": 7, "file_name": "one.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [5, 6, 10, 12], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 41, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def write(folder, content, annotations="train.json", images="images", pictures=("one.png",)):
    (folder / images).mkdir(parents=True, exist_ok=True)
    for name in pictures:
        Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(folder / images / name)
    (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
    (folder / annotations).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def box(x, y, width, height, **more):
    return {"id": 5, "image_id": 7, "category_id": 9, "bbox": [x, y, width, height], **more}


def polygon(rng):
    return (rng.uniform(-2, 1.05, (rng.integers(3, 9), 2)) * (WIDTH, HEIGHT)).clip(-9).round(2).flatten().tolist()


def all_forms():
    """A file with each form that a mask can have, and images without objects and in an order of their own."""
    rng = np.random.default_rng(4)
    packed = coco_mask.encode(np.asfortranarray(rng.random((HEIGHT, WIDTH)) > 0.6, dtype=np.uint8))
    forms = [
        [polygon(rng)],
        [polygon(rng), polygon(rng)],
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [100, 300, 800]},
        {"size": [HEIGHT, WIDTH], "counts": [0, 1200]},
    ]
    rows = [
        {"id": 40 - n, "image_id": (3, 7)[n % 2], "category_id": (9, 3)[n % 2], "bbox": [n, n, 5, 6], "segmentation": form}
        for n, form in enumerate(forms)
    ]
    rows[3]["iscrowd"] = 1
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (7, 3, 4)]
    return {"images": images, "annotations": rows, "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]}


def agrees_with_pycocotools(data, gold):
    """Every image, box, class, crowd flag and mask; returns how many masks were compared."""
    masks = 0
    names = {gold.imgs[number]["file_name"]: number for number in gold.imgs}
    assert set(data.names) == set(names)
    for index, name in enumerate(data.names):
        sample = data[index]
        assert sample.name == name
        rows = gold.loadAnns(gold.getAnnIds(imgIds=names[name]))
        assert sample.truth.ids == tuple(str(row["id"]) for row in rows)
        assert sample.truth.ignore.tolist() == [bool(row["iscrowd"]) for row in rows]
        expected = [gold.cats[row["category_id"]]["name"] for row in rows]
        assert [data.classes[label] for label in sample.truth.labels] == expected
        for row, boxed in zip(rows, sample.truth.boxes, strict=True):
            x, y, width, height = row["bbox"]
            torch.testing.assert_close(boxed, torch.tensor([x, y, x + width, y + height], dtype=torch.float32))
        for row, mask in zip(rows, sample.truth.masks if sample.truth.masks is not None else (), strict=False):
            assert np.array_equal(gold.annToMask(row).astype(bool), mask.numpy())
            masks += 1
    return masks


@numpy_2
def test_every_form_of_a_mask_is_read_as_pycocotools_reads_it(tmp_path):
    content = all_forms()
    for row in content["annotations"]:
        row.setdefault("iscrowd", 0)
    write(tmp_path, content, pictures=("7.png", "3.png", "4.png"))
    data = read_coco(tmp_path)
    assert isinstance(data, DataSet)
    assert data.problems == ()
    assert agrees_with_pycocotools(data, COCO(tmp_path / "train.json")) == 5
    empty = data[2].truth
    assert (len(empty), empty.boxes.shape, empty.masks.shape) == (0, (0, 4), (0, HEIGHT, WIDTH))


@numpy_2
@pytest.mark.parametrize(("name", "split", "images"), [("bccd", "train", 300), ("bccd", "val", 64), ("nuclei", "val", 60)])
def test_real_files_are_read_as_pycocotools_reads_them(name, split, images):
    folder = shared(name)
    data = open_data(str(folder), split=split)
    assert len(data) == images
    assert data.problems == ()
    masks = agrees_with_pycocotools(data, COCO(folder / f"{split}.json"))
    assert (masks > 1000) == (name == "nuclei")
    assert (data[0].truth.masks is None) == (name == "bccd")


def test_real_nuclei_have_masks_that_fill_their_boxes():
    truth = read_coco(shared("nuclei"), "val")[0].truth
    for mask, boxed in zip(truth.masks.numpy(), truth.boxes.numpy(), strict=True):
        ys, xs = np.nonzero(mask)
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - boxed).max() <= 1


def test_boxes_labels_and_crowd_regions(tmp_path, content):
    data = read_coco(write(tmp_path, content))
    assert data.name == f"coco:{tmp_path / 'train.json'}"
    assert data.classes == ("dog", "cat"), "classes follow the order of their ids"
    assert data.problems == (), "a pixel over the edge is rounding"
    sample = data[0]
    assert sample.name == data.names[0] == "one.png"
    assert sample.truth.boxes.tolist() == [[5, 6, 15, 18], [0, 0, 40, 4]], "cut at the image's edge"
    assert sample.truth.labels.tolist() == [1, 0]
    assert sample.truth.ignore.tolist() == [False, True]
    assert sample.truth.ids == ("1", "2")
    assert sample.truth.masks is None, "no mask is made from a box"
    assert np.asarray(sample.image)[0, 0].tolist() == [10, 20, 30]
    with pytest.raises(IndexError):
        data[1]


def test_pickled_and_back(tmp_path):
    write(tmp_path, all_forms(), pictures=("7.png", "3.png", "4.png"))
    data = read_coco(tmp_path)
    again = pickle.loads(pickle.dumps(data))
    assert (again.name, again.classes, again.names, again.problems) == (data.name, data.classes, data.names, ())
    assert torch.equal(again[0].truth.masks, data[0].truth.masks)


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
    assert read_coco(tmp_path / given)[0].image.size == (WIDTH, HEIGHT)


def test_the_folder_of_the_images_can_be_named(tmp_path, content):
    write(tmp_path, content, images="elsewhere/deep")
    file = str(tmp_path / "train.json")
    with pytest.raises(WhyboxError, match=r"'one.png' .* is neither beside it .* images=FOLDER"):
        open_data(file)
    assert open_data(file, images=tmp_path / "elsewhere" / "deep")[0].image.size == (WIDTH, HEIGHT)


def test_the_split_is_chosen_by_name(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(WhyboxError, match="no single JSON file for the split 'val'"):
        open_data(str(tmp_path))
    write(tmp_path, {**content, "annotations": []}, "val.json")
    write(tmp_path, "[]", "captions.json")
    assert len(open_data(str(tmp_path), split="train")[0].truth) == 2
    assert len(open_data(str(tmp_path))[0].truth) == 0
    with pytest.raises(WhyboxError, match="no single JSON file for the split 'test'"):
        read_coco(tmp_path, "test")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": 5, "image_id": 7, "category_id": 9}, "annotation 5: no bbox"),
        (box(1, 2, 3, 4, bbox=[1, 2, 3]), r"annotation 5: bbox must be \[x, y, width, height\], got \[1, 2, 3\]"),
        (box(1, float("nan"), 3, 4), "annotation 5: bbox holds NaN or infinity"),
        (box(1, "two", 3, 4), "annotation 5: bbox is no list of numbers"),
        (box(1, [2], 3, 4), "annotation 5: bbox is no list of numbers"),
        (box(1, 10**400, 3, 4), "annotation 5: bbox is no list of numbers"),
        (box(1, 2, 3, 4, bbox="1234"), "annotation 5: bbox is no list of numbers: '1234'"),
        (box(1, 2, 0, 4), "annotation 5: bbox must have a width and a height above 0"),
        (box(1, 2, 3, -4), "annotation 5: bbox must have a width and a height above 0"),
        (box(30, 2, 1e-9, 4), "annotation 5: bbox must have a width and a height above 0"),
        (box(1e300, 2, 1e300, 4), "annotation 5: bbox must have a width and a height above 0"),
        (box(40, 2, 3, 4), r"annotation 5: bbox \[40, 2, 3, 4\] lies outside the image of 40x30"),
        (box(1, -9, 3, 9), "annotation 5: bbox .* lies outside"),
        (box(1, 2, 3, 4, category_id=8), "annotation 5: the categories lack id 8"),
        (box(1, 2, 3, 4, category_id=[9]), "annotation 5: the categories lack id"),
        (box(1, 2, 3, 4, image_id=8), "annotation 5: there is no image with its image_id 8"),
        (box(1, 2, 3, 4, image_id=[7]), "annotation 5: there is no image with its image_id"),
        (["no", "row"], "annotation number 3: no annotation"),
    ],
)
def test_a_broken_annotation_is_left_out_by_name_or_refused(tmp_path, content, row, reason):
    content["annotations"].append(row)
    write(tmp_path, content)
    data = read_coco(tmp_path)
    assert data[0].truth.ids == ("1", "2")
    (line,) = data.problems
    assert line.startswith(f"{tmp_path / 'train.json'}: ")
    assert "\n" not in line
    if isinstance(row, dict) and row.get("image_id") == 7:
        assert "image 'one.png' (id 7), annotation" in line
    with pytest.raises(WhyboxError, match=f"{reason}.*; mend it, or on_problem='skip'"):
        read_coco(tmp_path, on_problem="refuse")


def entry(**changes):
    return {"id": 8, "file_name": "two.png", "width": WIDTH, "height": HEIGHT, **changes}


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (entry(file_name="three.png"), "image 'three.png' (id 8): no such file in "),
        (entry(file_name=None), "image number 2: no file_name but None"),
        (entry(file_name="two\0.png"), "image 'two\\x00.png' (id 8): no such file"),
        (entry(id=None), "image 'two.png' (id None): the id must be a number or a word"),
        (entry(file_name="one.png"), "image 'one.png' (id 8): is there already with id 7"),
        (entry(id=7, file_name="one.png"), "image 'one.png' (id 7): is listed 2 times, used once"),
        ("two.png", "image number 2: no image entry: 'two.png'"),
    ],
)
def test_a_broken_image_is_left_out_by_name_or_refused(tmp_path, content, image, reason):
    content["images"].append(image)
    # The annotation of an image that is left out goes with it and needs no line of its own.
    content["annotations"].append(box(1, 2, 3, 4, image_id=8 if isinstance(image, dict) and image["id"] == 8 else 7))
    write(tmp_path, content, pictures=("one.png", "two.png"))
    data = read_coco(tmp_path)
    assert data.names == ["one.png"]
    (line,) = data.problems
    assert line.startswith(f"{tmp_path / 'train.json'}: {reason}")
    with pytest.raises(WhyboxError, match="mend it, or"):
        read_coco(tmp_path, on_problem="refuse")


def test_one_id_for_two_files_leaves_out_both(tmp_path, content):
    content["images"] += [entry(id=7), entry(id=9, file_name="three.png")]
    data = read_coco(write(tmp_path, content, pictures=("one.png", "two.png", "three.png")))
    assert data.names == ["three.png"]
    assert len(data[0].truth) == 0
    (line,) = data.problems
    assert "image id 7: stands for ['one.png', 'two.png']" in line


def test_a_box_far_over_the_edge_is_cut_and_told(tmp_path, content):
    content["annotations"][1]["bbox"] = [-3.5, 0, 50, 4]
    data = read_coco(write(tmp_path, content))
    assert data[0].truth.boxes.tolist() == [[5, 6, 15, 18], [0, 0, 40, 4]]
    (line,) = data.problems
    assert line.endswith("image 'one.png' (id 7), annotation 2: bbox reaches 6.5 pixels over the image's edge: cut")


@pytest.mark.parametrize(
    ("category", "reason"),
    [
        ({"id": None, "name": "cow"}, "must have a number or a word as id, and a name"),
        ({"id": 4}, "must have a number or a word as id, and a name"),
        ({"id": 9, "name": "cow"}, "'cow' has the id 9 of 'cat'"),
        ("9 cow", "must have a number or a word"),
        ({"id": "9.0", "name": "cow"}, "'cow' has the id 9 of 'cat'"),
    ],
)
def test_a_broken_category_is_named(tmp_path, content, category, reason):
    content["categories"].append(category)
    data = read_coco(write(tmp_path, content))
    assert data.classes == ("dog", "cat")
    assert f"category number 3: {reason}" in data.problems[0]


def test_masks_are_for_all_objects_of_an_image_or_for_none(tmp_path, content):
    content["images"].append(entry())
    content["annotations"][0]["segmentation"] = [[5, 6, 15, 6, 15, 18]]
    content["annotations"].append(box(1, 2, 3, 4, image_id=8, segmentation=[[1, 2, 4, 2, 4, 6]]))
    data = read_coco(write(tmp_path, content, pictures=("one.png", "two.png")))
    assert data[0].truth.masks is None
    assert data[1].truth.masks.shape == (1, HEIGHT, WIDTH)
    (line,) = data.problems
    assert "annotation 2: no segmentation, though others of the file have one" in line


def test_all_of_thousands_of_problems_are_kept(tmp_path, content):
    content["annotations"] += [box(1, 2, 0, 4, id=n) for n in range(100, 5100)]
    write(tmp_path, content)
    data = read_coco(tmp_path)
    assert len(data.problems) == 5000
    assert "annotation 5099: bbox must" in data.problems[-1]
    with pytest.raises(WhyboxError, match=r"annotation 100: .* \(and 4999 more problems\); mend it"):
        read_coco(tmp_path, on_problem="refuse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "cannot read .* as JSON"),
        ("[" * 10**5, "cannot read .* as JSON"),
        ("[]", "lacks lists of images, annotations, categories"),
        ({"annotations": {}}, "lacks lists of annotations"),
        ({"images": [{"id": 7, "file_name": "two.png", "width": 4, "height": 3}]}, "'two.png' .* is neither beside it"),
        ({"images": [{"file_name": "one.png"}]}, "none of the 1 images can be used: .* the id must be a number or a word"),
        ({"images": []}, "lists no images"),
        ('[{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}]', "is a list of annotations or results: expected an object"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_always_an_error(tmp_path, content, change, message):
    write(tmp_path, change if isinstance(change, str) else {**content, **change})
    with pytest.raises(WhyboxError, match=message) as caught:
        read_coco(tmp_path)
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_call(tmp_path, content):
    with pytest.raises(WhyboxError, match="no COCO annotations at"):
        read_coco(tmp_path / "nowhere")
    with pytest.raises(WhyboxError, match="coco needs a place"):
        open_data("")
    with pytest.raises(WhyboxError, match="unknown on_problem 'ignore'; known: refuse, skip"):
        read_coco(write(tmp_path, content), on_problem="ignore")


def test_what_shows_only_when_the_picture_is_read(tmp_path, content):
    data = read_coco(write(tmp_path, content))
    file = tmp_path / "images" / "one.png"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ImageError, match=r"one.png: cannot be read \(.*truncated"):
        data[0]
    Image.new("RGB", (80, 60)).save(file)
    with pytest.raises(ImageError, match=r"one.png: is 80x60, but annotated as 40x30"):
        data[0]


def test_annotations_mean_the_stored_pixels_unless_only_the_turned_picture_fits(tmp_path, content):
    data = read_coco(write(tmp_path, content))
    stored = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for pixels in (stored, np.rot90(stored)):
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6  # to be shown after a quarter turn clockwise
        image.save(tmp_path / "images" / "one.png", exif=exif)
        sample = data[0]
        assert np.array_equal(np.asarray(sample.image), stored)
        assert np.array_equal(read_image(sample.image).mul(255).round().byte().permute(1, 2, 0).numpy(), stored)
