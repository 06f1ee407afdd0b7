"""The folder of an evaluation: one file per image, so that an interrupted run can be resumed."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whybox.errors import WhyboxError
from whybox.files import check_new_folder, file_stem, write_whole
from whybox.report.results import Column
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import changed

MARK = "run.json"
SCHEMA = 1
"""Of the records and of run.json; it rises when a reader of the former ones would misread them."""


@dataclass(frozen=True)
class RunFolder:
    """A folder with run.json and one file per image in records/, each of them written whole or not at all."""

    path: Path

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], columns: Sequence[Column]) -> "RunFolder":
        """A new folder, or the one in which the same evaluation was begun; an error where another was. columns: the metrics,
        for whoever reads the folder without having them."""
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
        described = [{**vars(one), "range": list(one.range), "needs": sorted(one.needs)} for one in columns]
        content = {"schema": SCHEMA, "kind": "evaluation", **identity, "columns": described}
        write_whole(mark, json.dumps(content, indent=2))
        return cls._ready(path)

    @classmethod
    def _ready(cls, path: Path) -> "RunFolder":
        """With its records' folder, which a run that was killed at its very beginning may not have made."""
        (path / "records").mkdir(exist_ok=True)
        return cls(path)

    def keep(self, record: ImageRecord) -> None:
        """Write what is known of an image."""
        # No time stamp and no name inside, so that equal results are equal files.
        packed = gzip.compress(json.dumps(record, separators=(",", ":")).encode(), 6, mtime=0)
        write_whole(self._file(record["image"]), packed)

    def left(self, images: Sequence[str]) -> list[int]:
        """Places of the images that have yet to be measured; those that failed are tried again."""
        return [place for place, name in enumerate(images) if (record := self._read(name)) is None or "failed" in record]

    def records(self, images: Sequence[str] | None = None) -> Iterator[ImageRecord]:
        """What is known of the images, in their order, or of all; without the pictures, with numbers as arrays: ten times
        smaller so. An image's index is its place among those given, since a data set may grow between two starts of a run."""
        for place, name in enumerate(self._names() if images is None else images):
            if (record := self._read(name)) is not None:
                yield {**_slim(record), "index": place}

    def _names(self) -> list[str]:
        """All images that are known, in the order in which they had their places."""
        loaded = (_load(file) for file in (self.path / "records").glob("*.json.gz"))
        return [image for _, image in sorted((record["index"], record["image"]) for record in loaded if record is not None)]

    def picture(self, image: str, row: str, place: int) -> str:
        """The kept map of one object of an image, as `read_picture` takes it."""
        record = self._read(image)
        if record is None:
            raise WhyboxError(f"{self._file(image)}: gone or damaged; start again to measure this image once more")
        text: str = record["rows"][row]["pictures"][place]
        return text

    def _file(self, image: str) -> Path:
        """After the image's name, shortened, and a digest of it: names may be long, or differ in what file names cannot."""
        return self.path / "records" / f"{file_stem(image)[-40:]}-{hashlib.sha256(image.encode()).hexdigest()[:12]}.json.gz"

    def _read(self, image: str) -> ImageRecord | None:
        return _load(self._file(image))


def _load(file: Path) -> ImageRecord | None:
    """None where there is no file, or where it is damaged: then it is measured again."""
    try:
        record: ImageRecord = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError):
        return None
    return record


def _slim(record: ImageRecord) -> ImageRecord:
    slim = dict(record)
    for part in ("found", "truth"):
        if part in record:
            slim[part] = {name: np.asarray(values) for name, values in record[part].items()}
    rows = record.get("rows", {}).items()
    return slim | {"rows": {row: {"seconds": one["seconds"], "metrics": _arrays(one["metrics"])} for row, one in rows}}


def _arrays(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {metric: {name: np.asarray(values, np.float64) for name, values in found.items()} for metric, found in metrics.items()}


def read_mark(path: Path) -> dict[str, Any]:
    """The run.json of an evaluation's folder."""
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
    """(image, reason) of those that could not be measured."""
    return tuple((record["image"], record["failed"]) for record in records if "failed" in record)


def read_columns(mark: Mapping[str, Any]) -> tuple[Column, ...]:
    """The metrics of an evaluation, as its run.json describes them."""
    ends = {"range": tuple, "needs": frozenset}
    each = ({name: ends.get(name, lambda same: same)(value) for name, value in one.items()} for one in mark["columns"])
    return tuple(Column(**one) for one in each)
