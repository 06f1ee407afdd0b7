"""The values in annotation files: one reader each of an id, a number, a list of numbers, a flag, and a box."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.data._problems import Broken, shown
from whybox.errors import WhyboxError

# Without exponents: an id such as "12e4" is a hash far more often than the number 120000.
WHOLE = re.compile(r"([+-]?)0*([1-9][0-9]*|0)(\.0*)?")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
TRUE = frozenset({"true", "yes"})
FALSE = frozenset({"false", "no", "none", "null", ""})


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Args:
        file: The file.

    Returns:
        Its content.

    Raises:
        WhyboxError: The file cannot be read, or is not JSON.
    """
    try:
        # As bytes: json finds out which UTF it is.
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WhyboxError(f"cannot read {file} as JSON: {error}") from error


def read_id(value: Any) -> str | None:
    """Read the id of an image, an annotation, or a category.

    Args:
        value: A number or a text.

    Returns:
        The id as text, the same for all ways to write one value: 7, 7.0, "7" and "007" are "7". None for what is no id.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    text = str(value).strip()
    if whole := WHOLE.fullmatch(text):
        sign, digits = whole[1], whole[2]
        return f"-{digits}" if sign == "-" and digits != "0" else digits
    return text or None


def id_in(row: Any, key: str) -> str | None:
    """Read an id from an entry of an annotation file.

    Args:
        row: The entry; what is no dict has no ids.
        key: Where the id stands in it.

    Returns:
        As `read_id`.
    """
    return read_id(row.get(key)) if isinstance(row, dict) else None


def read_number(value: Any, what: str) -> float:
    """Read a finite number.

    Args:
        value: A number, or a text that spells one.
        what: What it is the value of, for the error message.

    Returns:
        The number.

    Raises:
        Broken: It is no number, or not finite.
    """
    try:
        number = _spelled(value)
    except (ValueError, OverflowError):
        raise Broken(f"{what} is no number: {shown(value)}") from None
    if not math.isfinite(number):
        raise Broken(f"{what} holds NaN or infinity: {shown(value)}")
    return number


def read_numbers(value: Any, what: str) -> NDArray[np.float64]:
    """Read a flat list of finite numbers.

    Args:
        value: A list of numbers, each of which may be written as text.
        what: What it is the value of, for the error message.

    Returns:
        (N,) the numbers.

    Raises:
        Broken: It is no such list.
    """
    if not isinstance(value, list):
        raise Broken(f"{what} is no list of numbers: {shown(value)}")
    try:
        # Plain lists are converted at once, as a file may hold millions of numbers; type, because True is an int.
        plain = all(type(entry) is int or type(entry) is float for entry in value)
        numbers = np.array(value if plain else [_spelled(entry) for entry in value], dtype=np.float64)
    except (ValueError, OverflowError):
        raise Broken(f"{what} is no list of numbers: {shown(value)}") from None
    if not np.isfinite(numbers).all():
        raise Broken(f"{what} holds NaN or infinity: {shown(value)}")
    return numbers


def _spelled(value: Any) -> float:
    """A number, or a text that spells one, as float; ValueError for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        raise ValueError
    return float(value)


def read_flag(value: Any, what: str) -> bool:
    """Read a yes or no.

    Args:
        value: true, false, a number (0 is no, every other yes), one of these or "yes" or "no" as text, or None for no.
        what: What it is the value of, for the error message.

    Returns:
        Whether it says yes.

    Raises:
        Broken: It says neither.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word in TRUE or word in FALSE:
        return word in TRUE
    try:
        return read_number(value, what) != 0
    except Broken:
        raise Broken(f"{what} must be 0 or 1, got {shown(value)}") from None


def read_box(row: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    """Read a box that is written as [x, y, width, height].

    Args:
        row: An annotation.
        key: The box's key in it.

    Returns:
        (4,) xyxy.

    Raises:
        Broken: There is no box, or it has no area.
    """
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
    """Whether a box has an area in float32, in which it will be kept: a width of 1e-9 vanishes there.

    Args:
        box: (4,) xyxy.

    Returns:
        Whether its sides are finite and above 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x1, y1, x2, y2 = box.astype(np.float32).tolist()
    return bool(0 < x2 - x1 < math.inf and 0 < y2 - y1 < math.inf)
