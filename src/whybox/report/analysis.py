"""The report of an analysis: means with intervals and the chance level, as Markdown and as a page with examples."""

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
    """A quantity that an analysis measures.

    Attributes:
        key: Its name in `Analysis.numbers`.
        title: A few words.
        note: A sentence that says what its numbers mean.
    """

    key: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Number:
    """A measure of one method.

    Attributes:
        cell: The mean over `cell.count` values, with its interval.
        images: The number of images that the values come from.
        chance: The value expected by chance; NaN where there is none.
    """

    cell: Cell
    images: int
    chance: float


@dataclass(frozen=True)
class Panel:
    """A picture with its caption.

    Attributes:
        picture: The picture.
        text: The caption.
    """

    picture: Image.Image
    text: str


@dataclass(frozen=True)
class Analysis:
    """The report of an analysis.

    Attributes:
        title: The heading.
        lead: What is measured, in a few sentences.
        methods: Titles of the columns.
        measures: The rows.
        numbers: By (method, measure's key).
        facts: (name, text) on model, data and settings.
        remarks: Sentences that a reader of the numbers needs.
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
    """Format the measures that have a number for some method.

    Args:
        analysis: The report.

    Returns:
        One row per measure: "title", "note", "chance", and "cells", one per method.
    """
    rows = []
    for measure in analysis.measures:
        numbers = [analysis.numbers.get((method, measure.key)) for method in analysis.methods]
        known = [result for result in numbers if result is not None]
        if not known:
            continue
        # At least two, so that a chance such as 0.25 stays readable whatever the means are.
        digits = max(decimals([result.cell.mean for result in known]), 2)
        cells = [None if result is None else _cell(result, digits) for result in numbers]
        # The chance is a property of the images: every method has the same.
        chance = next((result.chance for result in known if math.isfinite(result.chance)), math.nan)
        rows.append({"title": measure.title, "note": measure.note, "chance": number(chance, digits), "cells": cells})
    return rows


def _cell(result: Number, digits: int) -> dict[str, str]:
    ends = interval(result.cell, digits)
    images = f"{result.images} image{'s' * (result.images != 1)}"
    return {"mean": number(result.cell.mean, digits), "ends": ends, "counted": f"{result.cell.count} in {images}"}


def analysis_markdown(analysis: Analysis) -> str:
    """Format the table in GitHub's Markdown: mean (95 % interval), and the numbers of values and images.

    Args:
        analysis: The report.

    Returns:
        The table, with one column per method, and the remarks.
    """
    heads = ["", *(markdown_text(method) for method in analysis.methods), "chance"]
    lines = [markdown_line(heads), markdown_line(["---", *["---:"] * (len(heads) - 1)])]
    for row in analysis_rows(analysis):
        lines.append(markdown_line([markdown_text(row["title"]), *map(_markdown_cell, row["cells"]), row["chance"]]))
    return (
        "\n".join([*lines, "", "Mean (95 % interval); values in images.", *(f"\n{remark}" for remark in analysis.remarks)]) + "\n"
    )


def _markdown_cell(cell: Mapping[str, str] | None) -> str:
    if cell is None:
        return UNDEFINED
    ends = f" ({cell['ends']})" if cell["ends"] else ""
    return f"{cell['mean']}{ends}; {cell['counted']}"


def analysis_plain(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Format the means and the chance level for a terminal.

    Args:
        analysis: The report.

    Returns:
        The header, and the rows.
    """
    rows = analysis_rows(analysis)
    lines = [
        [row["title"], *(UNDEFINED if cell is None else cell["mean"] for cell in row["cells"]), row["chance"]] for row in rows
    ]
    return ["measure", *analysis.methods, "chance"], lines


def write_analysis(analysis: Analysis) -> str:
    """Render the page.

    Args:
        analysis: The report.

    Returns:
        The page as HTML.
    """
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
