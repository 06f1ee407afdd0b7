"""Reproduction of the ODAM paper's tables of heat maps: the paper's numbers beside the measured ones."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from whybox import api
from whybox.errors import WhyboxError, unknown
from whybox.files import write_whole
from whybox.metric_choice import make_metric
from whybox.model import Model
from whybox.progress import OnWarning, no_warning
from whybox.report.results import Cell
from whybox.report.table import data_notes, markdown_line
from whybox.runs.attention.people import PEOPLE, people_values
from whybox.runs.evaluation.evaluate import Evaluation, evaluate
from whybox.runs.evaluation.paper_tables import MENDED, METHODS, PAPER, TABLES, TRAINED, Entry, Part, Table
from whybox.runs.evaluation.results import write_json
from whybox.runs.statistics import bootstrap_mean
from whybox.truth import DataSet

CONTROLS = {"Control: blob": "control_blob", "Control: box": "control_box"}
Runs = Mapping[tuple[str, str], Evaluation]
"""Runs by data set and detector: ("data", "model")."""


class Row(NamedTuple):
    """A row of a table: the detector's option, and the method's name with its settings."""

    model: str
    method: str


def table_named(name: str, others: Iterable[str] = ()) -> Table:
    """Find a table by its name.

    Args:
        name: A key of `TABLES`.
        others: Names of tables of other kinds, for the error.

    Returns:
        The table.

    Raises:
        WhyboxError: There is no such table.
    """
    if name not in TABLES:
        raise unknown("table", name, (*TABLES, *others))
    return TABLES[name]


def statement(table: Table) -> str:
    """Describe a table: its title, its source, the data that it needs, its caveats and the paper's numbers.

    Args:
        table: The table.

    Returns:
        Several lines of text.
    """
    lines = [f"{table.name}: {table.title}", f"Source: {PAPER}", ""]
    lines += [f"Needs for {', '.join(entry.title for entry in part.entries)}: {part.needs}." for part in table.parts]
    lines += ["A model: torchvision/fcos_resnet50_fpn with its own COCO weights for COCO, one trained on CrowdHuman for that."]
    if table.trained:
        lines += ["A second one, `trained`: the same detector trained with ODAM-Train."]
    lines += [*table.caveats, "", _markdown(table, {})]
    return "\n".join(lines)


def reproduce(
    table: Table,
    data: Mapping[str, str | DataSet],
    model: str | Model,
    out: str | Path,
    *,
    mended: bool = False,
    masks: int | None = None,
    trained: str | Model | None = None,
    on_warning: OnWarning = no_warning,
    **settings: Any,
) -> str:
    """Compute a table of the paper.

    Args:
        table: One of `TABLES`.
        data: Data sets by part, "data" and "crowd"; a part without data is left out.
        model: As `load` takes it.
        out: A folder with one run per part; interrupted runs are resumed.
        mended: Fix the defects of the reference code: crop the padding, and use D-RISE as in its own paper.
        masks: Number of D-RISE's masks; None: 5000.
        trained: For a table of two detectors, the one that was trained with ODAM-Train.
        on_warning: Called with a line for each problem.
        settings: Further settings of `evaluate`.

    Returns:
        The table as Markdown, with the paper's numbers beside the measured ones.

    Raises:
        WhyboxError: No data is given, or nothing could be measured.
    """
    # Not by truth: a data set without images is false.
    parts = [part for part in table.parts if data.get(part.key) is not None]
    if not parts:
        raise WhyboxError(f"{table.name} needs data: " + "; or ".join(part.needs for part in table.parts))
    if table.trained and trained is None:
        raise WhyboxError(f"{table.name} compares two detectors: give trained, the one that was trained with ODAM-Train")
    rows = _rows(table, mended, masks)
    models = {"model": model, "trained": trained}
    runs: dict[tuple[str, str], Evaluation] = {}
    for part in parts:
        for key in dict.fromkeys(row.model for row in rows.values()):
            network: Any = models[key]
            metrics = tuple(dict.fromkeys(entry.metric for entry in part.entries))
            methods = tuple(row.method for row in rows.values() if row.model == key)
            # A folder each: data set and model are part of a run's identity.
            folder = Path(out) / (part.key if key == "model" else f"{part.key}-{key}")
            run = evaluate(
                network, data[part.key], out=folder, methods=methods, metrics=metrics, on_warning=on_warning, **settings
            )
            _check(run, part, on_warning)
            runs[part.key, key] = run
    if not any(run.report.cells for run in runs.values()):
        reasons = " ".join(remark for run in runs.values() for remark in run.report.remarks)
        raise WhyboxError(f"{table.name}: nothing could be measured. {reasons}")
    people = _of_people(parts, data, runs, int(settings.get("seed", 0))) if table.people else {}
    if table.people and not people:
        on_warning("no object was looked at by two people, or the fixations do not say by whom: no agreement between people")
    problems = list(dict.fromkeys(line for run in runs.values() for line in run.report.problems))
    lines = [_markdown(table, _ours(table, runs, rows) | _in_words(parts, people)), *data_notes(problems)]
    text = "\n".join(lines)
    write_whole(Path(out) / "table.md", "\n".join([f"# {table.title}", "", text, "", *table.caveats, ""]))
    values = [*_plain(table, runs, rows), *_plain_people(parts, people)]
    write_json({"table": table.name, "mended": mended, "problems": problems, "values": values}, Path(out) / "table.json")
    return text


def _of_people(parts: Sequence[Part], data: Mapping[str, str | DataSet], runs: Runs, seed: int) -> dict[tuple[str, str], Cell]:
    """The agreement between people by (title, column title), over those of the table's objects that two people looked at."""
    cells = {}
    for part in parts:
        results, images = runs[part.key, "model"].results, api.open_data(data[part.key])
        metrics = {entry.metric: make_metric(entry.metric) for entry in part.entries if entry.metric in results.columns}
        for how, title in PEOPLE.items():
            values = people_values(images, results.objects, metrics, how=how, seed=seed)
            for entry in part.entries:
                column = values.get(entry.metric, np.empty(0))
                # The methods' objects, so that the rows of a column are of the same ones.
                shared = results.common(entry.metric) & np.isfinite(column) if len(column) else np.zeros(0, dtype=bool)
                if shared.any():
                    mean = bootstrap_mean(column[shared], results.images[shared], seed=seed)
                    cells[title, entry.title] = Cell(*mean, int(shared.sum()))
    return cells


def _in_words(parts: Sequence[Part], cells: Mapping[tuple[str, str], Cell]) -> dict[tuple[str, str], str]:
    scales = {entry.title: entry.scale for part in parts for entry in part.entries}
    return {key: _cell_text(cell, scales[key[1]]) for key, cell in cells.items()}


def _plain_people(parts: Sequence[Part], cells: Mapping[tuple[str, str], Cell]) -> list[dict[str, Any]]:
    scales = {entry.title: entry.scale for part in parts for entry in part.entries}
    return [
        {"method": title, "column": column, "paper": None, "ours": _scaled(cell, scales[column]), "objects": cell.count}
        for (title, column), cell in cells.items()
    ]


def _rows(table: Table, mended: bool, masks: int | None) -> dict[str, Row]:
    methods = dict(MENDED if mended else METHODS)
    if masks is not None:
        methods["D-RISE"] += f":masks={masks}"
    if table.trained:
        return {title: Row(key, methods["ODAM"]) for title, key in TRAINED.items()}
    return {title: Row("model", method) for title, method in methods.items()}


def _check(run: Evaluation, part: Part, on_warning: OnWarning) -> None:
    measured = {column for _, column in run.report.cells}
    if empty := [entry.title for entry in part.entries if entry.metric not in measured]:
        on_warning(f"{', '.join(empty)}: no value; {part.needs}")


def _ours(table: Table, runs: Runs, rows: Mapping[str, Row]) -> dict[tuple[str, str], str]:
    """The measured numbers of methods and controls as text, by (row, column title)."""
    numbers = {}
    for part in table.parts:
        for title, row in {**rows, **{title: Row("model", name) for title, name in CONTROLS.items()}}.items():
            run = runs.get((part.key, row.model))
            for entry in part.entries if run is not None else ():
                assert run is not None
                cell = run.report.cells.get((row.method, entry.metric))
                if cell is not None:
                    numbers[title, entry.title] = _cell_text(cell, entry.scale)
    return numbers


def _cell_text(cell: Cell, scale: float) -> str:
    # An interval of one image has no ends, NaN.
    ends = [f"{scale * end:.4g}" for end in (cell.low, cell.high) if end == end]
    return f"{scale * cell.mean:.4g}" + (f" ({', '.join(ends)})" if ends else "")


def _scaled(cell: Cell, scale: float) -> dict[str, float]:
    return {name: scale * getattr(cell, name) for name in ("mean", "low", "high")}


def _markdown(table: Table, ours: Mapping[tuple[str, str], str]) -> str:
    """The table with every column twice, the paper's number and the measured one with its interval; without `ours` the paper's
    numbers alone."""
    entries = [entry for part in table.parts for entry in part.entries]
    heads = [f"{entry.title} {_arrow(entry)}" for entry in entries]
    published = list(TRAINED if table.trained else METHODS)
    if not ours:
        known = [(entry, head) for entry, head in zip(entries, heads, strict=True) if entry.numbers]
        body = [[title, *(f"{entry.numbers[i]:g}" for entry, _ in known)] for i, title in enumerate(published)]
        return _lines(["method (paper)", *(head for _, head in known)], body)
    columns = [
        text
        for entry, head in zip(entries, heads, strict=True)
        for text in ((f"{head}, paper", "ours") if entry.numbers else (head,))
    ]
    people = [title for title in PEOPLE.values() if any(row == title for row, _ in ours)]
    rows = []
    for i, title in enumerate([*published, *CONTROLS, *people]):
        cells = []
        for entry in entries:
            if entry.numbers:
                cells.append(f"{entry.numbers[i]:g}" if i < len(published) else "")
            cells.append(ours.get((title, entry.title), ""))
        rows.append([title, *cells])
    return _lines(["method", *columns], rows)


def _arrow(entry: Entry) -> str:
    return "↑" if make_metric(entry.metric).higher_is_better else "↓"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _plain(table: Table, runs: Runs, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    values = []
    for part in table.parts:
        if (part.key, "model") not in runs:
            continue
        for entry in part.entries:
            for (title, row), paper in zip(rows.items(), entry.numbers or [None] * len(rows), strict=True):
                cell = runs[part.key, row.model].report.cells.get((row.method, entry.metric))
                ours = None if cell is None else _scaled(cell, entry.scale)
                count = None if cell is None else cell.count
                values.append({"method": title, "column": entry.title, "paper": paper, "ours": ours, "objects": count})
    return values
