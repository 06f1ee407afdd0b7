"""What is wrong with a data set's files, a line each; and the numbers and boxes that such files hold, checked."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.errors import WhyboxError, unknown

POLICIES = ("skip", "refuse")

LONGEST_SHOWN = 80


def digest_files(*files: Path | None) -> str:
    """A short digest of the files' contents: data whose annotations changed is other data."""
    digest = hashlib.sha256()
    for file in files:
        if file is not None:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Broken(Exception):
    """Why one annotation or image cannot be used. Whoever reads the file adds where it stands."""


class Problems:
    """The problems met while a data set is opened. They are dealt with at its end, so that an error can count them."""

    def __init__(self, source: Path, on_problem: str) -> None:
        if on_problem not in POLICIES:
            raise unknown("on_problem", on_problem, POLICIES)
        self.source, self.on_problem = source, on_problem
        self.lines: list[str] = []

    def note(self, where: str, reason: object, source: Path | None = None) -> None:
        """Keep one line; `source` is the file, where it is not the annotation file."""
        self.lines.append(f"{source or self.source}: {where}: {reason}")

    def settle(self) -> tuple[str, ...]:
        """All lines, or an error with the first of them."""
        if self.lines and self.on_problem == "refuse":
            raise WhyboxError(f"{self.first()}; mend it, or on_problem='skip' leaves out what is broken")
        return tuple(self.lines)

    def first(self) -> str:
        """The first problem and how many more there are."""
        more = len(self.lines) - 1
        return self.lines[0] + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def shown(value: object) -> str:
    """A value as an error shows it: on one line, however large it is."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def read_json(file: Path) -> Any:
    """What a file of JSON holds."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WhyboxError(f"cannot read {file} as JSON: {error}") from error


def read_numbers(value: Any, what: str) -> NDArray[np.float64]:
    """A flat list of finite numbers."""
    try:
        numbers = np.asarray(value)
    except (ValueError, OverflowError):
        raise Broken(f"{what} is no list of numbers: {shown(value)}") from None
    if not isinstance(value, list) or numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise Broken(f"{what} is no list of numbers: {shown(value)}")
    if not np.isfinite(numbers).all():
        raise Broken(f"{what} holds NaN or infinity: {shown(value)}")
    return numbers.astype(np.float64)


def read_box(row: dict[str, Any], key: str) -> NDArray[np.float64]:
    """row[key], [x, y, width, height], as xyxy (4,)."""
    if row.get(key) is None:
        raise Broken(f"no {key}")
    numbers = read_numbers(row[key], key)
    if len(numbers) != 4:
        raise Broken(f"{key} must be [x, y, width, height], got {shown(row[key])}")
    x, y, width, height = numbers.tolist()
    box = np.array([x, y, x + width, y + height])
    if not has_area(box):
        raise Broken(f"{key} must have a width and a height above 0, got {shown(row[key])}")
    return box


def has_area(box: NDArray[np.float64]) -> bool:
    """Whether a box (4,) xyxy has finite sides above 0 in float32, in which it will be kept: a width of 1e-9 vanishes there."""
    with np.errstate(over="ignore"):
        x1, y1, x2, y2 = box.astype(np.float32).tolist()
    return bool(0 < x2 - x1 < math.inf and 0 < y2 - y1 < math.inf)
