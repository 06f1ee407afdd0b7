"""The table of a run: ranks, comparison with the controls, numbers as text, and the table as Markdown and LaTeX."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from whybox.report.results import Cell, Column, EvaluationReport, Key, Row

ARROWS = {True: "↑", False: "↓"}
UNDEFINED = "–"
MARK = "†"
"""The mark of a method that is not shown to beat the better control."""
LEGEND = (
    "Mean (95 % confidence interval); bold: the best method; underlined: the second; "
    f"{MARK} not shown to beat the better control."
)


class Place(NamedTuple):
    """A cell's rank and mark.

    Attributes:
        rank: 1 for the best method, 2 for the second, 0 for the others and for controls.
        beaten: Whether it is a method that is not shown to beat the better control.
    """

    rank: int
    beaten: bool


def places(report: EvaluationReport) -> Mapping[Key, Place]:
    """Rank the methods of every column.

    Args:
        report: The report of a run.

    Returns:
        By (row key, column key), for every cell that has a number.
    """
    ranks: dict[Key, Place] = {}
    for column in report.columns:
        ranked = _ranked(report, column)
        for row, cell in defined(report, column):
            rank = 0 if row.is_control else ranked.index(cell.mean) + 1
            ranks[row.key, column.key] = Place(rank if rank < 3 else 0, _is_beaten(report, row, column))
    return ranks


def defined(report: EvaluationReport, column: Column) -> list[tuple[Row, Cell]]:
    """The rows that have a number in a column.

    Args:
        report: The report of a run.
        column: A metric of the report.

    Returns:
        Rows with their cells, in the order of the report.
    """
    pairs = [(row, report.cells.get((row.key, column.key))) for row in report.rows]
    return [(row, cell) for row, cell in pairs if cell is not None and not math.isnan(cell.mean)]


def _ranked(report: EvaluationReport, column: Column) -> list[float]:
    """The methods' means, the best first, equal ones once."""
    # A set, so that equal means share a rank.
    means = {cell.mean for row, cell in defined(report, column) if not row.is_control}
    return sorted(means, reverse=column.higher_is_better)


def _is_beaten(report: EvaluationReport, row: Row, column: Column) -> bool:
    """Whether the interval of the difference to the better control is known and not above 0."""
    cell = report.versus.get((row.key, column.key))
    # A negation, so that an interval of NaN counts as not shown.
    return cell is not None and not row.is_control and not cell.low > 0


def better_control(report: EvaluationReport, column: Column) -> Row | None:
    """The control with the best mean.

    Args:
        report: The report of a run.
        column: A metric of the report.

    Returns:
        The control, the first of equal ones; None where there is none.
    """
    sign = 1 if column.higher_is_better else -1
    controls = [(row, sign * cell.mean) for row, cell in defined(report, column) if row.is_control]
    return max(controls, key=lambda pair: pair[1])[0] if controls else None


def winning_control(report: EvaluationReport, column: Column) -> Row | None:
    """The better control, where no method has a better mean.

    Args:
        report: The report of a run.
        column: A metric of the report.

    Returns:
        The control, or None.
    """
    control, methods = better_control(report, column), _ranked(report, column)
    if control is None or not methods:
        return None
    mean = report.cells[control.key, column.key].mean
    beaten = methods[0] > mean if column.higher_is_better else methods[0] < mean
    return None if beaten else control


def warnings(report: EvaluationReport) -> list[str]:
    """Warn of every metric on which a control wins.

    Args:
        report: The report of a run.

    Returns:
        One sentence per metric.
    """
    winners = [(column, winning_control(report, column)) for column in report.columns]
    return [
        f"{column.title}: the control “{winner.title}” scores at least as well as every method. "
        "On this model the metric does not distinguish an explanation from a drawn box: it cannot rank the methods."
        for column, winner in winners
        if winner is not None
    ]


def decimals(values: Sequence[float]) -> int:
    """Choose the number of decimals for several values.

    Args:
        values: The values; NaN is ignored.

    Returns:
        Decimals such that the largest value has three significant digits, 0 to 6; 0.5 and 1 get the same number.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return min(6, max(0, 3 - math.ceil(math.log10(largest)))) if largest else 3


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """Format a number.

    Args:
        value: The number.
        digits: Decimals.
        sign: Whether a positive number has a plus sign.

    Returns:
        The number with a true minus sign, or a dash where it is not finite.
    """
    if not math.isfinite(value):
        return UNDEFINED
    # A value that rounds to zero has no sign.
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def interval(cell: Cell, digits: int, *, sign: bool = False) -> str:
    """Format the ends of an interval.

    Args:
        cell: The mean with its interval.
        digits: Decimals.
        sign: Whether positive numbers have a plus sign.

    Returns:
        "0.12 to 0.34", or "" where the ends are not known.
    """
    if not (math.isfinite(cell.low) and math.isfinite(cell.high)):
        return ""
    return f"{number(cell.low, digits, sign=sign)} to {number(cell.high, digits, sign=sign)}"


def in_bands(rows: Sequence[Row]) -> list[Row]:
    """Order rows for a table.

    Args:
        rows: Methods and controls.

    Returns:
        The methods, then the controls.
    """
    # The sort is stable: the order within methods and controls is kept.
    return sorted(rows, key=lambda row: row.is_control)


def digits_of(report: EvaluationReport, column: Column) -> int:
    """The number of decimals of a column.

    Args:
        report: The report of a run.
        column: A metric of the report.

    Returns:
        As `decimals`, of the column's means.
    """
    return decimals([cell.mean for _, cell in defined(report, column)])


def table_markdown(report: EvaluationReport) -> str:
    """Format the table in GitHub's Markdown: mean (95 % interval), the best method bold, the second underlined, controls last.

    A dagger marks a method that is not shown to beat the better control; the line below the table says so. What there is to say
    of the data comes last.

    Args:
        report: The report of a run.

    Returns:
        The table, its legend, and the notes about the data.
    """
    heads = ["", *(markdown_text(f"{column.title} {ARROWS[column.higher_is_better]}") for column in report.columns)]
    lines = [markdown_line(heads), markdown_line(["---", *["---:"] * len(report.columns)])]
    texts = _texts(report, _markdown_cell)
    for row in in_bands(report.rows):
        title = markdown_text(row.title)
        lines.append(markdown_line([f"*{title}* (control)" if row.is_control else title, *texts[row.key]]))
    return "\n".join([*lines, "", LEGEND, *data_notes(report.problems)]) + "\n"


def data_notes(problems: Sequence[str]) -> list[str]:
    """What is written below a table about its data, as lines of Markdown.

    Args:
        problems: Of the data set.

    Returns:
        The lines, an empty one first; none where there are no problems.
    """
    return ["", "About the data:", "", *(f"- {markdown_text(line)}" for line in problems)] if problems else []


def table_plain(report: EvaluationReport) -> tuple[list[str], list[list[str]]]:
    """Format the table for a terminal, which is narrow: one row per metric, one column per method; `*` marks the best method.

    Args:
        report: The report of a run.

    Returns:
        The header, and the rows.
    """
    rows = in_bands(report.rows)
    place = places(report)
    lines = []
    for column in report.columns:
        digits, cells = digits_of(report, column), []
        for row in rows:
            cell = report.cells.get((row.key, column.key))
            if cell is None or (row.key, column.key) not in place:
                cells.append(UNDEFINED)
                continue
            mark = place[row.key, column.key]
            cells.append(f"{number(cell.mean, digits)}{'*' if mark.rank == 1 else ''}{MARK if mark.beaten else ''}")
        lines.append([f"{column.title} {ARROWS[column.higher_is_better]}", *cells])
    return ["metric", *(row.title for row in rows)], lines


def table_latex(report: EvaluationReport) -> str:
    """Format the table for LaTeX with booktabs, with the marks of `table_markdown`.

    Args:
        report: The report of a run.

    Returns:
        A tabular environment.
    """
    heads = [f"{_latex_text(column.title)} ${_latex_arrow(column)}$" for column in report.columns]
    texts = _texts(report, _latex_cell)
    bands = [[row for row in report.rows if row.is_control is control] for control in (False, True)]
    blocks = [
        "\n".join(f"{_latex_text(row.title)} & {' & '.join(texts[row.key])} \\\\" for row in band) for band in bands if band
    ]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * len(report.columns)}}}",
            "\\toprule",
            f" & {' & '.join(heads)} \\\\",
            "\\midrule",
            "\n\\midrule\n".join(blocks),
            "\\bottomrule",
            "\\end{tabular}\n",
        ]
    )


def _texts(report: EvaluationReport, write: Callable[[Cell, int, Place], str]) -> Mapping[str, list[str]]:
    """The cells of every row as text, by the row's key."""
    place = places(report)
    digits = {column.key: digits_of(report, column) for column in report.columns}
    return {
        row.key: [
            write(report.cells[row.key, column.key], digits[column.key], place[row.key, column.key])
            if (row.key, column.key) in place
            else UNDEFINED
            for column in report.columns
        ]
        for row in report.rows
    }


def _markdown_cell(cell: Cell, digits: int, place: Place) -> str:
    # Markdown has no underline.
    mean = {1: "**{}**", 2: "<u>{}</u>"}.get(place.rank, "{}").format(number(cell.mean, digits))
    ends = interval(cell, digits)
    return mean + (MARK if place.beaten else "") + (f" ({ends})" if ends else "")


def _latex_cell(cell: Cell, digits: int, place: Place) -> str:
    mean = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}.get(place.rank, "{}").format(_latex_text(number(cell.mean, digits)))
    ends = interval(cell, digits).replace(" to ", ", ")
    return mean + (r"$^\dagger$" if place.beaten else "") + (f" {{\\scriptsize [{_latex_text(ends)}]}}" if ends else "")


def markdown_line(cells: Sequence[str]) -> str:
    """Format a row of a Markdown table.

    Args:
        cells: The cells, escaped.

    Returns:
        The row.
    """
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    """Escape text for Markdown.

    Args:
        text: The text.

    Returns:
        The text on one line, shown by Markdown as it is.
    """
    # A line break would end the row of the table.
    return "".join(f"\\{letter}" if letter in "\\|*_`<[]" else letter for letter in " ".join(text.split()))


def _latex_arrow(column: Column) -> str:
    return r"\uparrow" if column.higher_is_better else r"\downarrow"


LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    UNDEFINED: "--",
}


def _latex_text(text: str) -> str:
    # Letter by letter: replacing one symbol after another would escape the backslashes again.
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
