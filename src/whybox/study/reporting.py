"""The report of a study as a folder: page, tables, figures, and all answers as CSV and Parquet."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from whybox.files import file_stem, json_text, new_file, new_folder
from whybox.report.study import StudyReport, draw_table, study_markdown, write_study
from whybox.study.answers import Answers
from whybox.study.comparisons import compare
from whybox.study.design import Row
from whybox.study.folder import ANSWERS, Study
from whybox.study.recordings import recordings
from whybox.study.scored import Scored, score_answers

PAGE = "index.html"


def report_study(study: Study, folder: Path, out: Path, *, simulated: bool | None = None, replace: bool = False) -> StudyReport:
    """Write the report of a study.

    Args:
        study: The study.
        folder: Its folder, with the answers.
        out: The report's folder; it is written completely or not at all.
        simulated: Whether of simulated respondents; None: of people, and of simulated ones where no people took part.
        replace: Whether a report in `out` is replaced.

    Returns:
        The report.

    Raises:
        WhyboxError: Nobody finished and passed the attention checks.
    """
    with Answers(folder / ANSWERS, read_only=True) as answers:
        scored = score_answers(study, answers, simulated=simulated)
    report = make_report(study, scored)
    with new_folder(out, replace=replace) as draft:
        (draft / PAGE).write_text(write_study(report, _figures(report, draft / "figures")), encoding="utf-8")
        (draft / "table.md").write_text(study_markdown(report), encoding="utf-8")
        (draft / "report.json").write_text(json_text(as_dict(study, scored, report)), encoding="utf-8")
        # In the name, too: a file is passed on without its folder.
        stem = "answers-simulated" if scored.simulated else "answers"
        (draft / f"{stem}.csv").write_text(csv_text(scored.rows), encoding="utf-8")
        _write_parquet(scored.rows, draft / f"{stem}.parquet")
        if looked := recordings(study, scored):
            (draft / f"{stem.replace('answers', 'recordings')}.jsonl").write_text(looked, encoding="utf-8")
    return report


def make_report(study: Study, scored: Scored) -> StudyReport:
    """The report of scored answers.

    Args:
        study: The study.
        scored: Its answers.

    Returns:
        The report.
    """
    compared = compare(study, scored)
    design = study.design
    facts = [(scored.respondents, f"{scored.counted}"), ("answers", f"{len({_answer(row) for row in scored.rows})}")]
    facts += [("objects", str(len({row["item"] for row in scored.rows}))), ("seed", str(study.seed))]
    facts += [("data", str(study.facts.get("data", "")))] if study.facts.get("data") else []
    facts += [(design.compares, ", ".join(study.conditions))] if design.compares else design.facts
    return StudyReport(
        design.title,
        f"The question was: {design.ask}",
        scored.simulated,
        compared.tables,
        compared.tests,
        compared.plans,
        facts,
        _remarks(study, scored),
    )


def _answer(row: Row) -> tuple[str, str]:
    return row["person"], row["question"]


def _remarks(study: Study, scored: Scored) -> list[str]:
    told = []
    if scored.unfinished:
        told.append(f"{scored.unfinished} stopped before the end and are left out.")
    allowed = study.failures_allowed
    if scored.inattentive:
        told.append(f"{scored.inattentive} failed more than {allowed} of {len(study.checks)} attention checks and are left out.")
    if scored.others:
        other = "people" if scored.simulated else "simulated respondents"
        told.append(f"{scored.others} {other} are in the same file of answers, and not in these numbers.")
    return [*told, *_shared(study, scored)]


def _shared(study: Study, scored: Scored) -> list[str]:
    """For recordings: over how many objects the agreement between people can be computed."""
    if study.design.compares:
        return []
    people: dict[str, set[str]] = {}
    for row in scored.rows:
        people.setdefault(row["item"], set()).add(row["person"])
    several = sum(len(who) > 1 for who in people.values())
    return [f"{several} of {len(people)} objects were looked at by at least two: the agreement between people is over these."]


def as_dict(study: Study, scored: Scored, report: StudyReport) -> dict[str, Any]:
    """The report as plain values: the contents of report.json.

    Args:
        study: The study.
        scored: Its answers.
        report: The report.

    Returns:
        A dict ready for JSON; NaN where a number is not defined.
    """
    about: dict[str, Any] = {"schema": 1, "kind": "study report", "design": study.design.name, "respondents": scored.respondents}
    counts = {name: getattr(scored, name) for name in ("counted", "unfinished", "inattentive", "others")}
    tables = [asdict(table) for table in report.tables]
    tests, plans = ([asdict(entry) for entry in part] for part in (report.tests, report.plans))
    return {**about, **counts, "tables": tables, "tests": tests, "plans": plans, "remarks": list(report.remarks)}


def _figures(report: StudyReport, folder: Path) -> dict[str, bytes]:
    """A figure per table, as files; the PNG of each by the table's key."""
    folder.mkdir()
    names = list(dict.fromkeys(name for table in report.tables for name, _ in table.rows))
    drawn: dict[str, bytes] = {}
    for table in report.tables:
        forms = draw_table(table, names, simulated=report.simulated)
        for form, content in forms.items():
            (folder / f"{file_stem(table.key)}.{form}").write_bytes(content)
        drawn[table.key] = forms["png"]
    return drawn


def csv_text(rows: Sequence[Row]) -> str:
    """Scored answers as CSV.

    Args:
        rows: At least one; all with the same columns.

    Returns:
        A header, and a line per row. A text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _write_parquet(rows: Sequence[Row], file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with new_file(file) as draft:
        pq.write_table(pa.Table.from_pylist(list(rows)), draft, compression="zstd")
