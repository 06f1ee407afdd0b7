"""Answers of a study on trust as a table: who, about which object, which method's map, and its rank or score."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from whybox.errors import WhyboxError
from whybox.files import one_line

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "person": ("person", "participant"),
    "item": ("item", "annotation_id", "annotation"),
    "image": ("image",),
    "method": ("method", "condition"),
    "rank": ("rank",),
    "score": ("score", "trust"),
    "respondents": ("respondents", "simulated"),
}
"""A column's names; `whybox study` writes person, item, condition and rank."""
SIMULATED = frozenset({"simulated", "true", "1", "yes"})


class Answer(NamedTuple):
    """One judged map; trust is higher for a map that is trusted more."""

    person: str
    image: str
    item: str
    method: str
    trust: float


@dataclass(frozen=True)
class Answers:
    """The answers of a study.

    Attributes:
        rows: One per judged map.
        scale: What `trust` is: "rank" or "score".
        simulated: Whether any of the respondents is a simulated one.
    """

    rows: Sequence[Answer]
    scale: str
    simulated: bool


def read_answers(file: Path) -> Answers:
    """Read a CSV file of answers.

    Args:
        file: With the columns person (or participant), item, method (or condition), and rank (1 for the most trusted) or score
            (higher for more trust); optionally image.

    Returns:
        The answers. A rank r among the k maps that a person saw of an item becomes the trust k + 1 - r.

    Raises:
        WhyboxError: The file cannot be read, lacks a column, has a line without a number, or ranks one map twice.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WhyboxError(f"{file}: cannot be read ({one_line(error)})") from error
    head = list(lines[0]) if lines else []
    columns = {key: name for key, names in COLUMNS.items() for name in names[::-1] if name in head}
    missing = [key for key in ("person", "item", "method") if key not in columns]
    missing += [] if {"rank", "score"} & columns.keys() else ["rank or score"]
    if missing:
        expected = "expected a table with the columns person, item, method and rank or score, and a line for each judged map"
        raise WhyboxError(f"{file}: {expected}; lacks {', '.join(missing)}")
    scale = "rank" if "rank" in columns else "score"
    texts = [{key: str(line[name] or "").strip() for key, name in columns.items()} for line in lines]
    numbers = [_number(text[scale], file, place) for place, text in enumerate(texts, start=2)]
    simulated = any(text.get("respondents", "").lower() in SIMULATED for text in texts)
    rows = [
        Answer(text["person"], text.get("image", ""), text["item"], text["method"], number)
        for text, number in zip(texts, numbers, strict=True)
    ]
    return Answers(_turned(rows, file) if scale == "rank" else rows, scale, simulated)


def _number(text: str, file: Path, place: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise WhyboxError(f"{file}: line {place}: a rank or score must be a number, got {text!r}")
    return number


def _turned(rows: Sequence[Answer], file: Path) -> list[Answer]:
    """Ranks, the best of which is 1, as trust."""
    # The rank says nothing where it is not known among how many.
    if twice := [key for key, count in Counter(row[:4] for row in rows).items() if count > 1]:
        person, _, item, method = twice[0]
        raise WhyboxError(f"{file}: {person!r} ranked the map of {method!r} for item {item!r} more than once")
    counts: dict[tuple[str, str, str], int] = {}
    for row in rows:
        counts[row[:3]] = counts.get(row[:3], 0) + 1
    return [row._replace(trust=counts[row[:3]] + 1 - row.trust) for row in rows]
