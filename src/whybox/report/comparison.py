"""The report of two runs on their common objects, with a paired test for every number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whybox.report.charts import styles
from whybox.report.document import render
from whybox.report.results import Cell, Column, Key, Row
from whybox.report.table import ARROWS, UNDEFINED, decimals, in_bands, interval, markdown_line, markdown_text, number

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Pair:
    """A row and a column of two runs, over their common objects.

    Attributes:
        a: The mean of run A.
        b: The mean of run B.
        difference: b - a.
        p: The p-value of the paired test; NaN where nothing could be tested.
        p_holm: The same, corrected for all pairs of the comparison (Holm).
    """

    a: Cell
    b: Cell
    difference: Cell
    p: float
    p_holm: float


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        title: Its title.
        facts: (name, text).
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        title: The heading.
        a: Run A.
        b: Run B.
        rows: Methods and controls.
        columns: Metrics.
        pairs: By (row key, column key).
        remarks: Sentences, such as what only one run has.
    """

    title: str
    a: Side
    b: Side
    rows: Sequence[Row]
    columns: Sequence[Column]
    pairs: Mapping[Key, Pair]
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        strange = sorted(set(self.pairs) - {(row.key, column.key) for row in self.rows for column in self.columns})
        if strange:
            raise ValueError(f"pairs has {strange[0]}, which is no (row key, column key) of this comparison")


Verdict = Literal["better", "worse", "same"]


def verdict(pair: Pair, column: Column) -> Verdict:
    """Decide whether B is better than A on a metric.

    Args:
        pair: The two means and their test.
        column: The metric.

    Returns:
        "better" or "worse" where the corrected p is below 0.05, else "same".
    """
    # Written as a negation, so that a p of NaN is "same".
    if not pair.p_holm < SIGNIFICANT or pair.difference.mean == 0:
        return "same"
    return "better" if (pair.difference.mean > 0) == column.higher_is_better else "worse"


def write_comparison(comparison: Comparison) -> str:
    """Render the page.

    Args:
        comparison: The two runs.

    Returns:
        The page as HTML.
    """
    return render(
        "comparison.html",
        styles="document.css",
        script="document.js",
        title=comparison.title,
        comparison=comparison,
        sides=[("A", comparison.a), ("B", comparison.b)],
        summary=summary(comparison),
        heads=[(column, ARROWS[column.higher_is_better], _common(comparison, column)) for column in comparison.columns],
        lines=[(row, [_cell(comparison, row, column) for column in comparison.columns]) for row in in_bands(comparison.rows)],
        markdown=comparison_markdown(comparison),
        style_of=styles(comparison.rows),
    )


def summary(comparison: Comparison) -> str:
    """Count the verdicts.

    Args:
        comparison: The two runs.

    Returns:
        A sentence: how many numbers of B are better, worse, or not shown to differ.
    """
    columns = {column.key: column for column in comparison.columns}
    verdicts = [verdict(pair, columns[key[1]]) for key, pair in comparison.pairs.items()]
    if not verdicts:
        return "The two runs have nothing in common that could be compared."
    better, worse, same = (verdicts.count(value) for value in ("better", "worse", "same"))
    return f"Of {len(verdicts)} numbers, B is better on {better}, worse on {worse}, and not shown to differ on {same}."


def comparison_markdown(comparison: Comparison) -> str:
    """Format the table in GitHub's Markdown: a → b, the difference with its interval, the corrected p.

    Args:
        comparison: The two runs.

    Returns:
        The table; differences that are shown are bold.
    """
    heads = ["", *(f"{markdown_text(column.title)} {ARROWS[column.higher_is_better]}" for column in comparison.columns)]
    lines = [markdown_line(heads), markdown_line(["---", *["---:"] * len(comparison.columns)])]
    for row in in_bands(comparison.rows):
        cells = [_markdown_cell(_cell(comparison, row, column)) for column in comparison.columns]
        lines.append(markdown_line([markdown_text(row.title), *cells]))
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: dict[str, Any]) -> str:
    if not cell["shown"]:
        return UNDEFINED
    change = cell["change"] if cell["verdict"] == "same" else f"**{cell['change']}**"
    ends = f" ({cell['ends']})" if cell["ends"] else ""
    return f"{cell['a']} → {cell['b']}, {change}{ends}, {cell['p']}"


def _cell(comparison: Comparison, row: Row, column: Column) -> dict[str, Any]:
    """A pair's texts; sorted by how much better b is."""
    pair = comparison.pairs.get((row.key, column.key))
    if pair is None or math.isnan(pair.difference.mean):
        return {"shown": False, "verdict": "same", "sort": ""}
    # Of the column, not of the cell: numbers below one another are compared.
    digits = _digits(comparison, column)
    return {
        "shown": True,
        "a": number(pair.a.mean, digits),
        "b": number(pair.b.mean, digits),
        "change": number(pair.difference.mean, digits, sign=True),
        "ends": interval(pair.difference, digits, sign=True),
        "p": p_text(pair.p_holm),
        "p_alone": p_text(pair.p),
        "count": pair.difference.count,
        "verdict": verdict(pair, column),
        "sort": pair.difference.mean if column.higher_is_better else -pair.difference.mean,
    }


def _digits(comparison: Comparison, column: Column) -> int:
    pairs = [pair for (_, key), pair in comparison.pairs.items() if key == column.key]
    return decimals([cell.mean for pair in pairs for cell in (pair.a, pair.b)])


def p_text(p: float) -> str:
    """Format a p-value.

    Args:
        p: The p-value, or NaN.

    Returns:
        "p = 0.012", "p < 0.001", or "p –" for NaN.
    """
    if math.isnan(p):
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _common(comparison: Comparison, column: Column) -> str:
    """How many objects the column's pairs are over."""
    counts = [pair.difference.count for (_, key), pair in comparison.pairs.items() if key == column.key]
    if not counts:
        return ""
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}–{max(counts):,}"
