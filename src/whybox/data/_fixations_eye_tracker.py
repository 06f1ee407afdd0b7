"""Tables of an eye tracker, a fixation a line: x, y, duration, participant, image, object, and where the picture was."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from whybox.data._coco_images import ImageEntry
from whybox.data._fields import read_number
from whybox.data._looks import Annotated, Look, from_screen, size_of
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError
from whybox.frame import OnScreen

NAMES: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "current_fix_x"),
    "y": ("y", "current_fix_y"),
    "duration": ("duration",),
    "duration_ms": ("duration_ms", "current_fix_duration"),
    "participant": ("participant", "subject", "viewer", "recording_session_label"),
    "image": ("image", "file_name", "picture"),
    "object": ("object", "annotation_id", "annotation"),
    "left": ("left",),
    "top": ("top",),
    "width": ("width",),
    "height": ("height",),
}
"""A column's names in lower case; the longer ones are those of EyeLink's fixation reports."""
PLACE = ("left", "top", "width", "height")
LONGEST = 10.0
"""Seconds. No fixation lasts as long: a table with such a median has milliseconds."""
ALONE = "one person"
"""Who looked, in a table without a column of participants."""
SIZE = re.compile(r"([0-9]+)x([0-9]+)(-fit)?")


class Row(NamedTuple):
    """One fixation: x, y in screen pixels, seconds, and the place of the picture, if the row has it."""

    numbers: tuple[float, float, float]
    place: OnScreen | None


def read_eye_tracker(file: Path, annotated: Annotated, problems: Problems, screen: str | None) -> Iterator[Look]:
    """Read a table of fixations.

    Args:
        file: The table, with a line of column names; commas, semicolons or tabs between the columns.
        annotated: The images and objects of the data set.
        problems: Gets a line on what cannot be used.
        screen: See `whybox.data._fixations.read_fixations`.

    Yields:
        A look for each participant, image and object, in the order of their first lines.

    Raises:
        WhyboxError: The table cannot be read, lacks a column, or has durations in milliseconds under the name of seconds.
    """
    lines, columns = _read_table(file)
    trials: dict[tuple[str, str, str], list[Row]] = {}
    broken: list[tuple[int, Broken]] = []
    for number, line in enumerate(lines, start=2):
        try:
            row = _read_row(line, columns)
        except Broken as error:
            broken.append((number, error))
            continue
        person, name, target = (_text(line, columns.get(name)) for name in ("participant", "image", "object"))
        trials.setdefault((person or ALONE, name, target), []).append(row)
    if broken:
        # In one line: trackers write rows without numbers for every blink.
        first, why = broken[0]
        problems.note(f"line {first}", f"{why}; {len(broken)} of {len(lines)} lines are left out for such reasons", file)
    durations = [row.numbers[2] for rows in trials.values() for row in rows]
    if durations and np.median(durations) > LONGEST:
        raise WhyboxError(
            f"{file}: the median of its durations is {np.median(durations):g}, and duration is in seconds; "
            "name the column duration_ms if it is in milliseconds"
        )
    for (person, name, target), rows in trials.items():
        where = f"participant {person}, image {name or '(none)'}" + (f", object {target}" if target else "")
        try:
            entry = None
            if target:
                entry = annotated.object_in(target, name) if name else annotated.object(target)
            image = annotated.image(name) if entry is None else entry.image
            points = np.concatenate([_mapped(row, image, screen) for row in rows])
        except Broken as reason:
            problems.note(where, reason, file)
            continue
        yield Look(where, image, None if entry is None else entry.id, person, points)


def _read_table(file: Path) -> tuple[list[list[str]], dict[str, int]]:
    """The lines below the head, and the index of each known column."""
    try:
        # Excel begins its files with a mark of the byte order.
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WhyboxError(f"cannot read {file} as a table: {error}") from error
    head = text.partition("\n")[0]
    delimiter = max("\t;,", key=head.count)
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if any(map(str.strip, line))]
    names = [name.strip().lower() for name in lines[0]] if lines else []
    columns = {key: names.index(name) for key, known in NAMES.items() for name in known[::-1] if name in names}
    missing = [key for key in ("x", "y") if key not in columns]
    missing += [] if {"duration", "duration_ms"} & columns.keys() else ["duration (seconds) or duration_ms"]
    missing += [] if {"image", "object"} & columns.keys() else ["image or object"]
    missing += [key for key in PLACE if key not in columns] if set(PLACE) & columns.keys() else []
    if missing:
        raise WhyboxError(f"{file} lacks the column {', '.join(missing)}; it has {shown(', '.join(names))}")
    return lines[1:], columns


def _read_row(line: Sequence[str], columns: Mapping[str, int]) -> Row:
    values = {key: read_number(_text(line, at), key) for key, at in columns.items() if key in _NUMBERS and _text(line, at)}
    if absent := [key for key in ("x", "y") if key not in values]:
        raise Broken(f"no {absent[0]}")
    if "duration" not in values and "duration_ms" not in values:
        raise Broken("no duration")
    seconds = values["duration"] if "duration" in values else values["duration_ms"] / 1000
    if seconds < 0:
        raise Broken(f"a duration below 0: {seconds:g} seconds")
    place = None
    if given := [key for key in PLACE if key in values]:
        if len(given) < len(PLACE):
            raise Broken(f"left, top, width and height belong together, got {', '.join(given)}")
        place = _place(*(values[key] for key in PLACE))
    return Row((values["x"], values["y"], seconds), place)


_NUMBERS = frozenset({"x", "y", "duration", "duration_ms", *PLACE})


def _text(line: Sequence[str], column: int | None) -> str:
    return "" if column is None or column >= len(line) else line[column].strip()


def _mapped(row: Row, image: ImageEntry, screen: str | None) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """(1,3): the fixation in pixels of the picture."""
    points = np.asarray([row.numbers], dtype=np.float64)
    place = row.place or (None if screen is None else place_on(screen, image))
    return points if place is None else from_screen(points, place, image)


def place_on(screen: str, image: ImageEntry) -> OnScreen:
    """Where a picture is on the screen.

    Args:
        screen: See `whybox.data._fixations.read_fixations`.
        image: The picture.

    Returns:
        Its place.

    Raises:
        WhyboxError: `screen` says no place.
    """
    try:
        if size := SIZE.fullmatch(screen.strip()):
            return OnScreen.fitted(size_of(image), (int(size[2]), int(size[1])), grow=bool(size[3]))
        left, top, width, height = (read_number(part, "screen") for part in screen.split(","))
        return _place(left, top, width, height)
    except (Broken, ValueError) as error:
        expected = "1280x1024 (pictures in the middle), 1280x1024-fit (as large as fits) or LEFT,TOP,WIDTH,HEIGHT of the picture"
        raise WhyboxError(f"screen must be {expected}, got {screen!r}") from error


def _place(left: float, top: float, width: float, height: float) -> OnScreen:
    try:
        return OnScreen(left, top, width, height)
    except ValueError as error:
        raise Broken(error) from None
