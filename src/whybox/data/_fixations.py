"""Human fixations: a JSON list of {"annotation_id": 7, "fixations": [[x, y, seconds], ...]}, an entry per viewer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.data._fields import read_id, read_json, read_numbers
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError


def read_fixations(file: Path, sizes: Mapping[str, tuple[int, int]], problems: Problems) -> dict[str, NDArray[np.float32]]:
    """Read a file of fixations. A point outside the image is left out, and is a problem.

    Args:
        file: The file.
        sizes: (W,H) in pixels of each annotation's image, by annotation id.
        problems: Gets a line per entry that cannot be used.

    Returns:
        By annotation id: (F,3) x, y in image pixels and seconds; those of all viewers together.

    Raises:
        WhyboxError: The file cannot be read, or is no list.
    """
    content = read_json(file)
    if not isinstance(content, list):
        raise WhyboxError(f'{file} is no list of fixations: expected [{{"annotation_id": 7, "fixations": [[x, y, seconds]]}}]')
    joined: dict[str, list[NDArray[np.float32]]] = {}
    for position, entry in enumerate(content, start=1):
        try:
            name, points = _read_entry(entry, sizes)
        except Broken as reason:
            problems.note(f"entry {position}", reason, file)
            continue
        inside = ((points[:, :2] >= 0) & (points[:, :2] < sizes[name])).all(1)
        if not inside.all():
            outside = f"{(~inside).sum()} of {len(points)} fixations lie outside the image and are left out"
            problems.note(f"entry {position} (annotation {name})", outside, file)
        if inside.any():
            joined.setdefault(name, []).append(points[inside])
    return {name: np.concatenate(parts) for name, parts in joined.items()}


def _read_entry(entry: Any, sizes: Mapping[str, tuple[int, int]]) -> tuple[str, NDArray[np.float32]]:
    if not isinstance(entry, dict) or not {"annotation_id", "fixations"} <= entry.keys():
        raise Broken(f"expected annotation_id and fixations, got {shown(entry)}")
    name = read_id(entry["annotation_id"])
    if name is None or name not in sizes:
        raise Broken(f"annotation {shown(entry['annotation_id'])} is not in the data set, or was left out")
    if not isinstance(entry["fixations"], list):
        raise Broken(f"fixations of annotation {name} must be a list of [x, y, seconds], got {shown(entry['fixations'])}")
    rows = [read_numbers(row, f"a fixation of annotation {name}") for row in entry["fixations"]]
    if wrong := [row.tolist() for row in rows if len(row) != 3 or row[2] < 0]:
        raise Broken(f"a fixation of annotation {name} must be [x, y, seconds], got {shown(wrong[0])}")
    # The reshape is for viewers without a fixation.
    return name, np.asarray(rows, dtype=np.float32).reshape(-1, 3)
