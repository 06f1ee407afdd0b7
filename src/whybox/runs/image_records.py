"""A line of JSON per image in a file that an interrupted run goes on with."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.files import write_whole
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.truth import DataSet, Sample


def keep_records(
    file: Path,
    about: Mapping[str, Any],
    data: DataSet,
    record: Callable[[Sample], Mapping[str, Any]],
    *,
    limit: int | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> None:
    """Write a record of each image, after a first line that says what the file is.

    Args:
        file: The file. If it holds some of the images already, the run goes on after them.
        about: What the records depend on; ready for JSON.
        data: Annotated images.
        record: Makes an image's record, with its name as "image"; ready for JSON.
        limit: Use only the first images; None: all.
        on_progress: Called after each image.
        on_warning: Called for an image that cannot be used.

    Raises:
        WhyboxError: The file is of another run.
    """
    done = _resume(file, about)
    with file.open("a", encoding="utf-8") as lines:
        for index in range(min(len(data), limit or len(data))):
            name = f"image {index}"
            try:
                sample = data[index]
                name = sample.name
                if name not in done:
                    lines.write(json.dumps(record(sample), allow_nan=False) + "\n")
                    lines.flush()
            except FATAL:
                raise
            except Exception as error:
                on_warning(f"{name}: {reason_of(error)}")
            on_progress(name, 1)


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that `keep_records` wrote.

    Args:
        file: The file.

    Yields:
        The images' records, in the order of the file.
    """
    with file.open(encoding="utf-8") as lines:
        next(lines)
        yield from map(json.loads, lines)


def _resume(file: Path, about: Mapping[str, Any]) -> set[str]:
    """The images in the file, whose last line is cut off if it is not whole; a new file gets its first line."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(about) + "\n").encode())
        return set()
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_whole(file, whole.encode())
    first, *records = map(json.loads, whole.splitlines())
    if first != about:
        changed = ", ".join(key for key in about if first.get(key) != about[key])
        raise WhyboxError(f"{file} is of a run with another {changed}; choose another folder")
    return {record["image"] for record in records}
