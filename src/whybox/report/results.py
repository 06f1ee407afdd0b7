"""Data types of an evaluation report: rows are methods and controls, columns are metrics, a cell is a mean with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Box = tuple[float, float, float, float]
Key = tuple[str, str]
"""(row key, column key)"""


@dataclass(frozen=True)
class Cell:
    """A mean with its interval; NaN where it is not defined.

    Attributes:
        mean: The mean.
        low: The lower end of the interval.
        high: The upper end of the interval.
        count: Number of objects.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Column:
    """A metric.

    Attributes:
        key: The metric with its settings, unique in the report.
        title: A few words.
        higher_is_better: Whether higher values are better.
        range: Its lowest and highest value.
        source: Authors, venue, year, equation.
        needs: As in `Metric.needs`.
        note: What a reader must know to read its numbers.
        across: The label of its curves' x axis.
    """

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
    """A method, or a control: a map made from the predicted box alone.

    Attributes:
        key: Unique in the report.
        title: Its name as people write it.
        is_control: Whether it is a control.
    """

    key: str
    title: str
    is_control: bool = False


@dataclass(frozen=True)
class Curve:
    """A mean curve with its intervals at P points.

    Attributes:
        at: P x coordinates.
        mean: P means.
        low: P lower ends.
        high: P upper ends.
    """

    at: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        if not len(self.at) == len(self.mean) == len(self.low) == len(self.high):
            raise ValueError("a curve needs as many means and ends of intervals as points")


@dataclass(frozen=True)
class Panel:
    """One row's heat map in an example.

    Attributes:
        title: The row's title.
        overlay: The map on the image.
        value: The metric's value.
        curve: The metric's curve (P,), or None.
    """

    title: str
    overlay: Image.Image
    value: float
    curve: Sequence[float] | None = None


@dataclass(frozen=True)
class Example:
    """One object with its heat maps.

    Attributes:
        column: The metric's key.
        kind: Its place among the objects, by the metric.
        caption: The object and the image.
        image: The image, already shrunk, without boxes.
        box: The predicted box, xyxy in the pixels of `image`.
        truth_box: The annotated box, xyxy in the pixels of `image`, or None.
        panels: One per row, of the size of `image`.
    """

    column: str
    kind: Literal["best", "median", "worst"]
    caption: str
    image: Image.Image
    box: Box
    truth_box: Box | None
    panels: Sequence[Panel]


@dataclass(frozen=True)
class EvaluationReport:
    """The report of a run.

    Attributes:
        title: The heading.
        facts: (name, text): model, data, objects, seed, versions.
        rows: Methods and controls.
        columns: Metrics.
        cells: Means by (row key, column key).
        versus: By (row key, column key), the mean difference to the better control of the column on the same objects, signed so
            that positive is better than the control.
        curves: By (row key, column key).
        examples: Objects with their maps.
        seconds: Of one map, by row key, where they are shown.
        remarks: Sentences.
        failed: (image, reason).
        problems: What was left out of the data set, one line per problem.
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
