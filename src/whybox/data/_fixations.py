"""Where people looked: fixations by annotation, from whybox's own files, eye trackers, pointers, COCO-Search18 or SALICON."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.data._coco_objects import ObjectEntry
from whybox.data._fields import read_json, read_numbers
from whybox.data._fixations_eye_tracker import read_eye_tracker
from whybox.data._fixations_pointer import read_pointer
from whybox.data._fixations_salicon import read_salicon_folder, read_salicon_json, read_salicon_mat
from whybox.data._fixations_search18 import is_search18, read_search18
from whybox.data._looks import Annotated, Floats, Look
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError, unknown

FREE = ("inside", "all")
LONGEST = 86_400.0
"""Seconds."""


class Fixations(NamedTuple):
    """The fixations of a data set's objects.

    Attributes:
        points: By annotation id: (F,3) x, y in image pixels and seconds; those of all viewers together.
        viewers: By annotation id: F names, who made each.
        files: The files that they were read from.
    """

    points: Mapping[str, NDArray[np.float32]]
    viewers: Mapping[str, tuple[str, ...]]
    files: tuple[Path, ...]


def read_fixations(
    file: Path, annotated: Annotated, problems: Problems, *, screen: str | None = None, free: str = "inside"
) -> Fixations:
    """Read fixations. A point outside the image is left out, and is a problem.

    Args:
        file: A file of one of the forms on docs/attention.md; or a folder of SALICON's .mat files.
        annotated: The images and objects that they are of.
        problems: Gets a line per entry that cannot be used.
        screen: For tables of an eye tracker, where a picture was on its screen: "1280x1024", at its own size in the middle;
            "1280x1024-fit", as large as fits, in the middle; "LEFT,TOP,WIDTH,HEIGHT". None: x and y are image pixels.
        free: Whose the fixations on a picture are, where nobody was to look for an object of it: "inside" gives each object
            those in its box, "all" gives every object all of them.

    Returns:
        The fixations by annotation.

    Raises:
        WhyboxError: The file cannot be read, is of no known form, or has nothing to do with the data set.
    """
    if free not in FREE:
        raise unknown("free", free, FREE)
    suffix = file.suffix.lower()
    if screen is not None and suffix not in (".csv", ".tsv"):
        raise WhyboxError(
            f"screen is for the tables of eye trackers (.csv, .tsv), and {file} says itself where its pictures were"
        )
    if file.is_dir():
        looks, files = read_salicon_folder(file, annotated, problems)
        return _gather(looks, annotated, free, file, problems, files)
    if suffix in (".csv", ".tsv"):
        looks = read_eye_tracker(file, annotated, problems, screen)
    elif suffix == ".jsonl":
        looks = read_pointer(file, annotated, problems)
    elif suffix == ".mat":
        looks = read_salicon_mat(file, annotated, problems)
    else:
        looks = _read_json_looks(file, annotated, problems)
    return _gather(looks, annotated, free, file, problems, (file,))


def _read_json_looks(file: Path, annotated: Annotated, problems: Problems) -> Iterator[Look]:
    content = read_json(file)
    if isinstance(content, dict) and {"annotations", "images"} <= content.keys():
        return read_salicon_json(file, content, annotated, problems)
    if not isinstance(content, list):
        raise WhyboxError(f'{file} is no list of fixations: expected [{{"annotation_id": 7, "fixations": [[x, y, seconds]]}}]')
    if is_search18(content):
        return read_search18(file, content, annotated, problems)
    return _read_own(file, content, annotated, problems)


def _read_own(file: Path, content: list[Any], annotated: Annotated, problems: Problems) -> Iterator[Look]:
    """The entries {"annotation_id": 7, "fixations": [[x, y, seconds], ...], "viewer": "anna"}."""
    for position, entry in enumerate(content, start=1):
        try:
            row, points = _read_entry(entry, annotated)
        except Broken as reason:
            problems.note(f"entry {position}", reason, file)
            continue
        # Without a name, an entry is a viewer of its own.
        person = entry.get("viewer", entry.get("participant", f"entry {position}"))
        yield Look(f"entry {position} (annotation {row.id})", row.image, row.id, _name(person), points)


def _read_entry(entry: Any, annotated: Annotated) -> tuple[ObjectEntry, Floats]:
    if not isinstance(entry, dict) or not {"annotation_id", "fixations"} <= entry.keys():
        raise Broken(f"expected annotation_id and fixations, got {shown(entry)}")
    row = annotated.object(entry["annotation_id"])
    if not isinstance(entry["fixations"], list):
        raise Broken(f"fixations of annotation {row.id} must be a list of [x, y, seconds], got {shown(entry['fixations'])}")
    rows = [read_numbers(numbers, f"a fixation of annotation {row.id}") for numbers in entry["fixations"]]
    if wrong := [numbers.tolist() for numbers in rows if len(numbers) != 3 or numbers[2] < 0]:
        raise Broken(f"a fixation of annotation {row.id} must be [x, y, seconds], got {shown(wrong[0])}")
    # The reshape is for viewers without a fixation.
    return row, np.asarray(rows, dtype=np.float64).reshape(-1, 3)


def _name(person: Any) -> str:
    return person if isinstance(person, str) else json.dumps(person)


def _gather(
    looks: Iterator[Look], annotated: Annotated, free: str, file: Path, problems: Problems, files: tuple[Path, ...]
) -> Fixations:
    """The fixations of all looks by object."""
    points: dict[str, list[Floats]] = {}
    viewers: dict[str, list[str]] = {}
    for look in looks:
        inside = np.all((look.points[:, :2] >= 0) & (look.points[:, :2] < look.image.size), axis=1)
        if not inside.all():
            outside = f"{(~inside).sum()} of {len(inside)} fixations lie outside the image and are left out"
            problems.note(look.where, outside, file)
        short = look.points[:, 2] <= LONGEST
        if not short.all():
            problems.note(look.where, f"{(~short).sum()} of {len(short)} fixations last longer than a day and are left out", file)
        inside &= short
        for name, chosen in _whose(look._replace(points=look.points[inside]), annotated, free):
            if len(chosen):
                points.setdefault(name, []).append(chosen)
                viewers.setdefault(name, []).extend([look.person] * len(chosen))
    joined = {name: np.concatenate(parts).astype(np.float32) for name, parts in points.items()}
    return Fixations(joined, {name: tuple(names) for name, names in viewers.items()}, files)


def _whose(look: Look, annotated: Annotated, free: str) -> Iterator[tuple[str, Floats]]:
    """The objects that a look's fixations belong to, each with its own."""
    if look.row is not None:
        yield look.row, look.points
        return
    for row in annotated.within(look.image):
        x1, y1, x2, y2 = row.box
        x, y = look.points[:, 0], look.points[:, 1]
        yield row.id, look.points if free == "all" else look.points[(x >= x1) & (x < x2) & (y >= y1) & (y < y2)]
