"""The report of a study with people: tables with intervals, tests, plans for the next study, as Markdown, a page and figures."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whybox.report.document import render
from whybox.report.figures import FONTS, GREY, INKS, figure_bytes, plain_texts
from whybox.report.table import UNDEFINED, markdown_line, markdown_text, number

SIMULATED = "Simulated respondents: nobody was asked, and these numbers say nothing of the maps."
SIGNIFICANT = 0.05
SHADES = ("#1f2a3a", "#4d5b6e", "#8492a4", "#b7c1cd", "#e2e6ec")
"""From the first category of shares to the last: greys of one hue, because the colors of `INKS` are methods."""
LONGEST_NAME = 28
"""Letters of a row's name in a figure."""


@dataclass(frozen=True)
class StudyCell:
    """A number of a table; NaN where it is not defined.

    Attributes:
        value: The number.
        low: The lower end of its interval; NaN: it has none.
        high: The upper end.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class StudyColumn:
    """A column of a table.

    Attributes:
        title: A few words.
        digits: After the decimal point.
        share: Whether it is a part of a whole, in percent: these columns are drawn as parts of one bar.
        drawn: Whether it is in the figure.
    """

    title: str
    digits: int = 2
    share: bool = False
    drawn: bool = True


@dataclass(frozen=True)
class StudyTable:
    """A table.

    Attributes:
        key: The name of its figure's file.
        title: A few words.
        columns: Its columns.
        rows: Names with their cells, one per column.
        note: What the numbers are.
    """

    key: str
    title: str
    columns: Sequence[StudyColumn]
    rows: Sequence[tuple[str, Sequence[StudyCell]]]
    note: str = ""


@dataclass(frozen=True)
class StudyTest:
    """A test, with its p-value corrected.

    Attributes:
        question: What is compared, in words.
        name: The test.
        statistic: Its statistic.
        freedom: Degrees of freedom; NaN: none.
        p: The p-value.
        corrected: The p-value corrected by Holm for the tests of its family.
        effect: The effect's size.
        measure: What the effect is.
        count: The number of answers or people.
        unit: "answers" or "people".
        family: The tests that it is corrected with.
        note: What limits the test.
    """

    question: str
    name: str
    statistic: float
    freedom: float
    p: float
    corrected: float
    effect: float
    measure: str
    count: int
    unit: str
    family: str
    note: str = ""


@dataclass(frozen=True)
class StudyPlan:
    """How many people a next study needs to see a difference.

    Attributes:
        question: What is compared.
        effect: The effect that this study found.
        measure: What the effect is.
        people: How many people see it in four of five studies; None: more than can be planned.
        people_corrected: The same, at the level divided by the number of tests.
        detectable: The smallest effect that as many people as took part see in four of five studies; NaN: not of this test.
    """

    question: str
    effect: float
    measure: str
    people: int | None
    people_corrected: int | None
    detectable: float


@dataclass(frozen=True)
class StudyReport:
    """The report of a study.

    Attributes:
        title: The design.
        lead: What was asked.
        simulated: Whether the respondents were simulated.
        tables: The tables.
        tests: The tests.
        plans: The plans.
        facts: (name, text) on people, questions and settings.
        remarks: Sentences that a reader of the numbers needs.
    """

    title: str
    lead: str
    simulated: bool
    tables: Sequence[StudyTable]
    tests: Sequence[StudyTest]
    plans: Sequence[StudyPlan]
    facts: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = field(default_factory=tuple)

    @property
    def heading(self) -> str:
        """The title, which says so where nobody was asked."""
        return f"{self.title} (simulated respondents)" if self.simulated else self.title


def p_words(p: float) -> str:
    """A p-value as text.

    Args:
        p: The value.

    Returns:
        Three digits, or "< .001".
    """
    if math.isnan(p):
        return UNDEFINED
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def words_of_cell(cell: StudyCell, column: StudyColumn) -> tuple[str, str]:
    """A cell as text.

    Args:
        cell: The cell.
        column: Its column.

    Returns:
        The number, and its interval or "".
    """
    if math.isnan(cell.low) or math.isnan(cell.high):
        return number(cell.value, column.digits), ""
    return number(cell.value, column.digits), f"{number(cell.low, column.digits)} to {number(cell.high, column.digits)}"


def words_of_test(test: StudyTest) -> dict[str, str]:
    """A test as texts.

    Args:
        test: The test.

    Returns:
        By column: "question", "test", "statistic", "p", "corrected", "effect", "count", "note".
    """
    freedom = "" if math.isnan(test.freedom) else f" ({test.freedom:.0f})"
    return {
        "question": test.question,
        "test": test.name,
        "statistic": f"{number(test.statistic, 2)}{freedom}",
        "p": p_words(test.p),
        "corrected": p_words(test.corrected),
        "effect": f"{number(test.effect, 2)} {test.measure}",
        "count": f"{test.count} {test.unit}",
        "note": test.note,
    }


def words_of_plan(plan: StudyPlan) -> dict[str, str]:
    """A plan as texts.

    Args:
        plan: The plan.

    Returns:
        By column: "question", "effect", "people", "people_corrected", "detectable".
    """
    counts = {
        name: UNDEFINED if (value := getattr(plan, name)) is None else str(value) for name in ("people", "people_corrected")
    }
    effect = f"{number(plan.effect, 2)} {plan.measure}"
    return {"question": plan.question, "effect": effect, **counts, "detectable": number(plan.detectable, 2)}


TEST_HEADS = ("compared", "test", "statistic (df)", "p", "p, Holm", "effect", "of", "note")
PLAN_HEADS = ("compared", "effect found", "people", "people, corrected", "smallest effect seen now")


def study_markdown(report: StudyReport) -> str:
    """Format the tables, tests and plans in GitHub's Markdown.

    Args:
        report: The report.

    Returns:
        The text.
    """
    lines = [f"# {report.heading}", "", *([f"**{SIMULATED}**", ""] if report.simulated else [])]
    for table in report.tables:
        lines += [f"## {table.title}", "", *_markdown(*table_plain(table)), "", *([table.note, ""] if table.note else [])]
    tests = [list(words_of_test(test).values()) for test in report.tests]
    plans = [list(words_of_plan(plan).values()) for plan in report.plans]
    if tests:
        lines += ["## Tests", "", *_markdown(TEST_HEADS, tests), ""]
    if plans:
        lines += ["## Planning the next study", "", *_markdown(PLAN_HEADS, plans), ""]
    lines += [f"- {name}: {text}" for name, text in report.facts]
    return "\n".join([*lines, "", *(f"{remark}\n" for remark in report.remarks)])


def table_plain(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    """Format a table for a terminal.

    Args:
        table: The table.

    Returns:
        The header, and the rows.
    """
    heads = ["", *(column.title for column in table.columns)]
    rows = []
    for name, cells in table.rows:
        words = [words_of_cell(cell, column) for cell, column in zip(cells, table.columns, strict=True)]
        rows.append([name, *(f"{value} ({ends})" if ends else value for value, ends in words)])
    return heads, rows


def tests_plain(report: StudyReport) -> tuple[list[str], list[list[str]]]:
    """Format the tests for a terminal.

    Args:
        report: The report.

    Returns:
        The header, and the rows.
    """
    # Without the notes, which are long.
    return list(TEST_HEADS[:-1]), [list(words_of_test(test).values())[:-1] for test in report.tests]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[markdown_text(cell) for cell in row] for row in rows]
    return [markdown_line(cells) for cells in ([markdown_text(head) for head in heads], ["---"] * len(heads), *escaped)]


def draw_table(table: StudyTable, rows_of: Sequence[str], *, simulated: bool) -> dict[str, bytes]:
    """Draw a table: its shares as parts of bars, its other numbers as dots with intervals.

    Args:
        table: The table.
        rows_of: The names of all rows of the report, so that a row has the same color in every figure.
        simulated: Whether the title says that nobody was asked.

    Returns:
        The files' bytes: "png" and "svg".
    """
    # Imported on use, because matplotlib takes long to load; without pyplot, which keeps its figures in global state.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shares = [i for i, column in enumerate(table.columns) if column.share]
    others = [i for i, column in enumerate(table.columns) if column.drawn and not column.share]
    count = bool(shares) + len(others)
    # Room for the names, in inches: constrained_layout gives up where there is none.
    names = 0.08 * max((len(_short(name)) for name, _ in table.rows), default=0)
    with rc_context(FONTS):
        figure = Figure(figsize=(0.6 + names + 3.1 * count, 1.5 + 0.42 * len(table.rows)), layout="constrained")
        title = f"{table.title} (simulated respondents)" if simulated else table.title
        figure.suptitle(title, fontsize=10, x=0.01, ha="left").set_parse_math(False)
        axes = list(figure.subplots(1, count, sharey=True, sharex=not shares, squeeze=False)[0])
        if shares:
            _draw_shares(axes.pop(0), table, shares)
        for i in others:
            _draw_means(axes.pop(0), table, i, rows_of)
        return {form: figure_bytes(figure, form) for form in ("png", "svg")}


def _draw_shares(axes: Any, table: StudyTable, shares: Sequence[int]) -> None:
    places = range(len(table.rows))
    left = [0.0] * len(table.rows)
    for order, i in enumerate(shares):
        wide = [0.0 if math.isnan(cells[i].value) else cells[i].value for _, cells in table.rows]
        shade = SHADES[round(order * (len(SHADES) - 1) / max(1, len(shares) - 1))]
        axes.barh(places, wide, left=left, color=shade, label=table.columns[i].title, height=0.62)
        left = [before + more for before, more in zip(left, wide, strict=True)]
    axes.set_xlabel("percent")
    axes.set_xlim(0, 100)
    legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(shares), 3), frameon=False, fontsize=7)
    plain_texts(legend.get_texts())
    _name_rows(axes, table)


def _draw_means(axes: Any, table: StudyTable, place: int, rows_of: Sequence[str]) -> None:
    for row, (name, cells) in enumerate(table.rows):
        cell = cells[place]
        color = INKS[list(rows_of).index(name) % len(INKS)] if name in rows_of else GREY
        axes.plot([cell.low, cell.high], [row, row], color=color, linewidth=1.8)
        axes.plot([cell.value], [row], "o", color=color, markersize=5)
    axes.set_xlabel(table.columns[place].title, parse_math=False)
    axes.grid(axis="x", color="#e2dfd7", linewidth=0.6)
    _name_rows(axes, table)


def _name_rows(axes: Any, table: StudyTable) -> None:
    axes.set_yticks(range(len(table.rows)), [_short(name) for name, _ in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    plain_texts(axes.get_yticklabels())


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def write_study(report: StudyReport, figures: Mapping[str, bytes]) -> str:
    """Render the page.

    Args:
        report: The report.
        figures: A PNG for each table, by its key.

    Returns:
        The page as HTML.
    """
    urls = {key: f"data:image/png;base64,{b64encode(png).decode('ascii')}" for key, png in figures.items()}
    return render(
        "study.html",
        styles="document.css",
        script="document.js",
        title=report.heading,
        report=report,
        warning=SIMULATED if report.simulated else "",
        tables=[_table_view(table, urls.get(table.key, "")) for table in report.tables],
        tests=[words_of_test(test) | {"significant": test.corrected < SIGNIFICANT} for test in report.tests],
        plans=[words_of_plan(plan) for plan in report.plans],
        test_heads=TEST_HEADS,
        plan_heads=PLAN_HEADS,
        markdown=study_markdown(report),
    )


def _table_view(table: StudyTable, url: str) -> dict[str, Any]:
    rows = [
        (name, [words_of_cell(cell, column) for cell, column in zip(cells, table.columns, strict=True)])
        for name, cells in table.rows
    ]
    heads = [column.title for column in table.columns]
    return {"key": table.key, "title": table.title, "heads": heads, "rows": rows, "note": table.note, "figure": url}
