"""A data set of the user's whose samples are checked when they are read, so that a mistake is a line and never an empty table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from whybox.data.images import size_upright
from whybox.errors import WhyboxError
from whybox.truth import DataSet, Sample, Truth


class Checked:
    """A data set whose samples are checked as they are read; what it has besides a data set's attributes is the user's.

    Attributes:
        inner: The user's object.
        name: For reports.
        classes: Class names.
        problems: What was left out, one line per problem.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, str(inner.name)
        self.classes = _read_classes(self.name, inner.classes)
        given = inner.problems
        self.problems = (given,) if isinstance(given, str) else tuple(str(problem) for problem in given or ())
        if (named := len(self.names)) != len(inner):
            raise WhyboxError(
                f"data {self.name}: names has {named} entries and len() is {len(inner)}; expected one name per image"
            )

    @property
    def names(self) -> Sequence[str]:
        """The images' names."""
        return [str(name) for name in self.inner.names]

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        name = str(self.inner.names[index])
        where = f"data {self.name}, image {name}"
        try:
            sample = self.inner[index]
        except WhyboxError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise WhyboxError(f"{where}: cannot be read ({type(error).__name__}: {str(error).strip()})") from error
        return _check_sample(where, name, sample, len(self.classes))

    def __getattr__(self, name: str) -> Any:
        # Not of names that Python asks for itself while the object is copied or unpickled, before `inner` is there.
        if name.startswith("__") or "inner" not in vars(self):
            raise AttributeError(name)
        return getattr(self.inner, name)


def checked(data: Any) -> DataSet:
    """A data set whose samples are checked when they are read; whybox's own, whose files were checked, as they are."""
    return data if type(data).__module__.startswith("whybox.") else Checked(data)


def innermost(data: Any) -> Any:
    """The data set that a renamed or checked one reads from."""
    while type(data).__module__.startswith("whybox.data.") and hasattr(data, "inner"):
        data = data.inner
    return data


def _read_classes(name: str, classes: Any) -> tuple[str, ...]:
    if isinstance(classes, (str, Mapping)) or not all(isinstance(entry, str) for entry in classes or ()):
        raise WhyboxError(f"data {name}: classes must be a tuple of names in the order of their labels, got {classes!r}")
    return tuple(classes or ())


def _check_sample(where: str, name: str, sample: Any, classes: int) -> Sample:
    if not all(hasattr(sample, attribute) for attribute in ("name", "image", "truth")):
        raise WhyboxError(f"{where}: [i] must give whybox.Sample(name, image, truth), got {type(sample).__name__}")
    if str(sample.name) != name:
        raise WhyboxError(f"{where}: its sample has the name {str(sample.name)!r}; expected the entry of names, {name!r}")
    if not isinstance(sample.truth, Truth):
        raise WhyboxError(f"{where}: truth must be whybox.Truth(boxes, labels, ids, ignore), got {type(sample.truth).__name__}")
    image = _picture(where, sample.image)
    return Sample(name, image, _check_truth(where, sample.truth, size_upright(image), classes))


def _picture(where: str, image: Any) -> Image.Image:
    """The picture; an array of bytes becomes one."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and min(image.shape) > 0:
        pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if pixels.ndim == 2 or pixels.shape[2] in (3, 4):
            return Image.fromarray(np.ascontiguousarray(pixels))
    got = type(image).__name__
    if isinstance(image, (np.ndarray, Tensor)):
        got += f" of {str(image.dtype).removeprefix('torch.')} and shape {tuple(image.shape)}"
    raise WhyboxError(f"{where}: image must be a PIL image, or a numpy array (H, W, 3) of uint8, got {got}")


def _check_truth(where: str, truth: Truth, size: tuple[int, int], classes: int) -> Truth:
    """The annotations of a picture of size (W,H), in the types that `Truth` documents."""
    boxes = truth.boxes.float()
    if reason := _wrong_boxes(boxes, size):
        raise WhyboxError(f"{where}: {reason}")
    masks, (width, height) = truth.masks, size
    if masks is not None and tuple(masks.shape[1:]) != (height, width):
        high, wide = masks.shape[1:]
        raise WhyboxError(f"{where}: its masks are {wide}x{high} pixels and the image is {width}x{height}; expected one size")
    labels = truth.labels
    if labels.is_floating_point() or labels.dtype == torch.bool:
        kind = str(labels.dtype).removeprefix("torch.")
        raise WhyboxError(f"{where}: labels must be whole numbers (torch.long), indices among the classes, got {kind}")
    labels = labels.long()
    if wrong := [label for label in labels.tolist() if not 0 <= label < classes]:
        known = f"0 to {classes - 1}, indices among its {classes} classes" if classes else "classes, which it has none of"
        raise WhyboxError(f"{where}: has the label {wrong[0]}; labels count from 0: expected {known}")
    if truth.ignore.dtype != torch.bool and not ((truth.ignore == 0) | (truth.ignore == 1)).all():
        raise WhyboxError(f"{where}: ignore must be bool, true for regions that do not count, got {truth.ignore.tolist()}")
    return replace(truth, boxes=boxes, labels=labels, ids=tuple(map(str, truth.ids)), ignore=truth.ignore.bool())


def _wrong_boxes(boxes: Tensor, size: tuple[int, int]) -> str:
    """What is wrong with the boxes of a picture of size (W,H); "" for nothing."""
    if not len(boxes):
        return ""
    expected = "expected x1, y1, x2, y2 in image pixels"
    low, high = boxes[:, :2], boxes[:, 2:]
    outside = ((high <= 0) | (low >= boxes.new_tensor(size))).any(1)
    wrong = {
        "is NaN or infinite": ~boxes.isfinite().all(1),
        "ends before it begins (is it x, y, width, height?)": (high < low).any(1),
        # Some may, as people do at the edge of a crop, and are left out where only what is seen counts.
        f"lies outside the image of {size[0]}x{size[1]} pixels, as all of its boxes do": outside & outside.all(),
    }
    for reason, rows in wrong.items():
        if rows.any():
            row = int(rows.nonzero()[0])
            return f"box {row} {[round(value, 2) for value in boxes[row].tolist()]} {reason}; {expected}"
    # One box of less than a pixel may be an object; a picture in which all are is one that was annotated in fractions.
    if min(size) > 1 and boxes.min() >= 0 and boxes.max() <= 1:
        return (
            f"all boxes lie in 0..1, such as {[round(value, 2) for value in boxes[0].tolist()]}; {expected}, not fractions of it"
        )
    return ""
