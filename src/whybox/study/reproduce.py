"""The paper's tables on studies with people, beside the numbers of a study of one's own."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError
from whybox.files import json_text, write_whole
from whybox.report.study import SIMULATED, StudyReport, p_words
from whybox.report.table import markdown_line, markdown_text
from whybox.specs import split_spec
from whybox.study.answers import Answers
from whybox.study.designs.better_detector import NEITHER
from whybox.study.folder import ANSWERS, Study, read_study
from whybox.study.paper_tables import (
    CHOSEN,
    CHOSEN_COUNTS,
    CHOSEN_PERCENT,
    CONFIDENCE_COUNTS,
    METHODS,
    PAPER,
    RIGHT_COUNTS,
    PaperStudy,
)
from whybox.study.reporting import make_report
from whybox.study.scored import score_answers
from whybox.study.statistics import Tested, chi_square_of_counts, chi_square_of_table


def study_statement(table: PaperStudy) -> str:
    """Describe a table: its title, its source, what it needs, the paper's numbers, and its tests computed again.

    Args:
        table: The table.

    Returns:
        Several lines of text.
    """
    rows = [[METHODS[name], *map("{:g}".format, numbers)] for name, numbers in table.rows.items()]
    lines = [f"{table.name}: {table.title}", f"Source: {PAPER}", "", f"Needs: {table.needs}.", *table.caveats, ""]
    lines += [_lines(["paper", *table.heads], rows), "", *_chosen_lines(table)]
    tests = [f"{what}: {_words(test)}" for what, test in tests_of_counts(table)]
    return "\n".join([*lines, "From the counts behind the published percentages:", *tests])


def tests_of_counts(table: PaperStudy) -> list[tuple[str, Tested]]:
    """The tests that the published counts allow.

    Args:
        table: The table.

    Returns:
        What is compared, and the test.
    """
    if "better_detector" in table.designs:
        return [("which of two detectors, of those who decided", chi_square_of_counts(CHOSEN_COUNTS[:2]))]
    names = list(table.rows)
    right = [[RIGHT_COUNTS[name], sum(CONFIDENCE_COUNTS[name]) - RIGHT_COUNTS[name]] for name in names]
    others = [i for i, name in enumerate(names) if name != "odam"]
    odam = names.index("odam")
    pairs = [(f"right answers, ODAM or {METHODS[names[i]]}", chi_square_of_table([right[odam], right[i]])) for i in others]
    sure = chi_square_of_table([CONFIDENCE_COUNTS[name] for name in names])
    return [("right answers of all methods", chi_square_of_table(right)), *pairs, ("confidences of all methods", sure)]


def _words(test: Tested) -> str:
    found = f"chi2({test.freedom:.0f}) = {test.statistic:.2f}, p {_equals(test.p)}"
    return f"{found}, {test.measure} {test.effect:.2f}, n = {test.count}"


def _equals(p: float) -> str:
    words = p_words(p)
    return words if words.startswith("<") else f"= {words}"


def _chosen_lines(table: PaperStudy) -> list[str]:
    if "better_detector" not in table.designs:
        return []
    rows = [
        [name, f"{percent:g}", str(count)] for name, percent, count in zip(CHOSEN, CHOSEN_PERCENT, CHOSEN_COUNTS, strict=True)
    ]
    return [_lines(["which detector is trusted (paper)", "%", "answers, of 600"], rows), ""]


def reproduce_study(
    table: PaperStudy, folders: Sequence[Path], out: Path, *, better: str | None = None, simulated: bool | None = None
) -> str:
    """Put a study's numbers beside the paper's.

    Args:
        table: One of `STUDY_TABLES`.
        folders: Folders of studies, at most one per design of the table.
        out: A folder for table.md and table.json.
        better: For a `better_detector` study the model with the higher accuracy; None: its first.
        simulated: As of `score_answers`.

    Returns:
        The tables as Markdown.

    Raises:
        WhyboxError: A study of another design, two of one design, or no answers.
    """
    studies: dict[str, tuple[Study, StudyReport]] = {}
    for folder in folders:
        study = read_study(folder)
        name = study.design.name
        if name not in table.designs or name in studies:
            raise WhyboxError(f"{folder}: a study of {name}; {table.name} takes one of each: {', '.join(table.designs)}")
        with Answers(folder / ANSWERS, read_only=True) as answers:
            studies[name] = study, make_report(study, score_answers(study, answers, simulated=simulated))
    parts, values = [], {}
    for name, (study, report) in studies.items():
        made, plain = _beside_choices(study, report, better) if name == "better_detector" else _beside(table, report)
        warning = f"**{SIMULATED}**\n\n" if report.simulated else ""
        parts.append(f"{warning}{made}\n\n{_tests_line(report)}")
        values[name] = {"simulated": report.simulated, "rows": plain}
    text = "\n\n".join(parts)
    write_whole(out / "table.md", "\n".join([f"# {table.title}", "", text, "", *table.caveats, ""]))
    write_whole(out / "table.json", json_text({"table": table.name, "studies": values}))
    return text


def _tests_line(report: StudyReport) -> str:
    shown = [test for test in report.tests if test.unit == "answers"]
    words = [
        f"{test.question}: chi2({test.freedom:.0f}) = {test.statistic:.2f}, p {_equals(test.p)}"
        for test in shown
        if test.p == test.p
    ]
    return "Tests of this study: " + "; ".join(words) + ". All of them: `whybox study report`."


def _beside(table: PaperStudy, report: StudyReport) -> tuple[str, list[dict[str, Any]]]:
    """Methods that the paper has too, under its name; any others below."""
    shown = report.tables[0]
    titles = [column.title for column in shown.columns]
    places = {head: titles.index(head) for head in table.heads if head in titles}
    ours = {
        name: [cells[places[head]].value if head in places else math.nan for head in table.heads] for name, cells in shown.rows
    }
    matched = {split_spec(name)[0]: name for name in ours}
    mine = _who(report)
    lines, plain = [], []
    for key, numbers in table.rows.items():
        own = ours.get(matched.get(key, ""))
        lines.append([METHODS[key], *_pairs(numbers, own)])
        plain.append({"row": METHODS[key], "paper": _named(table, numbers), "ours": None if own is None else _named(table, own)})
    for name, own in ours.items():
        if split_spec(name)[0] not in table.rows:
            lines.append([name, *_pairs(None, own)])
            plain.append({"row": name, "paper": None, "ours": _named(table, own)})
    heads = [text for head in table.heads for text in (f"{head}, paper", mine)]
    return _lines(["method", *heads], lines), plain


def _beside_choices(study: Study, report: StudyReport, better: str | None) -> tuple[str, list[dict[str, Any]]]:
    if better is not None and better not in study.conditions:
        raise WhyboxError(f"{better!r} is no model of the study, which has {' and '.join(study.conditions)}")
    first = better or study.conditions[0]
    (second,) = (name for name in study.conditions if name != first)
    ours = {name: cells[0].value for name, cells in report.tables[0].rows}
    lines, plain = [], []
    for title, percent, name in zip(CHOSEN, CHOSEN_PERCENT, (first, second, NEITHER), strict=True):
        lines.append([title, f"{percent:g}", name, f"{ours[name]:.1f}"])
        plain.append({"row": title, "paper": percent, "model": name, "ours": ours[name]})
    return _lines(["paper's detector", "chosen, %, paper", "here", f"chosen, %, {_who(report)}"], lines), plain


def _who(report: StudyReport) -> str:
    return "simulated" if report.simulated else "ours"


def _pairs(paper: Sequence[float] | None, own: Sequence[float] | None) -> list[str]:
    count = len(paper or own or ())
    shown = [["" if numbers is None else f"{value:.4g}" for value in numbers or [0.0] * count] for numbers in (paper, own)]
    return [text for pair in zip(*shown, strict=True) for text in pair]


def _named(table: PaperStudy, numbers: Sequence[float]) -> Mapping[str, float]:
    return dict(zip(table.heads, numbers, strict=True))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[markdown_text(cell) for cell in cells] for cells in (head, *rows)]
    return "\n".join(markdown_line(cells) for cells in (escaped[0], ["---"] * len(head), *escaped[1:]))
