"""Comparison of two evaluations on the objects that both measured: paired differences, intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.errors import WhyboxError
from whybox.files import new_folder
from whybox.ops.corrections import holm
from whybox.report.comparison import SIGNIFICANT, Comparison, Pair, Side, comparison_markdown, write_comparison
from whybox.report.results import Cell, Column, Key, Row
from whybox.runs.evaluation.plan import CONTROLS, titles
from whybox.runs.evaluation.records import RunFolder, read_columns, read_mark
from whybox.runs.evaluation.results import Results, gather, write_json
from whybox.runs.statistics import bootstrap_mean, paired_difference

Pairs = Mapping[str, tuple[str, str]]
"""By a row's key: the method of the first run, and the method of the second run that it is compared with."""

Link = tuple[str, str]
"""(image, object): the object is the annotation's id, or the detection's class and rounded box where it has none."""


@dataclass(frozen=True)
class MeasuredRun:
    """One evaluation, read from its folder.

    Attributes:
        folder: The folder of the run.
        mark: The contents of run.json.
        results: The measured values.
    """

    folder: Path
    mark: Mapping[str, Any]
    results: Results


def compare(
    a: str | Path,
    b: str | Path,
    *,
    out: str | Path | None = None,
    methods: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the objects that both measured: the mean difference b - a, its interval and its p-value.

    The test flips the signs of all differences of an image together; p-values are corrected for all pairs (Holm). To
    compare two methods of one run, give its folder twice.

    Args:
        a: The first run's folder, written by `evaluate`.
        b: The second run's folder.
        out: A new folder for the page, the table and the numbers; None: nothing is written.
        methods: Pairs (method of a, method of b) to compare; None: every method of both runs with itself.
        seed: Of the bootstrap and of the permutation test.

    Returns:
        The means of both runs, their differences and the p-values, by pair of methods and metric.

    Raises:
        WhyboxError: A folder without an evaluation, runs on different data, or no method, metric or object in common.
    """
    if type(seed) is not int or seed < 0:
        raise WhyboxError(f"seed must be a whole number from 0 on, got {seed!r}")
    first, second = read_run(Path(a)), read_run(Path(b))
    pairs = _pairs(methods) or {row: (row, row) for row in first.results.rows if row in second.results.rows}
    _check(first, second, pairs)
    columns = [column for column in read_columns(first.mark) if column.key in second.results.columns]
    if not columns:
        raise WhyboxError(f"{first.folder} and {second.folder} have no metric in common")
    comparison = _compare(first, second, pairs, columns, seed)
    if out is not None:
        _write(comparison, Path(out))
    return comparison


def _pairs(methods: Any) -> dict[str, tuple[str, str]]:
    """The pairs by the key of their row: the method, or both where they differ."""
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else (pair,) for pair in methods or ()]
    # A string is a sequence of strings, too.
    if isinstance(methods, str) or any(len(pair) != 2 or not all(isinstance(name, str) for name in pair) for pair in pairs):
        raise WhyboxError(f"methods must be pairs of names, such as [('odam', 'gradcam')], got {methods!r}")
    return {a if a == b else f"{a}={b}": (a, b) for a, b in pairs}


def read_run(folder: Path) -> MeasuredRun:
    """Read the folder of an evaluation.

    Args:
        folder: As written by `evaluate`.

    Returns:
        Its plan and its values.

    Raises:
        WhyboxError: It holds no evaluation.
    """
    mark = read_mark(folder)
    records = list(RunFolder(folder).records())
    rows = tuple(dict.fromkeys(row for record in records for row in record.get("rows", ())))
    columns = tuple(column.key for column in read_columns(mark))
    return MeasuredRun(folder, mark, gather(records, rows, columns, None))


def _check(first: MeasuredRun, second: MeasuredRun, pairs: Pairs) -> None:
    for side, run in enumerate((first, second)):
        known = run.results.rows
        for row in (pair[side] for pair in pairs.values()):
            if row not in known:
                raise WhyboxError(f"{run.folder}: has no method {row!r}; it has {', '.join(known)}")
    if not pairs:
        raise WhyboxError(f"{first.folder} and {second.folder} have no method in common; name pairs of methods")
    if first.mark["annotations"] != second.mark["annotations"]:
        raise WhyboxError(
            f"{first.folder} and {second.folder} measured different data: {first.mark['data']} and {second.mark['data']}"
        )


def _compare(first: MeasuredRun, second: MeasuredRun, pairs: Pairs, columns: Sequence[Column], seed: int) -> Comparison:
    rows_a, rows_b = _common(first.results, second.results)
    if not len(rows_a):
        raise WhyboxError(f"{first.folder} and {second.folder} have no object in common")
    compared: dict[Key, Pair] = {}
    for column in columns:
        for row, (method_a, method_b) in pairs.items():
            a = first.results.of(method_a, column.key)[rows_a]
            b = second.results.of(method_b, column.key)[rows_b]
            if (pair := _pair(a, b, first.results.images[rows_a], seed)) is not None:
                compared[row, column.key] = pair
    # Holm over all methods and metrics of the page: a reader looks at every p-value on it.
    corrected = holm([pair.p for pair in compared.values()])
    tested = {key: replace(pair, p_holm=float(p)) for (key, pair), p in zip(compared.items(), corrected, strict=True)}
    return Comparison(
        title=_title(first, second, pairs),
        a=_side(first, [pair[0] for pair in pairs.values()]),
        b=_side(second, [pair[1] for pair in pairs.values()]),
        rows=_rows(pairs),
        columns=[column for column in columns if any(key == column.key for _, key in tested)],
        pairs=tested,
        remarks=_remarks(first, second, pairs, first.results.images[rows_a]),
    )


def _rows(pairs: Pairs) -> list[Row]:
    """A row for every pair; where its methods differ, both are named."""
    named = titles([method for pair in pairs.values() for method in pair])
    row_titles = {key: named[a] if a == b else f"{named[a]} → {named[b]}" for key, (a, b) in pairs.items()}
    # A row of controls only where both are: a method against a control is a method's row.
    return [Row(key, row_titles[key], {*pair} <= {*CONTROLS}) for key, pair in pairs.items()]


def _pair(a: NDArray[np.float64], b: NDArray[np.float64], images: NDArray[np.int64], seed: int) -> Pair | None:
    known = np.isfinite(a) & np.isfinite(b)
    count = int(known.sum())
    if not count:
        return None
    a, b, images = a[known], b[known], images[known]
    mean, low, high, p = paired_difference(b, a, images, seed=seed)
    # Over the common objects, hence not the means of the two runs' own reports.
    cells = [Cell(*bootstrap_mean(values, images, seed=seed), count) for values in (a, b)]
    return Pair(cells[0], cells[1], Cell(mean, low, high, count), p, float("nan"))


def _common(first: Results, second: Results) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the objects that both runs have, in the first run's order."""
    row_in_second = {link: i for i, link in enumerate(_links(second))}
    shared = [(i, row_in_second[link]) for i, link in enumerate(_links(first)) if link in row_in_second]
    # (0,2) where nothing is shared, so that both columns exist.
    table = np.asarray(shared, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _links(results: Results) -> list[Link]:
    """The link of each object. A detection without an annotation is identified by its class and its box, to the pixel."""
    # Whole pixels: the same detection of two runs may differ in its last bits, for instance on another device.
    return [
        (row["image"], row["annotation"] or f"{row['label']} {[round(side) for side in row['box']]}") for row in results.objects
    ]


def _title(first: MeasuredRun, second: MeasuredRun, pairs: Pairs) -> str:
    """The names of the compared methods for one run, those of the folders for two."""
    names = [run.folder.resolve().name for run in (first, second)]
    if first.folder.resolve() == second.folder.resolve():
        named = titles([method for pair in pairs.values() for method in pair])
        return f"{', '.join(f'{named[a]} and {named[b]}' for a, b in pairs.values())} in {names[0]}"
    return f"{names[0]} and {names[1]}"


def _side(run: MeasuredRun, methods: Sequence[str]) -> Side:
    names = ("model", "data", "methods", "metrics", "target", "select", "seed")
    facts = [(name.capitalize(), _text(run.mark[name])) for name in names]
    title = f"{run.folder.resolve().name}: {', '.join(titles(methods).values())}"
    return Side(title, [*facts, ("Objects", str(len(run.results)))])


def _text(value: Any) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, list) else str(value)


def _remarks(first: MeasuredRun, second: MeasuredRun, pairs: Pairs, images: NDArray[np.int64]) -> list[str]:
    count, clusters = len(images), len(set(images.tolist()))
    shared = "1 object is" if count == 1 else f"{count} objects are"
    remarks = [f"{shared} in both runs, of {len(first.results)} in A and {len(second.results)} in B."]
    # n images have 2^n sign flips, of which at least all and none are as extreme as the data: p >= 2 / 2^n.
    if 2 / 2**clusters >= SIGNIFICANT:
        least = 2 / 2**clusters if clusters else 1.0
        remarks.append(f"With objects in {clusters} images no p can be below {min(1.0, least):.3g}: measure more of them.")
    remarks += [f"{a} of A is compared with {b} of B." for a, b in pairs.values() if a != b]
    used = {method for pair in pairs.values() for method in pair}
    for name, mine, other in (("A", first, second), ("B", second, first)):
        only = [row for row in mine.results.rows if row not in other.results.rows and row not in used]
        remarks += [f"Only {name} has {', '.join(only)}."] if only else []
    return remarks


def _write(comparison: Comparison, out: Path) -> None:
    with new_folder(out) as draft:
        (draft / "index.html").write_text(write_comparison(comparison), encoding="utf-8")
        (draft / "table.md").write_text(comparison_markdown(comparison) + "\n", encoding="utf-8")
        write_json(as_dict(comparison), draft / "comparison.json")


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain numbers and text: the contents of comparison.json.

    Args:
        comparison: The result of `compare`.

    Returns:
        A dict ready for JSON.
    """
    rows = [
        {
            "method": row,
            "metric": column,
            "a": vars(pair.a),
            "b": vars(pair.b),
            "difference": vars(pair.difference),
            "p": pair.p,
            "p_holm": pair.p_holm,
        }
        for (row, column), pair in comparison.pairs.items()
    ]
    sides = {name: {"title": side.title, **dict(side.facts)} for name, side in (("a", comparison.a), ("b", comparison.b))}
    return {"schema": 1, "title": comparison.title, **sides, "pairs": rows, "remarks": list(comparison.remarks)}
