"""The result of an analysis: numbers with intervals beside what chance gives, as Markdown and as a page with examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from whybox.report.document import data_url, render
from whybox.report.results import Cell
from whybox.report.table import UNDEFINED, decimals, interval, markdown_line, markdown_text, number


@dataclass(frozen=True)
class Measure:
    """One thing that is measured. title: a few words; note: a sentence that says what its numbers mean."""

    key: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Number:
    """What was found: the mean of a measure for one method over cell.count values from `images` images, and what chance gives,
    NaN where chance gives no number."""

    cell: Cell
    images: int
    chance: float


@dataclass(frozen=True)
class Panel:
    """A picture with its text."""

    picture: Image.Image
    text: str


@dataclass(frozen=True)
class Analysis:
    """A whole result. methods: the columns; measures: the rows; numbers: by (method, measure's key).

    lead: what was asked, in a few sentences. facts: (name, text). remarks: sentences that a reader of the numbers needs.
    examples: (title, panels).
    """

    title: str
    lead: str
    methods: Sequence[str]
    measures: Sequence[Measure]
    numbers: Mapping[tuple[str, str], Number]
    facts: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    examples: Sequence[tuple[str, Sequence[Panel]]] = ()


def analysis_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """A row a measure that has a number: its texts, and a cell for each method."""
    rows = []
    for measure in analysis.measures:
        found = [analysis.numbers.get((method, measure.key)) for method in analysis.methods]
        known = [one for one in found if one is not None]
        if not known:
            continue
        digits = max(decimals([one.cell.mean for one in known]), 2)
        cells = [None if one is None else _cell(one, digits) for one in found]
        chance = next((one.chance for one in known if math.isfinite(one.chance)), math.nan)
        rows.append({"title": measure.title, "note": measure.note, "chance": number(chance, digits), "cells": cells})
    return rows


def _cell(one: Number, digits: int) -> dict[str, str]:
    ends = interval(one.cell, digits)
    images = f"{one.images} image{'s' * (one.images != 1)}"
    return {"mean": number(one.cell.mean, digits), "ends": ends, "counted": f"{one.cell.count} in {images}"}


def analysis_markdown(analysis: Analysis) -> str:
    """The table in GitHub's Markdown: mean (95 % interval), and how many values from how many images, a column a method."""
    heads = ["", *(markdown_text(method) for method in analysis.methods), "chance"]
    lines = [markdown_line(heads), markdown_line(["---", *["---:"] * (len(heads) - 1)])]
    for row in analysis_rows(analysis):
        lines.append(markdown_line([markdown_text(row["title"]), *map(_markdown_cell, row["cells"]), row["chance"]]))
    return "\n".join([*lines, "", "Mean (95 % interval); values in images.", *(f"\n{one}" for one in analysis.remarks)]) + "\n"


def _markdown_cell(cell: Mapping[str, str] | None) -> str:
    if cell is None:
        return UNDEFINED
    ends = f" ({cell['ends']})" if cell["ends"] else ""
    return f"{cell['mean']}{ends}; {cell['counted']}"


def analysis_plain(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for a terminal: the means, and what chance gives."""
    rows = analysis_rows(analysis)
    lines = [
        [row["title"], *(UNDEFINED if cell is None else cell["mean"] for cell in row["cells"]), row["chance"]] for row in rows
    ]
    return ["measure", *analysis.methods, "chance"], lines


def write_analysis(analysis: Analysis) -> str:
    """The whole page as HTML."""
    examples = [(title, [(data_url(panel.picture), panel.text) for panel in panels]) for title, panels in analysis.examples]
    return render(
        "analysis.html",
        styles="document.css",
        script="document.js",
        title=analysis.title,
        analysis=analysis,
        rows=analysis_rows(analysis),
        examples=examples,
        markdown=analysis_markdown(analysis),
    )
