"""Reproduction of the ODAM paper's tables on distillation: the paper's numbers beside those of detectors that you trained."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whybox import api
from whybox.accuracy.coco import CocoAP, coco_ap
from whybox.errors import WhyboxError, unknown
from whybox.files import file_stem, json_text, write_whole
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.report.table import markdown_line
from whybox.runs.distillation.paper_tables import LAUNCH, NEEDS, StudentRow, StudentTable
from whybox.runs.evaluation.identity import weights_digest
from whybox.runs.evaluation.paper_tables import PAPER
from whybox.runs.image_records import keep_records, read_records
from whybox.runs.labels import check_columns, column_names, match_classes, to_columns
from whybox.truth import DataSet, Sample


def student_statement(table: StudentTable) -> str:
    """Describe a table: its title, its source, what it needs, its caveats, the command of each row and the paper's numbers.

    Args:
        table: The table.

    Returns:
        Several lines of text.
    """
    lines = [f"{table.name}: {table.title}", f"Source: {PAPER}", "", f"Needs: {NEEDS}.", *table.caveats, "", "Commands:"]
    lines += [f"  {row.key}: {LAUNCH} {row.words}" for row in table.rows if row.words]
    rows = [[row.key, row.title, *_cells(table, row.numbers)] for row in table.rows]
    return "\n".join([*lines, "", _lines(["key", "row (paper)", *table.columns.values()], rows)])


def parse_rows(table: StudentTable, texts: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """The detectors of a table's rows.

    Args:
        table: The table.
        texts: "KEY=MODEL" or "KEY=MODEL@WEIGHTS", one per row.

    Returns:
        The model's name and its file of weights, or None, by the row's key.

    Raises:
        UnknownNameError: The table has no such row.
        WhyboxError: A text is none of this form, a row comes twice, or there are none.
    """
    keys = [row.key for row in table.rows]
    found: dict[str, tuple[str, str | None]] = {}
    for text in texts:
        key, _, detector = text.partition("=")
        model, _, weights = detector.partition("@")
        if not key or not model:
            raise WhyboxError(f"--row takes KEY=MODEL or KEY=MODEL@WEIGHTS, got {text!r}")
        if key not in keys:
            raise unknown(f"row of {table.name}", key, keys)
        if key in found:
            raise WhyboxError(f"--row {key} is given twice")
        found[key] = model, weights or None
    if not found:
        raise WhyboxError(f"{table.name}: no detectors; pass --row KEY=MODEL for each row that you trained")
    return found


def reproduce_students(
    table: StudentTable,
    data: DataSet,
    models: Mapping[str, Model],
    out: Path,
    *,
    limit: int | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> str:
    """Evaluate detectors and put their numbers beside the paper's.

    Args:
        table: One of `STUDENT_TABLES`.
        data: Annotated images that none of the detectors was trained on.
        models: Detectors by the key of their row.
        out: A folder for what each detector finds in each image; an interrupted run in it is resumed.
        limit: Use only the first images; None: all.
        on_progress: Called after each image of each detector.
        on_warning: Called with a line for each problem.

    Returns:
        The table as Markdown.

    Raises:
        WhyboxError: A folder of another run, a model that is no detector, or one that knows none of the data's classes.
    """
    calls: dict[str, Any] = {"limit": limit, "on_progress": on_progress, "on_warning": on_warning}
    measured: dict[str, CocoAP] = {}
    for key, model in models.items():
        if model.whole_image:
            raise WhyboxError(f"row {key}: {model.name} finds no boxes; expected a detector")
        for line in match_classes(model, data):
            on_warning(line)
        file = out / f"detections-{file_stem(key)}.jsonl"
        about = {"model": [*model.identity, weights_digest(model)], "data": data.name, "digest": getattr(data, "digest", "")}
        keep_records(file, about, data, lambda sample, model=model: _record(model, data, sample), **calls)  # type: ignore[misc]
        measured[key] = _measures(file, column_names(model, data.classes))
    text = _markdown(table, measured)
    write_whole(out / "table.md", "\n".join([f"# {table.title}", "", text, "", *table.caveats, ""]).encode())
    values = [_plain(table, row, measured.get(row.key)) for row in table.rows]
    write_whole(out / "table.json", json_text({"table": table.name, "data": data.name, "values": values}).encode())
    return text


def _record(model: Model, data: DataSet, sample: Sample) -> dict[str, Any]:
    """What the network itself finds, and what is there; labels are the model's columns."""
    trace = api.trace(model, sample.image)
    check_columns(model, trace.candidates.scores.shape[1], data)
    found = trace.detections
    truth = to_columns(sample.truth, data.classes, model.classes, first_column=model.first_column)
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    areas = sides.prod(1) if truth.masks is None else truth.masks.sum((1, 2))
    objects = {"boxes": truth.boxes.tolist(), "labels": truth.labels.tolist(), "area": areas.tolist()}
    objects["iscrowd"] = truth.ignore.int().tolist()
    columns = {"boxes": found.boxes.tolist(), "scores": found.scores.tolist(), "labels": found.labels.tolist()}
    return {"image": sample.name, "found": columns, "truth": objects}


def _measures(file: Path, columns: Sequence[str]) -> CocoAP:
    records = list(read_records(file))
    if not records:
        raise WhyboxError(f"{file}: no image could be measured")
    return coco_ap([record["found"] for record in records], [record["truth"] for record in records], columns)


def _ours(table: StudentTable, found: CocoAP) -> list[float]:
    return [100 * getattr(found, field) for field in table.columns]


def _cells(table: StudentTable, numbers: Sequence[float]) -> list[str]:
    """The paper's numbers; it has not all of a teacher's."""
    return [f"{number:.1f}" for number in numbers] + [""] * (len(table.columns) - len(numbers))


def _markdown(table: StudentTable, measured: Mapping[str, CocoAP]) -> str:
    rows = []
    for row in table.rows:
        ours = [""] * len(table.columns)
        if row.key in measured:
            ours = [f"{value:.1f}" if math.isfinite(value) else "none" for value in _ours(table, measured[row.key])]
        pairs = zip(_cells(table, row.numbers), ours, strict=True)
        rows.append([row.key, row.title, *(cell for pair in pairs for cell in pair)])
    heads = [text for title in table.columns.values() for text in (f"{title}, paper", "ours")]
    return _lines(["key", "row", *heads], rows)


def _plain(table: StudentTable, row: StudentRow, found: CocoAP | None) -> dict[str, Any]:
    titles = tuple(table.columns.values())
    ours = None if found is None else dict(zip(titles, _ours(table, found), strict=True))
    return {"key": row.key, "row": row.title, "paper": dict(zip(titles, row.numbers, strict=False)), "ours": ours}


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_line(cells) for cells in (head, ["---"] * len(head), *rows))
