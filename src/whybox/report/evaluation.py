"""The page of an evaluation: table, curves, examples, and how the numbers were measured."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from whybox.report.charts import charts, sparkline, styles
from whybox.report.document import data_url, render, script_json
from whybox.report.results import Box, Column, EvaluationReport, Example, Key, Row
from whybox.report.table import (
    ARROWS,
    UNDEFINED,
    Place,
    better_control,
    decimals,
    defined,
    digits_of,
    interval,
    number,
    places,
    table_latex,
    table_markdown,
    warnings,
    winning_control,
)

NEEDS = {
    "box": "an annotated box",
    "mask": "an annotated mask",
    "fixations": "human fixations",
    "predict": "the model’s outputs on perturbed images",
    "redraw": "maps recomputed on perturbed images",
    "randomized": "maps of the model with randomized weights",
    "whole": "a model that scores the whole image",
    "words": "word weights, and the scores of perturbed texts",
}
"""Names of `MetricInput.gives` as the page words them."""


def write_report(report: EvaluationReport) -> str:
    """Render the page.

    Args:
        report: The report of a run.

    Returns:
        The page as HTML.
    """
    return render(
        "evaluation.html",
        styles="document.css",
        script="document.js",
        title=report.title,
        report=report,
        headline=headline(report),
        warnings=warnings(report),
        heads=[_head(report, column) for column in report.columns],
        bands=_bands(report),
        charts=charts(report),
        examples=_examples(report),
        metrics=[_metric(column) for column in report.columns],
        markdown=table_markdown(report),
        latex=table_latex(report),
        style_of=styles(report.rows),
        script_json=script_json,
    )


def headline(report: EvaluationReport) -> str:
    """Name the method that is best on most of the metrics on which the best method is shown to beat the controls.

    Args:
        report: The report of a run.

    Returns:
        A sentence; "" with fewer than two methods.
    """
    place = places(report)
    telling = [column for column in report.columns if _tells(report, place, column)]
    if sum(not row.is_control for row in report.rows) < 2 or not report.columns:
        return ""
    if not telling:
        return "No metric of this run shows a method to beat the controls, which do not depend on the model."
    methods = [row for row in report.rows if not row.is_control]
    wins = Counter({row.title: sum(_is_best(place, row, column) for column in telling) for row in methods})
    most = max(wins.values())
    names = [title for title, count in wins.items() if count == most]
    verb = "has" if len(names) == 1 else "each have"
    return f"{_listed(names)} {verb} the best mean on {_share(most, len(telling))} on which the controls are beaten."


def _tells(report: EvaluationReport, place: Mapping[Key, Place], column: Column) -> bool:
    """Whether the best method of a column is above the controls by more than its interval."""
    # Several methods may share the best mean: one that is above the controls is enough.
    best = [row for row, _ in defined(report, column) if not row.is_control and _is_best(place, row, column)]
    return winning_control(report, column) is None and any(not place[row.key, column.key].beaten for row in best)


def _is_best(place: Mapping[Key, Place], row: Row, column: Column) -> bool:
    entry = place.get((row.key, column.key))
    return entry is not None and entry.rank == 1


def _share(part: int, whole: int) -> str:
    if part < whole:
        return f"{part} of the {whole} metrics"
    return {1: "the one metric", 2: "both metrics"}.get(whole, f"all {whole} metrics")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _head(report: EvaluationReport, column: Column) -> dict[str, Any]:
    winner = winning_control(report, column)
    return {
        "column": column,
        "arrow": ARROWS[column.higher_is_better],
        "better": "higher is better" if column.higher_is_better else "lower is better",
        "count": _counts([cell.count for _, cell in defined(report, column)]),
        "winner": winner.title if winner else "",
    }


def _counts(counts: Sequence[int]) -> str:
    """How many objects a column's means are over."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _bands(report: EvaluationReport) -> list[dict[str, Any]]:
    """The methods' lines of the table and the controls', each with its head."""
    place = places(report)
    bands = []
    for is_control, title in ((False, "Methods"), (True, "Controls, which do not depend on the model")):
        rows = [row for row in report.rows if row.is_control is is_control]
        lines = [{"row": row, "cells": [_cell(report, row, column, place) for column in report.columns]} for row in rows]
        if lines:
            bands.append({"title": title, "controls": is_control, "lines": lines})
    return bands


def _cell(report: EvaluationReport, row: Row, column: Column, place: Mapping[Key, Place]) -> dict[str, Any]:
    """A cell's texts as it is and relative to the better control, and what it is sorted by: more is better."""
    key = (row.key, column.key)
    cell = report.cells.get(key)
    digits = digits_of(report, column)
    sign = 1 if column.higher_is_better else -1
    return {
        "place": place.get(key, Place(0, False)),
        "raw": number(cell.mean, digits) if cell else UNDEFINED,
        "raw_ends": interval(cell, digits) if cell else "",
        # Empty and not NaN: the page's script keeps rows without a number last, whichever way it sorts.
        "raw_sort": sign * cell.mean if cell and math.isfinite(cell.mean) else "",
        **_relative(report, row, column, digits),
        "count": cell.count if cell else 0,
    }


def _relative(report: EvaluationReport, row: Row, column: Column, digits: int) -> dict[str, Any]:
    """A difference to the better control as text; that control itself is the reference."""
    if row == better_control(report, column):
        return {"relative": "reference", "relative_ends": "", "relative_sort": 0}
    cell = report.versus.get((row.key, column.key))
    if cell is None:
        return {"relative": UNDEFINED, "relative_ends": "", "relative_sort": ""}
    return {
        "relative": number(cell.mean, digits, sign=True),
        "relative_ends": interval(cell, digits, sign=True),
        "relative_sort": cell.mean if math.isfinite(cell.mean) else "",
    }


def _metric(column: Column) -> dict[str, Any]:
    # True minus signs, as in the tables.
    low, high = (f"{end:g}".replace("-", "−").replace("inf", "∞") for end in column.range)
    return {
        "column": column,
        "arrow": ARROWS[column.higher_is_better],
        "range": f"{low} to {high}",
        "needs": ", ".join(sorted(NEEDS.get(need, need) for need in column.needs)),
    }


def _examples(report: EvaluationReport) -> list[dict[str, Any]]:
    """The examples of every column that has some."""
    groups = []
    for column in report.columns:
        shown = [_example(example) for example in report.examples if example.column == column.key]
        if shown:
            groups.append({"column": column, "arrow": ARROWS[column.higher_is_better], "examples": shown})
    return groups


def _example(example: Example) -> dict[str, Any]:
    digits = decimals([panel.value for panel in example.panels])
    curves = [value for panel in example.panels for value in panel.curve or () if math.isfinite(value)]
    # One scale for all methods of an example, from 0 on, so that their lines can be compared.
    low, high = min(0.0, min(curves, default=0.0)), max(curves, default=1.0)
    return {
        "kind": example.kind,
        "caption": example.caption,
        "picture": data_url(example.image),
        "size": example.image.size,
        "boxes": [(name, _rect(box)) for name, box in (("truth", example.truth_box), ("found", example.box)) if box],
        "panels": [
            {
                "title": panel.title,
                "picture": data_url(panel.overlay),
                "value": number(panel.value, digits),
                "curve": sparkline(panel.curve, low, high) if panel.curve is not None else "",
            }
            for panel in example.panels
        ],
    }


def _rect(box: Box) -> dict[str, float]:
    x1, y1, x2, y2 = (round(float(side), 1) for side in box)
    # SVG does not draw a rectangle of negative width.
    return {"x": x1, "y": y1, "width": max(0.0, x2 - x1), "height": max(0.0, y2 - y1)}
