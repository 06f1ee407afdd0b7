"""The nouns of a run's report: rows are methods and controls, columns are metrics, a cell is a mean with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Box = tuple[float, float, float, float]
Key = tuple[str, str]
"""(row key, column key)"""


@dataclass(frozen=True)
class Cell:
    """A mean over `count` objects and the ends of its interval. NaN where it is not defined."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Column:
    """A metric. title: a few words. range: its lowest and highest value. needs: as Metric.needs. note: what a reader must
    know to read its numbers. across: what runs along the x axis of its curves."""

    key: str
    title: str
    higher_is_better: bool
    range: tuple[float, float]
    source: str
    needs: frozenset[str] = frozenset()
    note: str = ""
    across: str = ""


@dataclass(frozen=True)
class Row:
    """A method, or a control: a map that looks at the predicted box alone, never into the model."""

    key: str
    title: str
    is_control: bool = False


@dataclass(frozen=True)
class Curve:
    """The mean of P values at P points, with the ends of the interval at each."""

    at: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        if not len(self.at) == len(self.mean) == len(self.low) == len(self.high):
            raise ValueError("a curve needs as many means and ends of intervals as points")


@dataclass(frozen=True)
class Panel:
    """One row's heat map in an example: the overlay, the metric's value and, where there is one, its curve (P,)."""

    title: str
    overlay: Image.Image
    value: float
    curve: Sequence[float] | None = None


@dataclass(frozen=True)
class Example:
    """One object and its heat maps. column: a key. image and overlays: pictures of one size, already shrunk, without boxes:
    those are drawn by the report, box and truth_box being xyxy in the pixels of `image`."""

    column: str
    kind: Literal["best", "median", "worst"]
    caption: str
    image: Image.Image
    box: Box
    truth_box: Box | None
    panels: Sequence[Panel]


@dataclass(frozen=True)
class EvaluationReport:
    """All that the report of one run shows.

    facts: (name, text): model, data, objects, seed, versions. cells, versus, curves: by (row key, column key).
    versus: the mean difference to the better control of the column on the same objects, signed so that positive is better
    than the control. seconds: of one map, by row key, where they are shown. remarks: sentences. failed: (image, reason).
    problems: lines, what was left out of the data set.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: Mapping[Key, Cell]
    versus: Mapping[Key, Cell] = field(default_factory=dict)
    curves: Mapping[Key, Curve] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    failed: Sequence[tuple[str, str]] = ()
    problems: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = {(row.key, column.key) for row in self.rows for column in self.columns}
        for name in ("cells", "versus", "curves"):
            strange = sorted(set(getattr(self, name)) - known)
            if strange:
                raise ValueError(f"{name} has {strange[0]}, which is no (row key, column key) of this report")
        strange_columns = {example.column for example in self.examples} - {column.key for column in self.columns}
        if strange_columns:
            raise ValueError(f"an example names {min(strange_columns)!r}, which is no column of this report")
