"""Curves as vector drawings for a page: scales with round steps, lines, bands, and names at the ends of the lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from whybox.report.results import Column, Curve, EvaluationReport, Row
from whybox.report.table import decimals

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 40, 322, 12, 240
"""The plot's edges in the drawing; names of lines stand to the right of it."""
LINE = 14
"""From one name to the next at least."""
COLORS = 8


class Tick(NamedTuple):
    """Where a step of a scale lies in the drawing, and its number."""

    place: float
    text: str


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` between two places of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value lies."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """Round numbers, about five."""
        step = round_step(self.high - self.low)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [Tick(self.place(i * step), f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Line:
    """One row's curve: SVG path data of line and band, its end, and where its name stands."""

    row: Row
    style: str
    path: str
    band: str
    end: tuple[float, float]
    label: float


@dataclass(frozen=True)
class Chart:
    """All curves of one metric. data: the numbers, for the script that shows them under the pointer."""

    column: Column
    lines: Sequence[Line]
    x: Scale
    y: Scale
    data: Any


def round_step(length: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that goes at most six times into a length."""
    power = 10.0 ** math.floor(math.log10(length / 6))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= length / 6 * (1 - 1e-9))


def styles(rows: Sequence[Row]) -> dict[str, str]:
    """The CSS classes of every row's color and dashes: the same wherever the row is shown."""
    found: dict[str, str] = {}
    for control in (False, True):
        for i, row in enumerate(row for row in rows if row.is_control is control):
            found[row.key] = f"control{i % 3}" if control else f"color{i % COLORS}" + (" dashed" if i >= COLORS else "")
    return found


def charts(report: EvaluationReport) -> list[Chart]:
    """One chart for every column that has a curve with a number in it."""
    found = []
    for column in report.columns:
        pairs = [(row, report.curves.get((row.key, column.key))) for row in report.rows]
        known = [(row, curve) for row, curve in pairs if curve is not None and any(map(math.isfinite, curve.mean))]
        if known:
            found.append(_chart(column, known, styles(report.rows)))
    return found


def _chart(column: Column, pairs: Sequence[tuple[Row, Curve]], style: dict[str, str]) -> Chart:
    x = Scale(*_spread([at for _, curve in pairs for at in curve.at]), LEFT, RIGHT)
    values = [value for _, curve in pairs for part in (curve.mean, curve.low, curve.high) for value in part]
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
    there = [f"{x.place(at)} {y.place(high)}" for at, _, high in known]
    back = [f"{x.place(at)} {y.place(low)}" for at, low, _ in reversed(known)]
    return f"M{'L'.join(there + back)}Z"


def _end(curve: Curve, x: Scale, y: Scale) -> tuple[float, float]:
    """The last point of a curve that has a number."""
    at, value = next(pair for pair in zip(reversed(curve.at), reversed(curve.mean), strict=True) if math.isfinite(pair[1]))
    return x.place(at), y.place(value)


def apart(places: Sequence[float]) -> list[float]:
    """Places for names beside `places` (down the drawing), in the same order, a line apart, inside the plot."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    set_down = list(places)
    for before, i in zip([None, *order], order, strict=False):
        set_down[i] = max(places[i], TOP if before is None else set_down[before] + LINE)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        set_down[i] = min(set_down[i], BOTTOM if after is None else set_down[after] - LINE)
    return set_down


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
    return [round(float(value), 6) if math.isfinite(value) else None for value in values]


def sparkline(values: Sequence[float], low: float, high: float, size: tuple[int, int] = (120, 30)) -> str:
    """Path data of a small line for values (P,) on a scale that several lines share."""
    x, y = Scale(0, max(1, len(values) - 1), 1, size[0] - 1), Scale(low, max(high, low + 1e-9), size[1] - 2, 2)
    return _path(range(len(values)), values, x, y)
