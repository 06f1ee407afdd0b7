"""The folder of a scored model: run.json, and for every task a file with a line for each image, so that a run can go on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError
from whybox.files import check_new_folder, one_line, strict_json, write_whole
from whybox.runs.evaluation.identity import changed

MARK = "run.json"
KIND = "clip scores"
SCHEMA = 1
"""Raised when an older reader would misread the files."""
TASKS = ("regions", "retrieval", "classification")
MAY_DIFFER = ("data", "stuff")
"""Parts of run.json that are no part of a run's identity: the name of a data set holds its length, which may grow."""

Record = dict[str, Any]


class ScoreFolder:
    """The records of a run by task and image, in memory and, where there is a folder, in its files.

    Attributes:
        path: The folder; None: nothing is kept.
        mark: The contents of run.json.
        records: Records by task and image.
    """

    def __init__(self, path: Path | None, mark: Mapping[str, Any], records: dict[str, dict[str, Record]]) -> None:
        self.path, self.mark, self.records = path, mark, records

    @classmethod
    def open(cls, path: Path | None, identity: Mapping[str, Any]) -> "ScoreFolder":
        """Make a new folder, or go on in that of an earlier run with the same model and data.

        Args:
            path: The folder; None: keep the records in memory alone.
            identity: What makes the numbers.

        Returns:
            The folder with the records that it has already.

        Raises:
            WhyboxError: The folder holds another run or other files, or cannot be written.
        """
        mark = {"schema": SCHEMA, "kind": KIND, **identity}
        if path is None:
            return cls(None, mark, {task: {} for task in TASKS})
        if (path / MARK).is_file():
            before = cls.read(path)
            fixed = {name: value for name, value in mark.items() if name not in MAY_DIFFER}
            if different := changed(before.mark, fixed):
                names = ", ".join(different)
                raise WhyboxError(f"{path}: holds the scores of another run, which differs in: {names}; choose another folder")
            before._mend()
        else:
            check_new_folder(path)
            before = cls(path, mark, {task: {} for task in TASKS})
        write_whole(path / MARK, strict_json(mark, indent=2))
        return cls(path, mark, before.records)

    @classmethod
    def read(cls, path: Path) -> "ScoreFolder":
        """Read the folder of a run.

        Args:
            path: The folder.

        Returns:
            Its records.

        Raises:
            WhyboxError: It is no such folder.
        """
        try:
            mark = json.loads((path / MARK).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WhyboxError(f"{path}: no scores, {MARK} is missing; give a folder that whybox score-clip wrote") from None
        except (OSError, ValueError) as error:
            raise WhyboxError(f"{path / MARK}: damaged ({error})") from error
        if not isinstance(mark, dict) or (mark.get("kind"), mark.get("schema")) != (KIND, SCHEMA):
            raise WhyboxError(f"{path}: holds no scores of whybox score-clip of schema {SCHEMA}")
        return cls(path, mark, {task: _read_lines(path / f"{task}.jsonl") for task in TASKS})

    def _mend(self) -> None:
        """Write files anew whose last line a killed run left unfinished: the next line would be joined to it."""
        for task, records in self.records.items():
            assert self.path is not None
            file = self.path / f"{task}.jsonl"
            if file.is_file() and not file.read_bytes().endswith(b"\n") and file.stat().st_size:
                write_whole(file, "".join(strict_json(record) + "\n" for record in records.values()))

    def keep(self, task: str, record: Record) -> None:
        """Add the record of an image.

        Args:
            task: One of `TASKS`.
            record: With the image's name under "image"; a later record of an image replaces an earlier one.
        """
        self.records[task][record["image"]] = record
        if self.path is not None:
            file = self.path / f"{task}.jsonl"
            try:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(strict_json(record) + "\n")
            except OSError as error:
                raise WhyboxError(f"{file}: cannot be written ({one_line(error)})") from error

    def of(self, task: str, images: Sequence[str] | None = None) -> list[Record]:
        """The records of a task.

        Args:
            task: One of `TASKS`.
            images: Names of images; None: all.

        Returns:
            Those of the images that have one, in the given order.
        """
        known = self.records[task]
        return [known[name] for name in (known if images is None else images) if name in known]


def _read_lines(file: Path) -> dict[str, Record]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WhyboxError(f"{file}: cannot be read ({one_line(error)})") from error
    records = {}
    for line in lines:
        try:
            record = json.loads(line)
            records[record["image"]] = record
        # What a killed run left unfinished; the image is scored again.
        except (ValueError, KeyError, TypeError):
            continue
    return records
