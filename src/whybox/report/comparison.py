"""Two runs side by side, on the objects that both measured, with a paired test for every number."""

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
    """A row and a column of two runs. difference: b - a, over its `count` common objects; so are a and b.

    p: of the paired test; p_holm: corrected for all pairs of the comparison. NaN where nothing could be tested.
    """

    a: Cell
    b: Cell
    difference: Cell
    p: float
    p_holm: float


@dataclass(frozen=True)
class Side:
    """One of the two runs: its title and facts (name, text)."""

    title: str
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side. pairs: by (row key, column key). remarks: sentences, such as what only one run has."""

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
    """Whether b is better or worse than a on a metric, or not shown to differ (corrected p of 0.05 or more)."""
    if not pair.p_holm < SIGNIFICANT or pair.difference.mean == 0:
        return "same"
    return "better" if (pair.difference.mean > 0) == column.higher_is_better else "worse"


def write_comparison(comparison: Comparison) -> str:
    """The whole page as HTML."""
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
    """How many numbers of b are better, worse, or not shown to differ."""
    columns = {column.key: column for column in comparison.columns}
    found = [verdict(pair, columns[key[1]]) for key, pair in comparison.pairs.items()]
    if not found:
        return "The two runs have nothing in common that could be compared."
    better, worse, same = (found.count(kind) for kind in ("better", "worse", "same"))
    return f"Of {len(found)} numbers, B is better on {better}, worse on {worse}, and not shown to differ on {same}."


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison in GitHub's Markdown: a → b, the difference with its interval, the corrected p; shown ones bold."""
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
    """A p-value as people print it."""
    if math.isnan(p):
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _common(comparison: Comparison, column: Column) -> str:
    """How many objects the column's pairs are over."""
    counts = [pair.difference.count for (_, key), pair in comparison.pairs.items() if key == column.key]
    if not counts:
        return ""
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}–{max(counts):,}"
