"""CrowdHuman: people in crowds, each with a box of the whole body, of what is visible, and of the head."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._problems import Broken, Problems, digest_files, read_box, shown
from whybox.data.images import read_picture
from whybox.errors import MissingSplitError, WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "crowdhuman"
SUFFIXES = (".jpg", ".jpeg", ".png")
NOWHERE = np.full(4, np.nan)


class _Person(NamedTuple):
    """boxes: whole, visible, head, each (4,) xyxy."""

    name: str
    boxes: list[NDArray[np.float64]]
    ignore: bool


@dataclass(frozen=True)
class CrowdHumanImage:
    """One annotated image with N people.

    boxes (N,4) float32 xyxy in image pixels around the whole body, which may reach beyond the image; visible, head (N,4),
    NaN where there is none; ignore (N,) bool: no person (a mannequin, a picture, a group), or not to be counted.
    """

    path: Path
    name: str
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]
    head: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    ids: tuple[str, ...]

    def truth(self, size: tuple[int, int]) -> Truth:
        """The annotations of a picture of `size` (W,H)."""
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
    """The images of one odgt file, what was left out of it, and a digest of the file."""

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
        """Read one image. No size is annotated: an EXIF orientation is applied, as the usual readers of these images do."""
        image = self.images[index]
        picture: Image.Image = read_picture(image.path)
        return Sample(image.name, picture, image.truth(picture.size))


def open_data(rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None) -> DataSet:
    """The data set of "crowdhuman:REST": a folder that holds annotation_val.odgt and Images/, or an odgt file.

    split: "train" or "val", for a folder. images: the folder of the images, where it is not beside the annotations.
    on_problem: "skip" leaves out what is broken, "refuse" stops at it.
    Source: Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd", 2018; a line of JSON an image.
    """
    if not rest:
        raise WhyboxError("crowdhuman needs a place: crowdhuman:FOLDER or crowdhuman:FILE.odgt")
    source = Path(rest).expanduser()
    if source.is_dir():
        source = source / f"annotation_{split}.odgt"
    if not source.is_file():
        kind = MissingSplitError if Path(rest).expanduser().is_dir() else WhyboxError
        raise kind(f"no CrowdHuman annotations at {source}: give an odgt file, or the folder of annotation_val.odgt")
    folder = source.parent / "Images" if images is None else images.expanduser()
    problems = Problems(source, on_problem)
    found = tuple(_read_images(source, folder, problems))
    if not found:
        raise WhyboxError(f"{source} names no image that can be used" + (f": {problems.first()}" if problems.lines else ""))
    return CrowdHumanData(f"{PREFIX}:{source}", found, problems.settle(), digest=digest_files(source))


def _read_images(source: Path, folder: Path, problems: Problems) -> Iterator[CrowdHumanImage]:
    lines: dict[str, int] = {}
    for number, text in enumerate(_read_lines(source), start=1):
        if not text.strip():
            continue
        try:
            row = _parse(text)
            if row["ID"] in lines:
                raise Broken(f"the image {row['ID']!r} is already on line {lines[row['ID']]}: left out here")
            lines[row["ID"]] = number
            path = _find(folder, row["ID"])
        except Broken as reason:
            problems.note(f"line {number}", reason)
            continue
        yield _read_people(row, path, problems)


def _read_lines(source: Path) -> list[bytes]:
    try:
        return source.read_bytes().splitlines()
    except OSError as error:
        raise WhyboxError(f"cannot read {source}: {error.strerror}") from error


def _parse(text: bytes) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken(f"no JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("ID"), str) or not row["ID"]:
        raise Broken(f"expected an ID and gtboxes, got {shown(row)}")
    if not isinstance(row.get("gtboxes"), list):
        raise Broken(f"image {row['ID']!r} has no list of gtboxes")
    return row


def _find(folder: Path, name: str) -> Path:
    for suffix in SUFFIXES:
        if os.path.isfile(path := folder / f"{name}{suffix}"):
            return path
    raise Broken(f"there is no {name}{SUFFIXES[0]} in {folder}")


def _read_people(row: Mapping[str, Any], path: Path, problems: Problems) -> CrowdHumanImage:
    people = []
    for number, person in enumerate(row["gtboxes"]):
        name = f"{row['ID']}/{number}"
        try:
            people.append(_read_person(person, name, problems))
        except Broken as reason:
            problems.note(f"annotation {name}", reason)
    boxes = np.asarray([one.boxes for one in people], dtype=np.float32).reshape(-1, 3, 4)
    ignore = np.asarray([one.ignore for one in people], dtype=bool)
    names = tuple(one.name for one in people)
    return CrowdHumanImage(path, row["ID"], boxes[:, 0], boxes[:, 1], boxes[:, 2], ignore, names)


def _read_person(person: Any, name: str, problems: Problems) -> _Person:
    if not isinstance(person, dict) or not isinstance(person.get("tag"), str):
        raise Broken(f"expected a tag and an fbox, got {shown(person)}")
    whole, head_attributes = read_box(person, "fbox"), _attributes(person, "head_attr")
    if person["tag"] != "person" or _attributes(person, "extra").get("ignore", 0) != 0:
        return _Person(name, [whole, NOWHERE, NOWHERE], ignore=True)
    visible = _read_part(person, "vbox", name, problems)
    head = NOWHERE if head_attributes.get("ignore", 0) != 0 else _read_part(person, "hbox", name, problems)
    return _Person(name, [whole, visible, head], ignore=False)


def _attributes(person: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A person's "extra" or "head_attr", either of which may be absent."""
    attributes = person.get(key)
    if attributes is None:
        return {}
    if not isinstance(attributes, dict):
        raise Broken(f"{key} must hold attributes by name, got {shown(attributes)}")
    return attributes


def _read_part(person: dict[str, Any], key: str, name: str, problems: Problems) -> NDArray[np.float64]:
    """The box of a part, NaN where there is none; a broken one is left out, the person stays."""
    if person.get(key) is None:
        return NOWHERE
    try:
        return read_box(person, key)
    except Broken as reason:
        problems.note(f"annotation {name}", f"{reason}: the person counts without it")
        return NOWHERE
