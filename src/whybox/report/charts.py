"""Line charts as SVG for a page: scales with round steps, lines, bands of intervals, and labels at the ends of the lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from whybox.report.results import Column, Curve, EvaluationReport, Row
from whybox.report.table import decimals

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 40, 322, 12, 240
"""The plot's edges in the drawing; the lines' labels are to the right of it."""
LINE = 14
"""The smallest distance between two labels."""
COLORS = 8


class Tick(NamedTuple):
    """A tick of a scale.

    Attributes:
        place: Its coordinate in the drawing.
        text: Its number.
    """

    place: float
    text: str


@dataclass(frozen=True)
class Scale:
    """A linear scale.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: A coordinate of the drawing.
        end: A coordinate of the drawing.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Map a value to the drawing.

        Args:
            value: In the units of the scale.

        Returns:
            The coordinate.
        """
        # A hundredth of a unit cannot be seen, and keeps the paths short.
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """Choose round numbers for the axis.

        Returns:
            About five ticks.
        """
        step = round_step(self.high - self.low)
        # The small terms keep a step such as 0.1, or an end on a step, from falling short of it by rounding.
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [Tick(self.place(i * step), f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Line:
    """The curve of a row.

    Attributes:
        row: The row.
        style: CSS classes, from `styles`.
        path: SVG path data of the line.
        band: SVG path data of the intervals; "" where there are none.
        end: (x, y) of its last point.
        label: y of its label.
    """

    row: Row
    style: str
    path: str
    band: str
    end: tuple[float, float]
    label: float


@dataclass(frozen=True)
class Chart:
    """All curves of one metric.

    Attributes:
        column: The metric.
        lines: One per row that has a curve.
        x: The scale across.
        y: The scale up.
        data: The numbers for the script that shows them under the pointer.
    """

    column: Column
    lines: Sequence[Line]
    x: Scale
    y: Scale
    data: Any


def round_step(length: float) -> float:
    """Choose a step of 1, 2 or 5 times a power of ten.

    Args:
        length: The length of the scale.

    Returns:
        The smallest such step that fits at most six times into the length.
    """
    power = 10.0 ** math.floor(math.log10(length / 6))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= length / 6 * (1 - 1e-9))


def styles(rows: Sequence[Row]) -> dict[str, str]:
    """Assign colors and dashes to rows.

    Args:
        rows: All rows of a report, so that a row has the same style wherever it is shown.

    Returns:
        CSS classes by the row's key.
    """
    classes: dict[str, str] = {}
    for control in (False, True):
        for i, row in enumerate(row for row in rows if row.is_control is control):
            classes[row.key] = f"control{i % 3}" if control else f"color{i % COLORS}" + (" dashed" if i >= COLORS else "")
    return classes


def charts(report: EvaluationReport) -> list[Chart]:
    """Draw the curves of a report.

    Args:
        report: The report.

    Returns:
        One chart per column that has a curve with a finite number.
    """
    drawn = []
    for column in report.columns:
        pairs = [(row, report.curves.get((row.key, column.key))) for row in report.rows]
        known = [(row, curve) for row, curve in pairs if curve is not None and any(map(math.isfinite, curve.mean))]
        if known:
            drawn.append(_chart(column, known, styles(report.rows)))
    return drawn


def _chart(column: Column, pairs: Sequence[tuple[Row, Curve]], style: dict[str, str]) -> Chart:
    x = Scale(*_spread([at for _, curve in pairs for at in curve.at]), LEFT, RIGHT)
    values = [value for _, curve in pairs for part in (curve.mean, curve.low, curve.high) for value in part]
    # Upside down: an SVG's y grows downwards.
    y = Scale(*_to_steps(*_spread(values)), BOTTOM, TOP)
    ends = [_end(curve, x, y) for _, curve in pairs]
    labels = apart([end[1] for end in ends])
    lines = [
        Line(row, style[row.key], _path(curve.at, curve.mean, x, y), _band(curve, x, y), end, label)
        for (row, curve), end, label in zip(pairs, ends, labels, strict=True)
    ]
    return Chart(column, lines, x, y, _data(pairs, x, y))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest finite value; from 0 on where the lowest is near it, and never a single point."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if 0 < low < 0.4 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _to_steps(low: float, high: float) -> tuple[float, float]:
    """The range widened to whole steps of its scale; the end of a band may reach an eighth of a step beyond."""
    step = round_step(high - low)
    return math.floor(low / step + 0.125) * step, math.ceil(high / step - 0.125) * step


def _path(at: Sequence[float], values: Sequence[float], x: Scale, y: Scale) -> str:
    """A line through the finite points, broken where one is missing."""
    parts, pen = [], "M"
    for across, value in zip(at, values, strict=True):
        if math.isfinite(value):
            parts.append(f"{pen}{x.place(across)} {y.place(value)}")
        pen = "L" if math.isfinite(value) else "M"
    return "".join(parts)


def _band(curve: Curve, x: Scale, y: Scale) -> str:
    """The outline of the intervals; "" where there are none."""
    ends = zip(curve.at, curve.low, curve.high, strict=True)
    known = [(at, low, high) for at, low, high in ends if math.isfinite(low) and math.isfinite(high)]
    if len(known) < 2:
        return ""
    upper = [f"{x.place(at)} {y.place(high)}" for at, _, high in known]
    lower = [f"{x.place(at)} {y.place(low)}" for at, low, _ in reversed(known)]
    return f"M{'L'.join(upper + lower)}Z"


def _end(curve: Curve, x: Scale, y: Scale) -> tuple[float, float]:
    """The last point of a curve that has a number."""
    at, value = next(pair for pair in zip(reversed(curve.at), reversed(curve.mean), strict=True) if math.isfinite(pair[1]))
    return x.place(at), y.place(value)


def apart(places: Sequence[float]) -> list[float]:
    """Place labels beside points so that they do not overlap.

    Args:
        places: y of the points.

    Returns:
        y of the labels, in the same order, at least `LINE` apart, inside the plot.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    placed = list(places)
    # Down once, then up once: the second pass brings back what the first pushed below the plot.
    for before, i in zip([None, *order], order, strict=False):
        placed[i] = max(places[i], TOP if before is None else placed[before] + LINE)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        placed[i] = min(placed[i], BOTTOM if after is None else placed[after] - LINE)
    return placed


def _data(pairs: Sequence[tuple[Row, Curve]], x: Scale, y: Scale) -> Any:
    digits = decimals([value for _, curve in pairs for value in curve.mean])
    return {
        "x": [x.low, x.high],
        "y": [y.low, y.high],
        "digits": digits,
        "series": [
            {
                "key": row.key,
                "title": row.title,
                **{name: _finite(getattr(curve, name)) for name in ("at", "mean", "low", "high")},
            }
            for row, curve in pairs
        ],
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    # Six decimals are finer than the drawing, and keep the page small.
    return [round(float(value), 6) if math.isfinite(value) else None for value in values]


def sparkline(values: Sequence[float], low: float, high: float, size: tuple[int, int] = (120, 30)) -> str:
    """Draw a small line without axes.

    Args:
        values: P values.
        low: The lowest value of a scale that several lines share.
        high: The highest value of that scale.
        size: (width, height) of the drawing.

    Returns:
        SVG path data.
    """
    # A pixel of room at the edges for the line's width; and a flat line must not divide by zero.
    x, y = Scale(0, max(1, len(values) - 1), 1, size[0] - 1), Scale(low, max(high, low + 1e-9), size[1] - 2, 2)
    return _path(range(len(values)), values, x, y)
