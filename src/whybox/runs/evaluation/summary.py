"""Summary of an evaluation for its report: means with intervals, differences to the controls, mean curves and examples."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from whybox.report.overlay import blend
from whybox.report.results import Cell, Column, Curve, Example, Key, Panel, Row
from whybox.runs.evaluation.measure import read_picture
from whybox.runs.evaluation.plan import is_control, tell_apart, titles
from whybox.runs.evaluation.results import Floats, Results
from whybox.runs.statistics import bootstrap_mean, bootstrap_means
from whybox.truth import Metric

SHOWN = 320
"""Longest side of an example's picture, in pixels."""
RANKS = ("best", "median", "worst")


def table_rows(specs: Sequence[str]) -> tuple[Row, ...]:
    """The rows of the table.

    Args:
        specs: Methods and controls, with their settings.

    Returns:
        A row with a title for each.
    """
    named = titles(specs)
    return tuple(Row(spec, named[spec], is_control(spec)) for spec in specs)


def table_columns(results: Results, metrics: Mapping[str, Metric]) -> tuple[Column, ...]:
    """The columns of the table: the metrics that are defined for at least one object.

    Args:
        results: The measured values.
        metrics: The metrics by spec.

    Returns:
        A column for each.
    """
    return tuple(column for column in describe(metrics) if results.common(column.key).any())


def describe(metrics: Mapping[str, Metric]) -> tuple[Column, ...]:
    """Describe metrics as columns of a table.

    Args:
        metrics: The metrics by spec.

    Returns:
        A column for each, no two with the same title.
    """
    named = tell_apart({spec: metric.title for spec, metric in metrics.items()})
    return tuple(
        Column(spec, named[spec], metric.higher_is_better, metric.range, metric.source, metric.needs, across=metric.across)
        for spec, metric in metrics.items()
    )


def mean_cells(results: Results, columns: Sequence[Column], seed: int) -> dict[Key, Cell]:
    """The mean of every metric of every method over the objects that all methods share, with a bootstrap interval over images.

    Args:
        results: The measured values.
        columns: The metrics.
        seed: Seed of the bootstrap.

    Returns:
        Cells by (row, column).
    """
    cells = {}
    for column in columns:
        shared = results.common(column.key)
        for row in results.rows:
            values = results.of(row, column.key)[shared]
            # A method without maps of words, say, has no value of a metric of words, and gets no cell.
            if np.isfinite(values).any():
                cells[row, column.key] = Cell(*bootstrap_mean(values, results.images[shared], seed=seed), len(values))
    return cells


def versus_controls(results: Results, columns: Sequence[Column], cells: Mapping[Key, Cell], seed: int) -> dict[Key, Cell]:
    """The mean difference of every method to the better of the controls, on the same objects.

    Args:
        results: The measured values.
        columns: The metrics.
        cells: The result of `mean_cells`.
        seed: Seed of the bootstrap.

    Returns:
        Cells by (row, column), positive where the method is better than the control.
    """
    differences = {}
    for column in columns:
        sign = 1 if column.higher_is_better else -1
        controls = {row: sign * cell.mean for (row, key), cell in cells.items() if key == column.key and is_control(row)}
        if not controls:
            continue
        best, shared = max(controls, key=lambda row: controls[row]), results.common(column.key)
        of_control = sign * results.of(best, column.key)[shared]
        for row in results.rows:
            if (row, column.key) in cells and not is_control(row):
                of_method = sign * results.of(row, column.key)[shared]
                difference = bootstrap_mean(of_method - of_control, results.images[shared], seed=seed)
                differences[row, column.key] = Cell(*difference, len(of_method))
    return differences


def mean_curves(results: Results, columns: Sequence[Column], seed: int) -> dict[Key, Curve]:
    """The mean curves, over the same objects as the means.

    Args:
        results: The measured curves.
        columns: The metrics.
        seed: Seed of the bootstrap.

    Returns:
        Curves with pointwise intervals by (row, column).
    """
    means = {}
    for column in columns:
        shared = results.common(column.key)
        for row in results.rows:
            curves = results.curves.get((row, column.key))
            if curves is None or not np.isfinite(curves[shared]).any():
                continue
            mean, low, high = bootstrap_means(curves[shared], results.images[shared], seed=seed)
            at: Floats = results.at[column.key]
            means[row, column.key] = Curve(at.tolist(), mean.tolist(), low.tolist(), high.tolist())
    return means


def examples(
    results: Results,
    columns: Sequence[Column],
    picture: Callable[[int], Image.Image],
    pictures: Callable[[str, str, int], str],
) -> tuple[list[Example], list[str]]:
    """Choose for every metric the objects on which the first method is best, median and worst, and make their pictures.

    Args:
        results: The measured values.
        columns: The metrics.
        picture: Reads an image by its index in the data set.
        pictures: Reads the stored map of (image's name, method, the object's index in the image).

    Returns:
        The examples, and a sentence for each image of which no example could be made.
    """
    made, missing = [], {}
    for column in columns:
        for rank, number in _picks(results, column).items():
            try:
                made.append(_example(results, column, rank, number, picture, pictures))
            except Exception as error:
                # A data set of the user's may raise anything, and the table does not need the pictures.
                missing[results.objects[number]["image"]] = str(error) or type(error).__name__
    return made, [f"No example of {image} could be shown: {reason}." for image, reason in missing.items()]


def _picks(results: Results, column: Column) -> dict[str, int]:
    """The indices of the objects to show, by rank; empty where there are fewer than three objects."""
    shared = np.flatnonzero(results.common(column.key))
    sign = 1 if column.higher_is_better else -1
    # Stable, so that ties give the same examples in every run.
    order = shared[np.argsort(-sign * results.of(results.rows[0], column.key)[shared], kind="stable")]
    if len(order) < len(RANKS):
        return {}
    return dict(zip(RANKS, (int(order[i]) for i in (0, len(order) // 2, -1)), strict=True))


def _example(
    results: Results,
    column: Column,
    rank: Any,
    number: int,
    picture: Callable[[int], Image.Image],
    pictures: Callable[[str, str, int], str],
) -> Example:
    explained = results.objects[number]
    whole = picture(explained["index"])
    scale = min(1.0, SHOWN / max(whole.size))
    shown = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))), Image.Resampling.LANCZOS)
    named = titles(results.rows)
    panels = []
    for row in results.rows:
        curves = results.curves.get((row, column.key))
        curve = None if curves is None else curves[number].tolist()
        over = _overlay(shown, pictures(explained["image"], row, explained["place"]))
        panels.append(Panel(named[row], over, float(results.of(row, column.key)[number]), curve))
    caption = f"{explained['class']} {explained['score']:.2f} in {explained['image']}"
    box = _scaled(explained["box"], scale)
    truth_box = None if explained["truth_box"] is None else _scaled(explained["truth_box"], scale)
    return Example(column.key, rank, caption, shown, box, truth_box, panels)


def _scaled(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (side * scale for side in box)
    return x1, y1, x2, y2


def _overlay(shown: Image.Image, stored: str) -> Image.Image:
    """A stored map over a picture."""
    # Stored maps are scaled to 0..1 at image resolution, so nothing is scaled again here.
    grey = Image.fromarray(read_picture(stored)).resize(shown.size, Image.Resampling.BILINEAR)
    values = np.asarray(grey, dtype=np.float32) / np.float32(255)
    return Image.fromarray(blend(np.asarray(shown), values, 0.0, 1.0))


_NEEDS = {
    "box": "objects that match the detections",
    "mask": "annotated masks",
    "fixations": "annotated fixations",
    "whole": "a whole-image model",
    "words": "an image-text model and a method that gives maps of words",
}


def left_out(results: Results, metrics: Mapping[str, Metric], gives: frozenset[str]) -> list[str]:
    """Explain which metrics of the plan are not in the table.

    Args:
        results: The measured values.
        metrics: The metrics by spec.
        gives: What was available for the metrics, names as in `Metric.needs`.

    Returns:
        A sentence per reason.
    """
    by_reason: dict[str, list[str]] = {}
    for spec in results.columns:
        if not results.common(spec).any():
            needs = sorted(metrics[spec].needs - gives)
            lacking = [_NEEDS.get(need, need) for need in needs]
            reason = f"not available: {' and '.join(lacking)}" if needs else "no object has a value"
            by_reason.setdefault(reason, []).append(spec)
    return [f"Not in the table ({reason}): {', '.join(specs)}." for reason, specs in by_reason.items()]


def count_routes(results: Results) -> dict[str, dict[str, int]]:
    """Count how the gradients of each method were taken.

    Args:
        results: The measured values.

    Returns:
        By method, the number of maps by route, the most frequent first; only methods with gradients are here.
    """
    return {row: dict(Counter(filter(None, routes)).most_common()) for row, routes in results.routes.items()}


def routes_in_words(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Say how the gradients were taken.

    Args:
        counts: By method, the number of maps by route.

    Returns:
        "odam: windows 120, exact 3; gradcam: exact 123"; "" without methods.
    """
    each = {row: ", ".join(f"{route} {number}" for route, number in of_row.items()) for row, of_row in counts.items()}
    return "; ".join(f"{row}: {routes}" for row, routes in each.items())


def told_by_methods(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What methods remarked on the explained images.

    Args:
        records: The images' records.

    Returns:
        A sentence for each remark, with the methods that made it.
    """
    methods: dict[str, dict[str, None]] = {}
    for record in records:
        for row, kept in record.get("rows", {}).items():
            if remark := kept.get("remark"):
                methods.setdefault(remark, {})[row] = None
    return [f"{', '.join(titles(list(rows)).values())}: {remark}." for remark, rows in methods.items()]


def told_of_unseen(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many detections were left out because nobody looked at their object.

    Args:
        records: The images' records.

    Returns:
        One sentence, or none.
    """
    count = sum(record.get("unseen", 0) for record in records)
    if not count:
        return []
    which = "1 detection was" if count == 1 else f"{count} detections were"
    return [f"{which} left out: every metric compares with fixations, and nobody looked at an object there."]


def without_words(results: Results, metrics: Mapping[str, Metric]) -> list[str]:
    """Name the methods without values of word metrics, where other methods have them.

    Args:
        results: The measured values.
        metrics: The metrics by spec.

    Returns:
        One sentence, or none.
    """
    of_words = [spec for spec in results.columns if "words" in metrics[spec].needs and results.common(spec).any()]
    lacking = [row for row in results.rows if of_words and not np.isfinite(results.of(row, of_words[0])).any()]
    named = titles(lacking)
    return [f"No maps of words, so no value for {', '.join(of_words)}: {', '.join(named.values())}."] if lacking else []
