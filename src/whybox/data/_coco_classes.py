"""The classes of a COCO file: its categories, in the order of their ids."""

import math
from collections.abc import Sequence
from typing import Any

from whybox.data._fields import read_id
from whybox.data._problems import Problems, shown


def read_classes(categories: Sequence[Any], problems: Problems) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read the classes.

    Categories of one name are one class: models and results know a class by its name.

    Args:
        categories: The file's categories.
        problems: Where what is left out or repaired is noted.

    Returns:
        The class names in the order of their ids, whole numbers first; and the label of each category id, from 0.
    """
    names: dict[str, str] = {}
    for position, category in enumerate(categories, start=1):
        entry = category if isinstance(category, dict) else {}
        number, name = read_id(entry.get("id")), _read_name(entry.get("name"))
        where = f"category number {position}"
        if number is None or name is None:
            problems.note(where, f"must have a number or a word as id, and a name, got {shown(category)}: left out")
        elif number in names:
            problems.note(where, f"{name!r} has the id {number} of {names[number]!r}: left out")
        else:
            names[number] = name
    classes: dict[str, int] = {}
    labels: dict[str, int] = {}
    first_ids: dict[str, str] = {}
    # By id and not in the file's order, so that labels do not depend on how the file was written.
    for number in sorted(names, key=_id_order):
        name = names[number]
        if name in classes:
            problems.note(f"category {name!r}", f"has the ids {first_ids[name]} and {number}: read as one class")
        labels[number] = classes.setdefault(name, len(classes))
        first_ids.setdefault(name, number)
    return tuple(classes), labels


def _read_name(value: Any) -> str | None:
    """A class name; digits may be written as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def _id_order(number: str) -> tuple[float, str]:
    try:
        return float(number), number
    except ValueError:
        return math.inf, number
