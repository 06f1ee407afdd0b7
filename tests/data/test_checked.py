"""A mistake in a data set of the user's is one line that names the data set, the image, what is wrong and what was expected."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import whybox
from whybox import Sample, Truth, WhyboxError
from whybox.runs.mistakes.search import Search, find_errors
from whybox.training.examples import examples_of

PICTURE = Image.new("RGB", (160, 120), "white")


def truth(boxes=((10.0, 10.0, 60.0, 60.0),), labels=(0,), ids=("0",), ignore=(False,), **others):
    return Truth(torch.tensor(boxes), torch.as_tensor(labels), tuple(ids), torch.as_tensor(ignore), **others)


class Given:
    """One image "a" of two classes; `sample` makes what [i] gives."""

    name, classes, problems, extra = "mine", ("ball", "tree"), (), 7

    def __init__(self, sample=None, **attributes):
        self.sample, self.names = sample, ["a"]
        vars(self).update(attributes)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.sample() if self.sample is not None else Sample("a", PICTURE, truth())


def of(picture=PICTURE, name="a", **annotated):
    return Given(lambda: Sample(name, picture, truth(**annotated)))


TURNED = Image.new("RGB", (120, 160))
TURNED.getexif()[0x112] = 6

WRONG = {
    "label too high": (of(labels=[2]), "has the label 2; labels count from 0: expected 0 to 1"),
    "label below 0": (of(labels=[-1]), "has the label -1"),
    "float labels": (of(labels=[0.0]), "labels must be whole numbers"),
    "NaN": (of(boxes=[[float("nan")] * 4]), "box 0 [nan, nan, nan, nan] is NaN or infinite"),
    "x, y, width, height": (of(boxes=[[60.0, 60.0, 10.0, 10.0]]), "ends before it begins"),
    "outside": (of(boxes=[[500.0, 500.0, 600.0, 600.0]]), "lies outside the image of 160x120 pixels"),
    "fractions": (of(boxes=[[0.1, 0.1, 0.6, 0.6]]), "all boxes lie in 0..1"),
    "lists": (Given(lambda: Sample("a", PICTURE, Truth([[1, 1, 2, 2]], [0], ("0",), [False]))), "boxes must be a torch tensor"),
    "ignore of other numbers": (of(ignore=[3]), "ignore must be bool"),
    "masks of another size": (of(masks=torch.zeros(1, 10, 12, dtype=torch.bool)), "its masks are 12x10 pixels"),
    "masks of a turned picture": (of(TURNED, masks=torch.zeros(1, 160, 120, dtype=torch.bool)), "the image is 160x120"),
    "another name": (of(name="b"), "its sample has the name 'b'; expected the entry of names, 'a'"),
    "dict": (Given(lambda: {"image": PICTURE}), "must give whybox.Sample(name, image, truth), got dict"),
    "tuple": (Given(lambda: (PICTURE, truth())), "got tuple"),
    "None": (Given(lambda: None), "got NoneType"),
    "truth is a dict": (Given(lambda: Sample("a", PICTURE, {})), "truth must be whybox.Truth"),
    "float image": (of(torch.rand(3, 120, 160)), "got Tensor of float32 and shape (3, 120, 160)"),
    "its own error": (Given(lambda: 1 / 0), "cannot be read (ZeroDivisionError: division by zero)"),
}


@pytest.mark.parametrize(("data", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_sample_is_one_line(data, words):
    with pytest.raises(WhyboxError) as error:
        whybox.open_data(data)[0]
    assert str(error.value).startswith("data mine, image a: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", ["ball", {1: "ball"}, (1, 2)])
def test_classes_are_names_in_order(classes):
    with pytest.raises(WhyboxError, match=r"data mine: classes must be a tuple of names"):
        whybox.open_data(Given(classes=classes))


def test_there_is_a_name_per_image():
    with pytest.raises(WhyboxError, match=r"names has 2 entries and len\(\) is 1"):
        whybox.open_data(Given(names=["a", "b"]))


def test_what_is_clear_is_converted():
    pixels = np.zeros((120, 160, 3), np.uint8)
    data = whybox.open_data(Given(lambda: Sample(Path("a"), pixels, truth([[10, 10, 60, 60]], np.int32([1]), [5], [1]))))
    sample = data[0]
    assert (sample.image.size, sample.name) == ((160, 120), "a")
    assert (sample.truth.boxes.dtype, sample.truth.labels.dtype) == (torch.float32, torch.int64)
    assert (sample.truth.ids, sample.truth.ignore.tolist()) == (("5",), [True])
    assert whybox.open_data(Given(names=[Path("a")])).names == ["a"]


def test_everything_else_is_the_users():
    data = whybox.open_data(Given(digest="d"))
    assert (data.extra, data.digest, whybox.open_data(data)) == (7, "d", data)
    assert pickle.loads(pickle.dumps(data))[0].truth.labels.tolist() == [0]
    own = whybox.open_data("scenes:count=1")
    assert whybox.open_data(own) is own


def test_every_run_reads_checked_samples():
    wrong, model = of(labels=[2]), whybox.load("whybox/scenes")
    with pytest.raises(WhyboxError, match="has the label 2"), pytest.warns(UserWarning, match="has the label 2"):
        whybox.evaluate(model, wrong, methods=["control_box"], metrics=["pointing_game"])
    assert "has the label 2" in find_errors(model, wrong, Search(), on_warning=lambda line: None).failed[0][1]
    with pytest.raises(WhyboxError, match="has the label 2"):
        examples_of(whybox.open_data(wrong), [0])[0]
