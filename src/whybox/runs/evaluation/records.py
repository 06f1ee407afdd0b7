"""The folder of an evaluation: one file per image, so that an interrupted run can be resumed."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whybox.errors import WhyboxError
from whybox.files import check_new_folder, file_stem, strict_json, write_whole
from whybox.report.results import Column
from whybox.runs.evaluation.identity import changed
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import tell_apart

MARK = "run.json"
SCHEMA = 1
"""Version of the records' and run.json's format; raised when an older reader would misread them."""


@dataclass(frozen=True)
class RunFolder:
    """A folder with run.json and one file per image in records/, each written completely or not at all.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], columns: Sequence[Column]) -> "RunFolder":
        """Make a new folder, or open that of an earlier run of the same evaluation.

        Args:
            path: A new or empty folder, or that of an earlier run.
            identity: The identity of the run, see `identity`.
            columns: Descriptions of the metrics, stored for readers that do not have the metrics.

        Returns:
            The folder, ready for records.

        Raises:
            WhyboxError: The folder holds another evaluation or other files, or cannot be written.
        """
        mark = path / MARK
        if mark.is_file():
            before = read_mark(path)
            if different := changed(before, identity):
                raise WhyboxError(
                    f"{path}: holds another evaluation, which differs in: {', '.join(different)}; choose another folder"
                )
            return cls._ready(path)
        check_new_folder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WhyboxError(f"{path}: cannot be written ({error.strerror})") from error
        described = [{**vars(column), "range": list(column.range), "needs": sorted(column.needs)} for column in columns]
        content = {"schema": SCHEMA, "kind": "evaluation", **identity, "columns": described}
        # Before records/: of a run that was killed here, the folder with run.json alone is opened again.
        write_whole(mark, strict_json(content, indent=2))
        return cls._ready(path)

    @classmethod
    def _ready(cls, path: Path) -> "RunFolder":
        """The folder with its subfolder records/, which a run that was killed at its start may not have made."""
        (path / "records").mkdir(exist_ok=True)
        return cls(path)

    def keep(self, record: ImageRecord) -> None:
        """Write the record of an image.

        Args:
            record: The result of `Measurer`, or a failure.
        """
        # No time stamp and no file name in the gzip header, so that equal results are equal files.
        packed = gzip.compress(strict_json(record).encode(), 6, mtime=0)
        write_whole(self._file(record["image"]), packed)

    def left(self, images: Sequence[str]) -> list[int]:
        """The images that have yet to be measured; those that failed are tried again.

        Args:
            images: The names of all images.

        Returns:
            Their indices in `images`.
        """
        return [index for index, name in enumerate(images) if (record := self._read(name)) is None or "failed" in record]

    def records(self, images: Sequence[str] | None = None) -> Iterator[ImageRecord]:
        """Read the records, without the pictures and with numbers as arrays, which takes a tenth of the memory.

        Args:
            images: Names of images; None: all that have a record.

        Yields:
            The record of each image that has one, in the given order.
        """
        # In the data set's order, not in that of completion: sums come out the same whatever the engine.
        for index, name in enumerate(self._names() if images is None else images):
            if (record := self._read(name)) is not None:
                # Not the stored index: a data set may have grown since the record was written.
                yield {**_slim(record), "index": index}

    def _names(self) -> list[str]:
        """All images with a record, by their stored index."""
        loaded = (_load(file) for file in (self.path / "records").glob("*.json.gz"))
        return [image for _, image in sorted((record["index"], record["image"]) for record in loaded if record is not None)]

    def picture(self, image: str, row: str, place: int) -> str:
        """Read the stored map of one object.

        Args:
            image: The image's name.
            row: The method's spec.
            place: The object's index in the image.

        Returns:
            The map as `read_picture` takes it.

        Raises:
            WhyboxError: The image has no readable record.
        """
        record = self._read(image)
        if record is None:
            raise WhyboxError(f"{self._file(image)}: missing or damaged; start again to measure this image again")
        text: str = record["rows"][row]["pictures"][place]
        return text

    def _file(self, image: str) -> Path:
        """The image's file, named by the end of its name and a digest: names may be too long or not valid as file names."""
        return self.path / "records" / f"{file_stem(image)[-40:]}-{hashlib.sha256(image.encode()).hexdigest()[:12]}.json.gz"

    def _read(self, image: str) -> ImageRecord | None:
        return _load(self._file(image))


def _load(file: Path) -> ImageRecord | None:
    """The record in a file; None if it is missing or damaged, so that the image is measured again."""
    try:
        record: ImageRecord = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return record


def _slim(record: ImageRecord) -> ImageRecord:
    slim = dict(record)
    for part in ("found", "truth"):
        if part in record:
            slim[part] = {name: np.asarray(values) for name, values in record[part].items()}
    rows = {row: {name: kept[name] for name in kept.keys() - {"pictures"}} for row, kept in record.get("rows", {}).items()}
    return slim | {"rows": {row: {**kept, "metrics": _arrays(kept["metrics"])} for row, kept in rows.items()}}


def _arrays(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    # What is not finite stands there as a text, which numpy reads.
    return {
        metric: {name: np.asarray(values, np.float64) for name, values in measured.items()}
        for metric, measured in metrics.items()
    }


def read_mark(path: Path) -> dict[str, Any]:
    """Read the run.json of an evaluation's folder.

    Args:
        path: The folder.

    Returns:
        The identity of the run, its schema and its metrics.

    Raises:
        WhyboxError: The file is missing or damaged, or of another kind or schema.
    """
    try:
        mark = json.loads((path / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WhyboxError(f"{path}: no evaluation, {MARK} is missing; give the folder that `whybox evaluate` wrote") from None
    except (OSError, ValueError) as error:
        raise WhyboxError(f"{path / MARK}: damaged ({error})") from error
    if mark.get("schema") != SCHEMA or mark.get("kind") != "evaluation":
        raise WhyboxError(f"{path}: expected an evaluation of schema {SCHEMA}, got {mark.get('schema')}")
    return dict(mark)


def failures(records: Sequence[ImageRecord]) -> tuple[tuple[str, str], ...]:
    """The images that could not be measured.

    Args:
        records: The images' records.

    Returns:
        (image, reason) of each.
    """
    return tuple((record["image"], record["failed"]) for record in records if "failed" in record)


def read_columns(mark: Mapping[str, Any]) -> tuple[Column, ...]:
    """The metrics of an evaluation.

    Args:
        mark: The contents of its run.json.

    Returns:
        The table's columns.
    """
    # Not the stored titles alone: an older version wrote the same one for two settings of a metric.
    named = tell_apart({stored["key"]: stored["title"] for stored in mark["columns"]})
    # JSON has only lists, and an infinite limit stands there as a text.
    types: dict[str, Any] = {"range": lambda limits: tuple(map(float, limits)), "needs": frozenset}
    each = ({name: types.get(name, lambda same: same)(value) for name, value in stored.items()} for stored in mark["columns"])
    return tuple(Column(**column | {"title": named[column["key"]]}) for column in each)
