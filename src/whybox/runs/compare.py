"""Two evaluations side by side, on the objects that both measured, with a paired test for every number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.errors import WhyboxError
from whybox.ops.statistics import bootstrap_mean, holm, paired_difference
from whybox.report.comparison import Comparison, Pair, Side, comparison_markdown, write_comparison
from whybox.report.folder import new_folder
from whybox.report.results import Cell, Column, Key, Row
from whybox.runs.plan import titles
from whybox.runs.results import Results, gather, write_json
from whybox.runs.shards import RunFolder, read_columns, read_mark
from whybox.runs.summary import table_rows

Link = tuple[str, str]
"""(image, what the detection stands for): the annotation, or the place among the image's detections where it has none."""


@dataclass(frozen=True)
class Measured:
    """One evaluation as it lies in its folder."""

    folder: Path
    mark: Mapping[str, Any]
    results: Results


def compare(
    a: str | Path, b: str | Path, *, out: str | Path | None = None, methods: Mapping[str, str] | None = None, seed: int = 0
) -> Comparison:
    """Set two runs side by side: how much better is b than a, on the objects that both have, and can it be chance?

    a, b: folders of `evaluate`. methods: pairs of a method of a and one of b to be set against each other; by default every
    method that both have. Two methods of one run are compared by giving its folder twice. out: a new folder for the page.
    The test flips the signs of all differences of an image together; p-values are corrected for all pairs (Holm).
    """
    first, second = _read(Path(a)), _read(Path(b))
    pairs = dict(methods) if methods else {row: row for row in first.results.rows if row in second.results.rows}
    _check(first, second, pairs)
    columns = [one for one in read_columns(first.mark) if one.key in second.results.columns]
    if not columns:
        raise WhyboxError(f"{first.folder} and {second.folder} have no metric in common")
    comparison = _compare(first, second, pairs, columns, seed)
    if out is not None:
        _write(comparison, Path(out))
    return comparison


def _read(folder: Path) -> Measured:
    mark = read_mark(folder)
    shards = list(RunFolder(folder).shards())
    rows = tuple(dict.fromkeys(row for shard in shards for row in shard.get("rows", ())))
    columns = tuple(column.key for column in read_columns(mark))
    return Measured(folder, mark, gather(shards, rows, columns, None))


def _check(first: Measured, second: Measured, pairs: Mapping[str, str]) -> None:
    for name, known, given in ((first.folder, first.results.rows, pairs), (second.folder, second.results.rows, pairs.values())):
        for row in given:
            if row not in known:
                raise WhyboxError(f"{name}: has no method {row!r}; it has {', '.join(known)}")
    if not pairs:
        raise WhyboxError(f"{first.folder} and {second.folder} have no method in common; name pairs of methods")
    if first.mark["images"] != second.mark["images"]:
        raise WhyboxError(
            f"{first.folder} and {second.folder} measured different data: {first.mark['data']} and {second.mark['data']}"
        )


def _compare(first: Measured, second: Measured, pairs: Mapping[str, str], columns: Sequence[Column], seed: int) -> Comparison:
    ours, theirs = _common(first.results, second.results)
    if not len(ours):
        raise WhyboxError(f"{first.folder} and {second.folder} have no object in common")
    found: dict[Key, Pair] = {}
    for column in columns:
        for row, other in pairs.items():
            a = first.results.of(row, column.key)[ours]
            b = second.results.of(other, column.key)[theirs]
            if (pair := _pair(a, b, first.results.images[ours], seed)) is not None:
                found[row, column.key] = pair
    corrected = holm([pair.p for pair in found.values()])
    tested = {key: replace(pair, p_holm=float(p)) for (key, pair), p in zip(found.items(), corrected, strict=True)}
    return Comparison(
        title=f"{_title(first)} and {_title(second)}",
        a=_side(first),
        b=_side(second),
        rows=_rows(pairs),
        columns=[column for column in columns if any(key == column.key for _, key in tested)],
        pairs=tested,
        remarks=_remarks(first, second, pairs, len(ours)),
    )


def _rows(pairs: Mapping[str, str]) -> list[Row]:
    """A row is known by A's method; where another stands against it, both are named."""
    named = titles((*pairs, *pairs.values()))
    rows = table_rows(tuple(pairs))
    return [row if pairs[row.key] == row.key else replace(row, title=f"{row.title} → {named[pairs[row.key]]}") for row in rows]


def _pair(a: NDArray[np.float64], b: NDArray[np.float64], images: NDArray[np.int64], seed: int) -> Pair | None:
    known = np.isfinite(a) & np.isfinite(b)
    count = int(known.sum())
    if not count:
        return None
    a, b, images = a[known], b[known], images[known]
    mean, low, high, p = paired_difference(b, a, images, seed=seed)
    cells = [Cell(*bootstrap_mean(values, images, seed=seed), count) for values in (a, b)]
    return Pair(cells[0], cells[1], Cell(mean, low, high, count), p, float("nan"))


def _common(first: Results, second: Results) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the objects that both runs have, in the first run's order."""
    where = {link: i for i, link in enumerate(_links(second))}
    shared = [(i, where[link]) for i, link in enumerate(_links(first)) if link in where]
    table = np.asarray(shared, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _links(results: Results) -> list[Link]:
    """What each object is known by. A detection without an annotation is known by its class and its box, to the pixel."""
    return [
        (one["image"], one["annotation"] or f"{one['label']} {[round(side) for side in one['box']]}") for one in results.objects
    ]


def _title(run: Measured) -> str:
    return str(run.folder.name or run.folder)


def _side(run: Measured) -> Side:
    names = ("model", "data", "methods", "metrics", "target", "select", "seed")
    facts = [(name.capitalize(), _text(run.mark[name])) for name in names]
    return Side(_title(run), [*facts, ("Objects", str(len(run.results)))])


def _text(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _remarks(first: Measured, second: Measured, pairs: Mapping[str, str], count: int) -> list[str]:
    shared = "1 object is" if count == 1 else f"{count} objects are"
    remarks = [f"{shared} in both runs, of {len(first.results)} in A and {len(second.results)} in B."]
    remarks += [f"{row} of A stands against {other} of B." for row, other in pairs.items() if row != other]
    for name, mine, other in (("A", first, second), ("B", second, first)):
        only = [row for row in mine.results.rows if row not in other.results.rows and row not in {*pairs, *pairs.values()}]
        remarks += [f"Only {name} has {', '.join(only)}."] if only else []
    return remarks


def _write(comparison: Comparison, out: Path) -> None:
    with new_folder(out) as draft:
        (draft / "index.html").write_text(write_comparison(comparison), encoding="utf-8")
        (draft / "table.md").write_text(comparison_markdown(comparison) + "\n", encoding="utf-8")
        write_json(as_dict(comparison), draft / "comparison.json")


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain numbers and text."""
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
