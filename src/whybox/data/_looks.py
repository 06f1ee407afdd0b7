"""One person's fixations of one picture, and the images and objects that files of fixations name."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from whybox.data._coco_images import ImageEntry
from whybox.data._coco_objects import ObjectEntry
from whybox.data._fields import read_id
from whybox.data._problems import Broken, shown
from whybox.frame import OnScreen, Size

Floats = NDArray[np.float64]

COCO_NUMBER = re.compile(r"(?:.*_)?([0-9]{12})")
"""The stem of COCO's own file names; 2014's have a prefix that 2017's lack: COCO_val2014_000000000042."""


class Look(NamedTuple):
    """One person's fixations of one picture.

    Attributes:
        where: Its place in the file, for problems.
        image: The picture.
        row: The id of the annotation that was looked for, or None.
        person: Who looked.
        points: (F,3) x, y in image pixels and the duration in seconds, in the order of time.
    """

    where: str
    image: ImageEntry
    row: str | None
    person: str
    points: Floats


class Annotated:
    """The images and objects of a data set, found by the names that files of fixations give them.

    Attributes:
        images: The images, by id.
        objects: The objects, by id.
        classes: The class names, in the order of the objects' labels.
    """

    def __init__(self, images: Mapping[str, ImageEntry], objects: Sequence[ObjectEntry], classes: Sequence[str]) -> None:
        """Index a data set.

        Args:
            images: The images, by id.
            objects: Their objects.
            classes: The class names, in the order of the objects' labels.
        """
        self.images, self.objects, self.classes = images, {row.id: row for row in objects}, tuple(classes)
        self._inside = defaultdict[str, list[ObjectEntry]](list)
        for row in objects:
            if not row.iscrowd:
                self._inside[row.image.id].append(row)
        self._named = defaultdict[str, list[ImageEntry]](list)
        for image in images.values():
            # A set, because of a name without folders the name and its last part are one.
            for key in {image.name, PurePosixPath(image.name).name, PurePosixPath(image.name).stem}:
                self._named[key].append(image)

    def within(self, image: ImageEntry) -> Sequence[ObjectEntry]:
        """The objects of an image, without crowd regions."""
        return self._inside[image.id]

    def find(self, name: Any) -> ImageEntry | None:
        """Find an image.

        Args:
            name: Its file name, with or without folders and ending, or its id; COCO's 2014 and 2017 names are the same.

        Returns:
            The image; None where the data set does not have it.

        Raises:
            Broken: It is no name, or that of several images.
        """
        text = read_id(name)
        if text is None:
            raise Broken(f"an image must be a name or an id, got {shown(name)}")
        path = PurePosixPath(str(name).strip().replace("\\", "/"))
        for key in (str(path), path.name, path.stem):
            if len(found := self._named.get(key, [])) > 1:
                raise Broken(f"{shown(name)} is the name of {len(found)} images; give it with its folder")
            if found:
                return found[0]
        number = COCO_NUMBER.fullmatch(path.stem)
        return self.images.get(text) or (self.images.get(str(int(number[1]))) if number else None)

    def image(self, name: Any) -> ImageEntry:
        """Find an image that has to be there.

        Args:
            name: As for `find`.

        Returns:
            The image.

        Raises:
            Broken: The data set does not have it.
        """
        if (image := self.find(name)) is None:
            raise Broken(f"image {shown(name)} is not in the data set, or was left out")
        return image

    def object(self, name: Any) -> ObjectEntry:
        """Find an object that has to be there.

        Args:
            name: Its annotation id.

        Returns:
            The object.

        Raises:
            Broken: The data set does not have it.
        """
        text = read_id(name)
        if text is None or text not in self.objects:
            raise Broken(f"annotation {shown(name)} is not in the data set, or was left out")
        return self.objects[text]


def size_of(image: ImageEntry) -> Size:
    """An image's (height, width)."""
    return image.size[1], image.size[0]


def from_screen(points: Floats, place: OnScreen, image: ImageEntry) -> Floats:
    """Fixations from the screen's pixels to the picture's.

    Args:
        points: (F,3), x, y in screen pixels, and what stays as it is.
        place: Where the picture was shown.
        image: The picture.

    Returns:
        (F,3), x, y in pixels of the picture.
    """
    moved = points.copy()
    moved[:, :2] = place.points_to_image(torch.from_numpy(points[:, :2].copy()), size_of(image)).numpy()
    return moved
