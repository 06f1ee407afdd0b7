"""What a detector learns from: every kind of data set, its own split held out, nothing learned from ignored regions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from whybox import registry
from whybox.data.scenes import HELD_OUT_SEED, draw_scene, export_coco
from whybox.errors import WhyboxError
from whybox.loading import open_data
from whybox.training.examples import Example, Examples, examples_of, open_training_data
from whybox.truth import Sample, Truth


def pixels_of(examples):
    return {example.image.tobytes() for example in examples}


def split_folder(folder):
    """Six images for training and three others for scoring."""
    (folder / "annotations").mkdir()
    for split, seed, count in (("train", 3, 6), ("val", 4, 3)):
        made = export_coco(folder / split, count, seed=seed)
        (made / "instances.json").rename(folder / "annotations" / f"{split}.json")
        for file in (made / "images").iterdir():
            file.rename(made / file.name)
    return folder


def test_data_by_name(tmp_path):
    export_coco(tmp_path / "one", 20, seed=3)
    single = open_training_data(f"coco:{tmp_path / 'one'}", limit=7)
    assert (len(single.train), len(single.held_out["val"])) == (7, 2)
    drawn = {draw_scene(index, seed=3).image.tobytes() for index in range(20)}
    assert pixels_of(single.train) < drawn
    assert not pixels_of(single.train) & pixels_of(single.held_out["val"])
    with pytest.raises(WhyboxError, match="seed 1000003 is reserved for the held-out scenes"):
        open_training_data("scenes", seed=HELD_OUT_SEED)
    with pytest.raises(
        WhyboxError,
        match=r"unknown data 'voc'; did you mean coco\? \(known: coco, coco-captions, coco-panoptic, crowdhuman, scenes\)",
    ):
        open_training_data("voc:x")


def test_scenes_are_every_fourth_a_crowd():
    data = open_training_data("scenes", seed=5, limit=4, held_out=4)
    scenes = [draw_scene(index, seed=5, variant="crowd" if index == 3 else "mixed") for index in range(4)]
    for example, scene in zip(data.train, scenes, strict=True):
        assert example.image.tobytes() == scene.image.tobytes()
        assert np.array_equal(example.boxes, scene.boxes)
        assert np.array_equal(example.labels, scene.labels)
    assert {name: len(part) for name, part in data.held_out.items()} == {"mixed": 4, "crowd": 2}
    held = draw_scene(1, seed=HELD_OUT_SEED, variant="crowd")
    assert data.held_out["crowd"][1].image.tobytes() == held.image.tobytes()


def test_scenes_of_a_kind_and_a_size():
    data = open_training_data("scenes:variant=single:count=3:size=96x72:seed=8", held_out=2)
    assert (len(data.train), list(data.held_out)) == (3, ["single"])
    expected = draw_scene(2, seed=8, variant="single", size=(96, 72))
    assert data.train[2].image.tobytes() == expected.image.tobytes()
    assert data.held_out["single"][0].image.shape == (72, 96, 3)
    with pytest.raises(WhyboxError, match="is reserved for the held-out scenes"):
        open_training_data(f"scenes:seed={HELD_OUT_SEED}")


def test_a_split_of_its_own_is_held_out(tmp_path):
    folder = split_folder(tmp_path)
    for name in (f"coco:{folder}", f"coco:{folder}:split=train"):
        data = open_training_data(name)
        assert pixels_of(data.train) == {draw_scene(index, seed=3).image.tobytes() for index in range(6)}
        assert pixels_of(data.held_out["val"]) == {draw_scene(index, seed=4).image.tobytes() for index in range(3)}
    named = open_training_data(f"coco:{folder}:split=val")
    assert (len(named.train), len(named.held_out["val"])) == (2, 1), "one of its three images is held out"
    (folder / "annotations" / "val.json").unlink()
    alone = open_training_data(f"coco:{folder}")
    assert (len(alone.train), len(alone.held_out["val"])) == (5, 1), "without one, every tenth image is"


def test_a_broken_split_is_no_missing_one(tmp_path):
    folder = split_folder(tmp_path)
    (folder / "annotations" / "val.json").write_text("[]")
    with pytest.raises(WhyboxError, match=r"val.json is not in COCO's format"):
        open_training_data(f"coco:{folder}")


def test_splits_agree_in_their_classes(tmp_path):
    file = split_folder(tmp_path) / "annotations" / "val.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "stranger"
    file.write_text(json.dumps(content))
    with pytest.raises(WhyboxError, match="train and val differ in their classes"):
        open_training_data(f"coco:{tmp_path}")


def test_people_beyond_the_edge_and_people_to_ignore(tmp_path):
    boxes = [
        {"tag": "person", "fbox": [-10, 5, 30, 40]},
        {"tag": "mask", "fbox": [40, 5, 10, 10]},
        {"tag": "mask", "fbox": [-30, 5, 10, 10]},
    ]
    for split, count in (("train", 3), ("val", 2)):
        lines = [json.dumps({"ID": f"{split}{index}", "gtboxes": boxes}) for index in range(count)]
        (tmp_path / f"annotation_{split}.odgt").write_text("\n".join(lines))
        (tmp_path / "Images").mkdir(exist_ok=True)
        for index in range(count):
            Image.new("RGB", (64, 48), (index, 0, 0)).save(tmp_path / "Images" / f"{split}{index}.png")
    data = open_training_data(f"crowdhuman:{tmp_path}")
    assert (len(data.train), len(data.held_out["val"])) == (3, 2)
    assert data.train[0].boxes.tolist() == [[0, 5, 20, 45], [40, 5, 50, 15]]
    assert data.train[0].iscrowd.tolist() == [False, True], "what lies outside the image is dropped"
    (tmp_path / "annotation_val.odgt").unlink()
    alone = open_training_data(f"crowdhuman:{tmp_path}")
    assert (len(alone.train), len(alone.held_out["val"])) == (2, 1)


class Grey:
    """Ten grey pictures with an object each."""

    name, classes, problems, digest = "grey", ("a", "b"), ("one is broken",), "first edition"
    names = tuple(map(str, range(10)))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        boxes, label = torch.tensor([[2.0, 3.0, 9.0, 8.0]]), torch.tensor([1])
        truth = Truth(boxes, label, (str(index),), torch.tensor([False]))
        return Sample(str(index), Image.new("L", (16, 12), index), truth)


def test_a_plug_in_and_a_data_set_of_ones_own(monkeypatch):
    plug_in = SimpleNamespace(PREFIX="grey", open_data=lambda rest, *, on_problem="skip": Grey())
    known = {**registry.data_sets(), "grey": plug_in}
    monkeypatch.setattr(registry, "data_sets", lambda: known)
    for given in ("grey:", Grey()):
        data = open_training_data(given, seed=1)
        assert (len(data.train), len(data.held_out["val"])) == (9, 1)
        assert (data.classes, data.problems, data.digest) == (("a", "b"), ("one is broken",), "first edition")
        assert data.train[0].image.shape == (12, 16, 3)
        assert data.train[0].labels.tolist() == [1]


def test_one_image_is_too_few():
    with pytest.raises(WhyboxError, match="too few images to train on some and hold out others: 1"):
        open_training_data(open_data("scenes:count=1"))


def test_examples_of_a_data_set_are_its_rows():
    data = open_data("scenes:count=3")
    assert examples_of(data, [2, 0])[0].image.tobytes() == data[2].image.tobytes()


def test_examples_are_kept_while_they_fit():
    made = []
    empty = Example(np.zeros((10, 10, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    examples = Examples(3, lambda index: made.append(index) or empty, memory=700)
    for index in (0, 1, 2, 0, 1, 2):
        assert examples[index].image.nbytes == 300
    assert made == [0, 1, 2, 2]


@pytest.mark.parametrize("limit", [0, -3])
@pytest.mark.parametrize("data", ["scenes", "folder"])
def test_a_limit_that_leaves_no_image_is_refused(data, limit, tmp_path):
    if data == "folder":
        split_folder(tmp_path)
        data = f"coco:{tmp_path}"
    with pytest.raises(WhyboxError, match=f"limit, .* must be at least 1, got {limit}"):
        open_training_data(data, limit=limit)
