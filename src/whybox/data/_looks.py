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
        self._whole = {image.name: image for image in images.values()}
        self._files = defaultdict[str, list[ImageEntry]](list)
        self._stems = defaultdict[str, list[ImageEntry]](list)
        for image in images.values():
            path = PurePosixPath(image.name)
            self._files[path.name].append(image)
            self._stems[path.stem].append(image)

    def within(self, image: ImageEntry) -> Sequence[ObjectEntry]:
        """The objects of an image, without crowd regions."""
        return self._inside[image.id]

    def candidates(self, name: Any) -> list[ImageEntry]:
        """The images that a name may mean.

        Args:
            name: A file name, with or without folders and ending, or an id; COCO's 2014 and 2017 names are the same.

        Returns:
            One image where the file has that very name, else all of that file name in any folder, else all that have the name
            without its ending, or the id.

        Raises:
            Broken: It is no name.
        """
        text = read_id(name)
        if text is None:
            raise Broken(f"an image must be a name or an id, got {shown(name)}")
        path = PurePosixPath(str(name).strip().replace("\\", "/"))
        if whole := self._whole.get(str(path)):
            return [whole]
        if files := self._files.get(path.name):
            return files
        number = COCO_NUMBER.fullmatch(path.stem)
        ids = {text, str(int(number[1]))} if number else {text}
        loose = [*self._stems.get(path.stem, ()), *(self.images[key] for key in sorted(ids) if key in self.images)]
        return list({image.id: image for image in loose}.values())

    def find(self, name: Any) -> ImageEntry | None:
        """Find an image.

        Args:
            name: As for `candidates`.

        Returns:
            The image; None where the data set does not have it.

        Raises:
            Broken: It is no name, or may mean several images.
        """
        found = self.candidates(name)
        if len(found) > 1:
            each = " and ".join(f"{image.name!r} (id {image.id})" for image in found[:2])
            raise Broken(f"image {shown(name)} may be {each}; give the file's whole name")
        return found[0] if found else None

    def image(self, name: Any) -> ImageEntry:
        """Find an image that has to be there.

        Args:
            name: As for `candidates`.

        Returns:
            The image.

        Raises:
            Broken: The data set does not have it, or the name may mean several.
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

    def object_in(self, name: Any, image: Any) -> ObjectEntry:
        """Find an object of an image; the object decides where the image's name may mean several.

        Args:
            name: Its annotation id.
            image: A name of its image, as for `candidates`.

        Returns:
            The object.

        Raises:
            Broken: The data set does not have it, or it is in another image.
        """
        found = self.object(name)
        if all(candidate.id != found.image.id for candidate in self.candidates(image)):
            raise Broken(f"object {found.id} is in image {found.image.name!r}, not in {shown(image)}")
        return found


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
