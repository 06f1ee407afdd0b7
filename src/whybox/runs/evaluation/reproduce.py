"""Reproduction of the ODAM paper's tables: the data and protocol of each, and the paper's numbers beside the measured ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError, unknown
from whybox.files import write_whole
from whybox.metric_choice import make_metric
from whybox.metrics import deletion, insertion
from whybox.model import Model
from whybox.progress import OnWarning, no_warning
from whybox.report.table import markdown_line
from whybox.runs.evaluation.evaluate import Evaluation, evaluate
from whybox.runs.evaluation.results import write_json
from whybox.specs import format_spec
from whybox.truth import DataSet

PAPER = (
    "Zhao, Hsiao, Chan: Gradient-based Instance-Specific Visual Explanations for Object Specification and Object Discrimination"
)

_PADDED = {"crop_padding": False}
METHODS: Mapping[str, str] = {
    "Grad-CAM": format_spec("gradcam", _PADDED),
    "Grad-CAM++": format_spec("gradcam_pp", _PADDED),
    "D-RISE": format_spec("drise", {"canvas": 1343, "objectness": False}),
    "ODAM": format_spec("odam", _PADDED),
}
"""The paper's rows, with the settings of its reference implementation: maps stretched with their padding, D-RISE without
objectness and with masks cut out of a square of 1343 pixels."""
MENDED: Mapping[str, str] = {"Grad-CAM": "gradcam", "Grad-CAM++": "gradcam_pp", "D-RISE": "drise", "ODAM": "odam"}
"""The same methods without the defects of the reference code: the padding is cropped, and D-RISE is as in its own paper."""


@dataclass(frozen=True)
class Entry:
    """One column of a table.

    Attributes:
        title: The column's title.
        metric: The metric's name with its settings.
        numbers: The paper's numbers, in the order of `METHODS`.
        scale: Factor from the metric's unit to the paper's, 100 for per cent.
    """

    title: str
    metric: str
    numbers: tuple[float, float, float, float]
    scale: float = 1.0


@dataclass(frozen=True)
class Part:
    """The columns of one data set.

    Attributes:
        key: The data set's option on the command line.
        needs: The data set and its folder's layout, as a phrase.
        entries: The columns.
    """

    key: str
    needs: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        parts: Its columns by data set.
        caveats: Sentences on what cannot be the same as in the paper.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    caveats: tuple[str, ...] = ()


_COCO = (
    "COCO 2017: a folder with annotations/instances_val2017.json and the images in val2017/; give data coco:FOLDER:split=val2017"
)
_CROWD = "CrowdHuman: a folder with annotation_val.odgt and the images in Images/; give crowd crowdhuman:FOLDER:split=val"
_GAZE = (
    "COCO 2017 as above, and where people looked: a JSON file of fixations by annotation (the page on data sets says its "
    "form); give data coco:FOLDER:split=val2017:fixations=FILE.json"
)
_DETECTOR = (
    "The paper's FCOS has an IoU branch and its own label assignment; its weights are not available. torchvision's FCOS "
    "has a centerness branch: numbers of another detector, by the same protocol."
)
_AREA = "The rule for the area under the curves is not published: the trapezoid over the 11 points is used."
_ODI = "The reference code counts an image with one object as 0, and so does this table."
_CROWD_CAVEAT = "For CrowdHuman the paper gives numbers and no code: full boxes are used, and what is to be ignored is left out."

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "odam-table1",
            "Faithfulness: AUC of deletion, insertion and visual explanation accuracy",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("Del", format_spec("deletion", deletion.PAPER), (92.79, 92.52, 73.35, 72.68), 100),
                        Entry("Ins", format_spec("insertion", insertion.PAPER), (36.78, 36.18, 43.35, 50.33), 100),
                        Entry("VEA", "vea", (0.039, 0.027, 0.157, 0.163)),
                    ),
                ),
            ),
            (_DETECTOR, _AREA),
        ),
        Table(
            "odam-table2",
            "Localization: pointing game, energy inside, compactness",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        # ties=first: the reference code takes the first pixel of a peak.
                        Entry("PG box", "pointing_game:ties=first", (26.7, 26.6, 82.6, 91.9), 100),
                        Entry("PG mask", "pointing_game:region=mask:ties=first", (22.5, 20.2, 68.0, 82.6), 100),
                        Entry("enPG box", "energy_pointing_game", (20.7, 20.0, 17.4, 73.1), 100),
                        Entry("enPG mask", "energy_pointing_game:region=mask", (15.0, 14.8, 12.0, 57.1), 100),
                        Entry("Comp", "compactness", (4.34, 4.91, 5.17, 1.36)),
                    ),
                ),
                Part(
                    "crowd",
                    _CROWD,
                    (
                        Entry("CH PG box", "pointing_game:ties=first", (15.7, 15.4, 1.5, 95.5), 100),
                        Entry("CH enPG box", "energy_pointing_game", (9.7, 11.4, 1.7, 79.5), 100),
                        Entry("CH Comp", "compactness", (3.99, 3.84, 3.53, 1.04)),
                    ),
                ),
            ),
            (_DETECTOR, _CROWD_CAVEAT),
        ),
        Table(
            "odam-table3",
            "Discrimination: object discrimination index, in per cent",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("ODI box", "odi:single=zero", (77.0, 77.3, 71.0, 34.8), 100),
                        Entry("ODI mask", "odi:region=mask:single=zero", (72.7, 73.2, 66.3, 19.5), 100),
                    ),
                ),
                Part("crowd", _CROWD, (Entry("CH ODI box", "odi:single=zero", (91.4, 92.0, 95.3, 56.9), 100),)),
            ),
            (_DETECTOR, _ODI, _CROWD_CAVEAT),
        ),
        Table(
            "odam-table6",
            "Agreement with human attention",
            (
                Part(
                    "data",
                    _GAZE,
                    (
                        Entry("Cos", "attention_cosine", (0.1802, 0.2242, 0.4142, 0.4627)),
                        Entry("Corr x 1000", "attention_correlation", (0.467, 0.674, 0.438, 2.876), 1000),
                        Entry("OTD", "attention_distance", (0.2483, 0.2225, 0.1315, 0.0653)),
                        Entry("JSD", "attention_divergence", (0.5216, 0.5051, 0.3902, 0.3180)),
                    ),
                ),
            ),
            (
                _DETECTOR,
                "The paper's fixations are not public, and it does not define its four measures; ours are on their pages. Its "
                "correlation is of another size than Pearson's r can be.",
            ),
        ),
    )
}


def table_named(name: str) -> Table:
    """Find a table by its name.

    Args:
        name: A key of `TABLES`.

    Returns:
        The table.

    Raises:
        WhyboxError: There is no such table.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
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
    rows = _methods(mended, masks)
    runs = {}
    for part in parts:
        metrics = tuple(dict.fromkeys(entry.metric for entry in part.entries))
        # A folder each: the data set is part of a run's identity.
        folder = Path(out) / part.key
        run = evaluate(
            model, data[part.key], out=folder, methods=tuple(rows.values()), metrics=metrics, on_warning=on_warning, **settings
        )
        _check(run, part, on_warning)
        runs[part.key] = run
    if not any(run.report.cells for run in runs.values()):
        reasons = " ".join(remark for run in runs.values() for remark in run.report.remarks)
        raise WhyboxError(f"{table.name}: nothing could be measured. {reasons}")
    text = _markdown(table, _ours(table, runs, rows))
    write_whole(Path(out) / "table.md", "\n".join([f"# {table.title}", "", text, "", *table.caveats, ""]))
    write_json({"table": table.name, "mended": mended, "values": _plain(table, runs, rows)}, Path(out) / "table.json")
    return text


def _methods(mended: bool, masks: int | None) -> dict[str, str]:
    rows = dict(MENDED if mended else METHODS)
    if masks is not None:
        rows["D-RISE"] += f":masks={masks}"
    return rows


def _check(run: Evaluation, part: Part, on_warning: OnWarning) -> None:
    measured = {column for _, column in run.report.cells}
    if empty := [entry.title for entry in part.entries if entry.metric not in measured]:
        on_warning(f"{', '.join(empty)}: no value; {part.needs}")


def _ours(table: Table, runs: Mapping[str, Evaluation], rows: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """The measured numbers as text, by (row, column title); the controls are among the rows."""
    numbers = {}
    for part in table.parts:
        run = runs.get(part.key)
        for entry in part.entries if run is not None else ():
            assert run is not None
            for title, row in {**rows, "Control: blob": "control_blob", "Control: box": "control_box"}.items():
                cell = run.report.cells.get((row, entry.metric))
                if cell is not None:
                    # An interval of one image has no ends, NaN.
                    ends = [f"{entry.scale * end:.4g}" for end in (cell.low, cell.high) if end == end]
                    interval = f" ({', '.join(ends)})" if ends else ""
                    numbers[title, entry.title] = f"{entry.scale * cell.mean:.4g}{interval}"
    return numbers


def _markdown(table: Table, ours: Mapping[tuple[str, str], str]) -> str:
    """The table with every column twice, the paper's number and the measured one with its interval; without `ours` once."""
    entries = [entry for part in table.parts for entry in part.entries]
    heads = [f"{entry.title} {_arrow(entry)}" for entry in entries]
    if not ours:
        body = [[title, *(f"{entry.numbers[i]:g}" for entry in entries)] for i, title in enumerate(METHODS)]
        return _lines(["method (paper)", *heads], body)
    columns = [text for head in heads for text in (f"{head}, paper", "ours")]
    titles: Sequence[str] = [*METHODS, "Control: blob", "Control: box"]
    rows = []
    for i, title in enumerate(titles):
        cells = []
        for entry in entries:
            cells += [f"{entry.numbers[i]:g}" if i < len(METHODS) else "", ours.get((title, entry.title), "")]
        rows.append([title, *cells])
    return _lines(["method", *columns], rows)


def _arrow(entry: Entry) -> str:
    return "↑" if make_metric(entry.metric).higher_is_better else "↓"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _plain(table: Table, runs: Mapping[str, Evaluation], rows: Mapping[str, str]) -> list[dict[str, Any]]:
    values = []
    for part in table.parts:
        if part.key not in runs:
            continue
        for entry in part.entries:
            for title, paper in zip(METHODS, entry.numbers, strict=True):
                cell = runs[part.key].report.cells.get((rows[title], entry.metric))
                ours = None if cell is None else {name: entry.scale * getattr(cell, name) for name in ("mean", "low", "high")}
                count = None if cell is None else cell.count
                values.append({"method": title, "column": entry.title, "paper": paper, "ours": ours, "objects": count})
    return values
