"""CrowdHuman: people in crowds, each with a box of the whole body, of what is visible, and of the head."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._fields import read_box, read_flag, read_id
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Broken, Problems, digest_files, shown
from whybox.data.images import read_picture
from whybox.errors import MissingSplitError, WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "crowdhuman"
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", "")
"""What an image's ID lacks to be a file name; the last for an ID that is one already."""
NOWHERE = np.full(4, np.nan)


class _Person(NamedTuple):
    """boxes: whole, visible, head, each (4,) xyxy."""

    name: str
    boxes: list[NDArray[np.float64]]
    ignore: bool


@dataclass(frozen=True)
class CrowdHumanImage:
    """One annotated image with N people.

    Attributes:
        path: The picture's file.
        name: The image's ID.
        boxes: (N,4) xyxy in image pixels around the whole body, which may reach beyond the image.
        visible: (N,4) around what is visible, NaN where there is none.
        head: (N,4) around the head, NaN where there is none.
        ignore: (N,) true for what is no person (a mannequin, a picture, a group), or is not to be counted.
        ids: N annotation ids.
    """

    path: Path
    name: str
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]
    head: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    ids: tuple[str, ...]

    def truth(self, size: tuple[int, int]) -> Truth:
        """The annotations as tensors.

        Args:
            size: (W,H) of the picture in pixels.

        Returns:
            The N people.

        Raises:
            WhyboxError: A person who counts lies outside the picture.
        """
        # Boxes may reach beyond the image, but a person who is nowhere in it shows that the picture is another one.
        inside = (self.boxes[:, :2] < np.asarray(size)).all(1) & (self.boxes[:, 2:] > 0).all(1)
        if outside := [name for name, wrong in zip(self.ids, ~(inside | self.ignore), strict=True) if wrong]:
            raise WhyboxError(f"{self.path}: {outside[0]} lies outside the image of {size[0]}x{size[1]}: is it the right image?")
        return Truth(
            torch.from_numpy(self.boxes.copy()),
            torch.zeros(len(self.ids), dtype=torch.long),
            self.ids,
            torch.from_numpy(self.ignore.copy()),
            parts={"visible": torch.from_numpy(self.visible.copy()), "head": torch.from_numpy(self.head.copy())},
        )


@dataclass
class CrowdHumanData:
    """The images of one odgt file.

    Attributes:
        name: "crowdhuman:" and the file.
        images: The images that can be used.
        problems: One line on everything that was left out or repaired.
        classes: The one class.
        digest: A digest of the file.
    """

    name: str
    images: tuple[CrowdHumanImage, ...]
    problems: tuple[str, ...]
    classes: tuple[str, ...] = ("person",)
    digest: str = ""

    @property
    def names(self) -> Sequence[str]:
        """The images' IDs."""
        return [image.name for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one image. No size is annotated: an EXIF orientation is applied, as the usual readers of these images do.

        Args:
            index: From 0.

        Returns:
            The image and its annotations.

        Raises:
            WhyboxError: The picture cannot be read, or a person lies outside it.
        """
        image = self.images[index]
        picture: Image.Image = read_picture(image.path)
        return Sample(image.name, picture, image.truth(picture.size))


def open_data(rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None) -> DataSet:
    """Open the data set "crowdhuman:REST".

    Source: Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd", 2018; one line of JSON per image.

    Args:
        rest: A folder that holds annotation_val.odgt and Images/, or an odgt file.
        on_problem: "skip" leaves out what is broken, "refuse" stops at it.
        split: "train" or "val", for a folder.
        images: The folder of the images, where it is not beside the annotations.

    Returns:
        The data set.

    Raises:
        MissingSplitError: The folder has no file of this split.
        WhyboxError: The file cannot be used as a whole, or there are problems and they are to be refused.
    """
    if not rest:
        raise WhyboxError("crowdhuman needs a place: crowdhuman:FOLDER or crowdhuman:FILE.odgt")
    source = Path(rest).expanduser()
    if source.is_dir():
        source = source / f"annotation_{split}.odgt"
    if not source.is_file():
        error = MissingSplitError if Path(rest).expanduser().is_dir() else WhyboxError
        raise error(f"no CrowdHuman annotations at {source}: give an odgt file, or the folder of annotation_val.odgt")
    folder = source.parent / "Images" if images is None else images.expanduser()
    problems = Problems(source, on_problem)
    usable = tuple(_read_images(source, PictureFolder(folder), problems))
    if not usable:
        raise WhyboxError(f"{source} names no image that can be used" + (f": {problems.first()}" if problems.lines else ""))
    return CrowdHumanData(f"{PREFIX}:{source}", usable, problems.settle(), digest=digest_files(source))


def _read_images(source: Path, pictures: PictureFolder, problems: Problems) -> Iterator[CrowdHumanImage]:
    lines: dict[str, int] = {}
    for number, text in enumerate(_read_lines(source), start=1):
        if not text.strip():
            continue
        try:
            name, people = _parse(text)
            if name in lines:
                raise Broken(f"the image {name!r} is already on line {lines[name]}: left out here")
            lines[name] = number
            found = _find(pictures, name)
        except Broken as reason:
            problems.note(f"line {number}", reason)
            continue
        if found not in {name + suffix for suffix in SUFFIXES}:
            problems.note(f"line {number}", f"there is no {name}{SUFFIXES[0]} in {pictures.folder}: read as {found!r}")
        yield _read_people(name, people, pictures.folder / found, problems)


def _read_lines(source: Path) -> list[bytes]:
    try:
        # As bytes, because str.splitlines also ends lines at U+2028 and the like, which JSON allows inside a text.
        return source.read_bytes().splitlines()
    except OSError as error:
        raise WhyboxError(f"cannot read {source}: {error.strerror}") from error


def _parse(text: bytes) -> tuple[str, list[Any]]:
    """The image's ID and its annotations."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken(f"no JSON: {error}") from None
    given = row.get("ID") if isinstance(row, dict) else None
    # A text stays as it is, zeros and all: it is a file's name.
    name = given if isinstance(given, str) else read_id(given)
    if not name:
        raise Broken(f"expected an ID and gtboxes, got {shown(row)}")
    if not isinstance(row.get("gtboxes"), list):
        raise Broken(f"image {name!r} has no list of gtboxes")
    return name, row["gtboxes"]


def _find(pictures: PictureFolder, name: str) -> str:
    try:
        return pictures.find(name, SUFFIXES)
    except Broken as reason:
        # What it says of several files is kept; the rest would not tell which name was looked for.
        more = str(reason).partition(", and ")[2]
        raise Broken(f"there is no {name}{SUFFIXES[0]} in {pictures.folder}{f', and {more}' if more else ''}") from None


def _read_people(image: str, rows: Sequence[Any], path: Path, problems: Problems) -> CrowdHumanImage:
    people = []
    for number, row in enumerate(rows):
        name = f"{image}/{number}"
        try:
            people.append(_read_person(row, name, problems))
        except Broken as reason:
            problems.note(f"annotation {name}", reason)
    # The reshape is for images without people.
    boxes = np.asarray([person.boxes for person in people], dtype=np.float32).reshape(-1, 3, 4)
    ignore = np.asarray([person.ignore for person in people], dtype=bool)
    names = tuple(person.name for person in people)
    return CrowdHumanImage(path, image, boxes[:, 0], boxes[:, 1], boxes[:, 2], ignore, names)


def _read_person(person: Any, name: str, problems: Problems) -> _Person:
    if not isinstance(person, dict) or not isinstance(person.get("tag"), str):
        raise Broken(f"expected a tag and an fbox, got {shown(person)}")
    whole = read_box(person, "fbox")
    # Parts of what does not count are not read, so that they are no problem either.
    if person["tag"] != "person" or _ignored(person, "extra", name, problems):
        return _Person(name, [whole, NOWHERE, NOWHERE], ignore=True)
    visible = _read_part(person, "vbox", name, problems)
    head = NOWHERE if _ignored(person, "head_attr", name, problems) else _read_part(person, "hbox", name, problems)
    return _Person(name, [whole, visible, head], ignore=False)


def _ignored(person: Mapping[str, Any], key: str, name: str, problems: Problems) -> bool:
    """Whether a person's "extra" or "head_attr", either of which may be absent, says ignore."""
    attributes = person.get(key)
    try:
        if attributes is None:
            return False
        if not isinstance(attributes, dict):
            raise Broken(f"{key} must hold attributes by name, got {shown(attributes)}")
        return read_flag(attributes.get("ignore"), f"ignore of {key}")
    except Broken as reason:
        problems.note(f"annotation {name}", f"{reason}: read as if it were absent")
        return False


def _read_part(person: dict[str, Any], key: str, name: str, problems: Problems) -> NDArray[np.float64]:
    """The box of a part, NaN where there is none; a broken one is left out, the person stays."""
    if person.get(key) is None:
        return NOWHERE
    try:
        return read_box(person, key)
    except Broken as reason:
        problems.note(f"annotation {name}", f"{reason}: the person counts without it")
        return NOWHERE
