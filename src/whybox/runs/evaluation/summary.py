"""From an evaluation's tables to its report: means with intervals, differences to the controls, curves, examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from whybox.report.overlay import blend
from whybox.report.results import Cell, Column, Curve, Example, Key, Panel, Row
from whybox.runs.evaluation.measure import read_picture
from whybox.runs.evaluation.plan import is_control, titles
from whybox.runs.evaluation.results import Floats, Results
from whybox.runs.statistics import bootstrap_mean, bootstrap_means
from whybox.truth import Metric

SHOWN = 320
"""Longest side of an example's picture, in pixels."""
KINDS = ("best", "median", "worst")


def table_rows(specs: Sequence[str]) -> tuple[Row, ...]:
    """The methods and controls, with words for each."""
    named = titles(specs)
    return tuple(Row(spec, named[spec], is_control(spec)) for spec in specs)


def table_columns(results: Results, metrics: Mapping[str, Metric]) -> tuple[Column, ...]:
    """The metrics that are defined for anything."""
    return tuple(describe(spec, metrics[spec]) for spec in results.columns if results.common(spec).any())


def describe(spec: str, metric: Metric) -> Column:
    """What a table says of a metric."""
    return Column(spec, metric.title, metric.higher_is_better, metric.range, metric.source, metric.needs, across=metric.across)


def mean_cells(results: Results, columns: Sequence[Column], seed: int) -> dict[Key, Cell]:
    """The mean of every method by every metric, over the objects that all methods share, and its interval over images."""
    cells = {}
    for column in columns:
        shared = results.common(column.key)
        for row in results.rows:
            values = results.of(row, column.key)[shared]
            if np.isfinite(values).any():
                cells[row, column.key] = Cell(*bootstrap_mean(values, results.images[shared], seed=seed), len(values))
    return cells


def versus_controls(results: Results, columns: Sequence[Column], cells: Mapping[Key, Cell], seed: int) -> dict[Key, Cell]:
    """How much better than the better control each method is, on the same objects."""
    found = {}
    for column in columns:
        sign = 1 if column.higher_is_better else -1
        controls = {row: sign * cell.mean for (row, key), cell in cells.items() if key == column.key and is_control(row)}
        if not controls:
            continue
        best, shared = max(controls, key=lambda row: controls[row]), results.common(column.key)
        theirs = sign * results.of(best, column.key)[shared]
        for row in results.rows:
            if (row, column.key) in cells and not is_control(row):
                ours = sign * results.of(row, column.key)[shared]
                difference = bootstrap_mean(ours - theirs, results.images[shared], seed=seed)
                found[row, column.key] = Cell(*difference, len(ours))
    return found


def mean_curves(results: Results, columns: Sequence[Column], seed: int) -> dict[Key, Curve]:
    """The mean curves, over the same objects as the means."""
    found = {}
    for column in columns:
        shared = results.common(column.key)
        for row in results.rows:
            curves = results.curves.get((row, column.key))
            if curves is None or not np.isfinite(curves[shared]).any():
                continue
            mean, low, high = bootstrap_means(curves[shared], results.images[shared], seed=seed)
            at: Floats = results.at[column.key]
            found[row, column.key] = Curve(at.tolist(), mean.tolist(), low.tolist(), high.tolist())
    return found


def examples(
    results: Results,
    columns: Sequence[Column],
    picture: Callable[[int], Image.Image],
    pictures: Callable[[str, str, int], str],
) -> tuple[list[Example], list[str]]:
    """For every metric the objects on which the first method does best, middling and worst; and the images of which no
    example could be made, a sentence each.

    picture: an image by its place. pictures: the kept map of (image's name, method, place among its detections).
    """
    found, missing = [], {}
    for column in columns:
        for kind, number in _picks(results, column).items():
            try:
                found.append(_example(results, column, kind, number, picture, pictures))
            except Exception as error:
                # The user's own data set may raise anything, and the numbers are there all the same.
                missing[results.objects[number]["image"]] = str(error) or type(error).__name__
    return found, [f"No example of {image} could be shown: {reason}." for image, reason in missing.items()]


def _picks(results: Results, column: Column) -> dict[str, int]:
    """The numbers of the objects that are shown, by kind; none where there are fewer than three."""
    shared = np.flatnonzero(results.common(column.key))
    sign = 1 if column.higher_is_better else -1
    order = shared[np.argsort(-sign * results.of(results.rows[0], column.key)[shared], kind="stable")]
    if len(order) < len(KINDS):
        return {}
    return dict(zip(KINDS, (int(order[i]) for i in (0, len(order) // 2, -1)), strict=True))


def _example(
    results: Results,
    column: Column,
    kind: Any,
    number: int,
    picture: Callable[[int], Image.Image],
    pictures: Callable[[str, str, int], str],
) -> Example:
    one = results.objects[number]
    whole = picture(one["index"])
    scale = min(1.0, SHOWN / max(whole.size))
    shown = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))), Image.Resampling.LANCZOS)
    named = titles(results.rows)
    panels = []
    for row in results.rows:
        curves = results.curves.get((row, column.key))
        curve = None if curves is None else curves[number].tolist()
        over = _overlay(shown, pictures(one["image"], row, one["place"]))
        panels.append(Panel(named[row], over, float(results.of(row, column.key)[number]), curve))
    caption = f"{one['class']} {one['score']:.2f} in {one['image']}"
    box, other = _scaled(one["box"], scale), None if one["truth_box"] is None else _scaled(one["truth_box"], scale)
    return Example(column.key, kind, caption, shown, box, other, panels)


def _scaled(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (side * scale for side in box)
    return x1, y1, x2, y2


def _overlay(shown: Image.Image, kept: str) -> Image.Image:
    """A kept map over a picture."""
    grey = Image.fromarray(read_picture(kept)).resize(shown.size, Image.Resampling.BILINEAR)
    values = np.asarray(grey, dtype=np.float32) / np.float32(255)
    return Image.fromarray(blend(np.asarray(shown), values, 0.0, 1.0))


_WORDS = {
    "box": "objects that the detections stand for",
    "mask": "annotated masks",
    "fixations": "annotated fixations",
    "whole": "a model that answers for the whole image",
    "words": "an image-text model and a method that gives maps of words",
}


def left_out(results: Results, metrics: Mapping[str, Metric], gives: frozenset[str]) -> list[str]:
    """Sentences on the metrics of the plan that are not in the table. gives: what every data set gives."""
    why: dict[str, list[str]] = {}
    for spec in results.columns:
        if not results.common(spec).any():
            needs = sorted(metrics[spec].needs - gives)
            words = [_WORDS.get(need, need) for need in needs]
            reason = f"not available: {' and '.join(words)}" if needs else "no object has a value"
            why.setdefault(reason, []).append(spec)
    return [f"Not in the table ({reason}): {', '.join(specs)}." for reason, specs in why.items()]


def without_words(results: Results, metrics: Mapping[str, Metric]) -> list[str]:
    """A sentence on the methods that are missing from the columns of words, where others are there."""
    asked = [spec for spec in results.columns if "words" in metrics[spec].needs and results.common(spec).any()]
    silent = [row for row in results.rows if asked and not np.isfinite(results.of(row, asked[0])).any()]
    named = titles(silent)
    return [f"No maps of words, so no value for {', '.join(asked)}: {', '.join(named.values())}."] if silent else []
