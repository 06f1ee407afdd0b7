"""The report: its numbers by hand, its files, and that simulated respondents are named in every one of them."""

import csv
import json
import math
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from study.made_up import METHODS, make_study
from whybox.errors import WhyboxError
from whybox.report.figures import INKS
from whybox.report.study import SHADES, draw_table, p_words, study_markdown, write_study
from whybox.study.answers import Answers
from whybox.study.comparisons import compare, corrected
from whybox.study.planning import plan_for
from whybox.study.reporting import csv_text, make_report, report_study
from whybox.study.respondents import simulate
from whybox.study.scored import Scored

SAID = "imulated respondents: nobody was asked"


def row(person, condition, **values):
    about = {"respondents": "people", "person": person, "question": "q", "item": values.pop("item", "i"), "size": "small"}
    return {**about, "condition": condition, **values}


def scored(rows):
    return Scored("people", rows, len({one["person"] for one in rows}), 0, 0, 0)


def cells(table, name):
    return [cell.value for cell in dict(table.rows)[name]]


def test_the_ranks_table_by_hand(tmp_path):
    study = make_study(tmp_path, "trust_ranking")
    ranks = {"p": (1, 2, 3), "q": (1, 3, 2), "r": (2, 1, 3), "s": (1, 2, 3)}
    rows = [row(person, name, rank=rank) for person, given in ranks.items() for name, rank in zip(METHODS, given, strict=True)]
    compared = compare(study, scored(rows))
    (table,) = compared.tables
    assert cells(table, "odam") == [75, 25, 0, 1.25, 4]
    assert cells(table, "gradcam") == [25, 50, 25, 2, 4]
    tests = {(test.question, test.name): test for test in compared.tests}
    # Rank sums 5, 8, 11: 12 / (4 * 3 * 4) * (25 + 64 + 121) - 3 * 4 * 4.
    assert tests["average ranks of all methods", "Friedman"].statistic == pytest.approx(4.5)
    pair = tests["odam or drise:masks=500: average rank", "paired t"]
    # Differences -2, -1, -1, -2.
    assert pair.statistic == pytest.approx(-1.5 / (math.sqrt(1 / 3) / 2))
    assert pair.corrected == pytest.approx(min(1, 3 * pair.p))
    assert [plan.question for plan in compared.plans][1] == pair.question


def test_the_choices_table_by_hand(tmp_path):
    study = make_study(tmp_path, "better_detector")
    chosen = ["new"] * 6 + ["old"] * 2 + ["no difference"] * 2
    rows = [row(f"p{i % 5}", "", item=str(i), chosen=name, first="new") for i, name in enumerate(chosen)]
    compared = compare(study, scored(rows))
    assert [cells(compared.tables[0], name) for name in ("old", "new", "no difference")] == [[20, 2], [60, 6], [20, 2]]
    of_counts, place = compared.tests[0], compared.tests[-1]
    assert (of_counts.statistic, of_counts.count) == (2, 8)
    assert place.question == "the first shown or the second"
    assert place.statistic == 2


def test_the_answers_table_by_hand(tmp_path):
    study = make_study(tmp_path, "discrimination", conditions=("odam", "gradcam"))
    given = [("p", "odam", 1, 5), ("q", "odam", 1, 4), ("p", "gradcam", 0, 1), ("q", "gradcam", 1, 2)]
    rows = [row(person, name, correct=right, confidence=sure, chance=1 / 3) for person, name, right, sure in given]
    compared = compare(study, scored(rows))
    assert cells(compared.tables[0], "odam") == pytest.approx([0, 0, 0, 50, 50, 4.5, 100, 100 / 3, 2])
    assert cells(compared.tables[0], "gradcam") == pytest.approx([50, 50, 0, 0, 0, 1.5, 50, 100 / 3, 2])
    chance = next(test for test in compared.tests if test.question == "gradcam: right answers or chance")
    # 0 and 1, less a third.
    assert chance.statistic == pytest.approx((1 / 2 - 1 / 3) / (math.sqrt(1 / 2) / math.sqrt(2)))


def test_a_condition_that_nobody_met(tmp_path):
    study = make_study(tmp_path, "discrimination")
    rows = [row(person, "odam", correct=1, confidence=3, chance=1 / 3) for person in "pq"]
    report = make_report(study, scored([{**one, "image": "a", "class": "cat"} for one in rows]))
    assert all(math.isnan(value) for value in cells(report.tables[0], "gradcam")[:-1])
    assert draw_table(report.tables[0], ["odam"], simulated=False)["png"][:4] == b"\x89PNG"
    assert "| gradcam | – |" in study_markdown(report)


def test_holm_is_for_each_family_by_itself(tmp_path):
    study = make_study(tmp_path, "trust_ranking")
    ranks = [(1, 2, 3), (1, 3, 2), (2, 1, 3)]
    rows = [row(str(i), name, rank=rank) for i, given in enumerate(ranks) for name, rank in zip(METHODS, given, strict=True)]
    tests = compare(study, scored(rows)).tests
    families = {}
    for test in tests:
        families.setdefault(test.family, []).append(test)
    assert {name: len(part) for name, part in families.items()} == {"all": 2, "average rank, Wilcoxon": 3, "average rank, t": 3}
    assert all(test.corrected >= test.p for test in tests if not math.isnan(test.p))
    assert corrected(tests) == tests or any(math.isnan(test.p) for test in tests)


@pytest.fixture(autouse=True)
def small_figures(monkeypatch):
    monkeypatch.setattr("whybox.report.figures.DOTS", 40)


@pytest.mark.parametrize("name", ["trust_ranking", "better_detector", "discrimination"])
def test_simulated_respondents_are_named_in_every_file(tmp_path, name):
    sizes = ("small", "large") if name == "discrimination" else ("small",)
    study = make_study(tmp_path / "study", name, sizes=sizes)
    simulate(study, tmp_path / "study", 5, careless=0)
    report = report_study(study, tmp_path / "study", tmp_path / "report")
    assert report.simulated
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {"index.html", "table.md", "report.json", "answers-simulated.csv", "answers-simulated.parquet", "figures"}
    for file in ("index.html", "table.md"):
        assert SAID in (tmp_path / "report" / file).read_text()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["respondents"] == "simulated"
    with (tmp_path / "report" / "answers-simulated.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {one["respondents"] for one in rows} == {"simulated"}
    kept = pq.read_table(tmp_path / "report" / "answers-simulated.parquet").to_pylist()
    assert [{key: str(value) for key, value in one.items()} for one in kept] == rows
    figures = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    assert figures == sorted(f"{table.key}.{form}" for table in report.tables for form in ("png", "svg"))
    for table in report.tables:
        svg = tmp_path / "report" / "figures" / f"{table.key}.svg"
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert "simulated respondents" in svg.read_text()
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(f"Figure: {table.title}" in page for table in report.tables)
    with pytest.raises(WhyboxError, match="already exists"):
        report_study(study, tmp_path / "study", tmp_path / "report")


def test_people_are_reported_without_the_simulated(tmp_path):
    study = make_study(tmp_path / "study", "discrimination")
    simulate(study, tmp_path / "study", 2, careless=0)
    with Answers(tmp_path / "study" / "answers.sqlite") as answers:
        code = answers.begin(lambda number: plan_for(study, number))
        while (place := answers.next_of(code)) is not None:
            answers.store(place, {"choice": 2, "confidence": 5}, 10)
    report = report_study(study, tmp_path / "study", tmp_path / "report")
    assert not report.simulated
    assert report.remarks == ["2 simulated respondents are in the same file of answers, and not in these numbers."]
    assert (tmp_path / "report" / "answers.csv").is_file()
    assert code not in (tmp_path / "report" / "answers.csv").read_text()
    assert SAID not in (tmp_path / "report" / "index.html").read_text()


def test_any_name_is_only_text(tmp_path):
    odd = ("odam:x=</textarea><script>alert(1)</script>|$x_1$", "=1+1")
    study = make_study(tmp_path, "trust_ranking", conditions=odd)
    rows = [{**row(p, name, rank=i + 1), "image": "a", "class": "cat"} for p in "pqr" for i, name in enumerate(odd)]
    report = make_report(study, scored(rows))
    page = write_study(report, {})
    assert "<script>alert" not in page
    assert draw_table(report.tables[0], [], simulated=True)["svg"]
    assert "'=1+1" in csv_text(rows)
    assert "\\|" in study_markdown(report)


def test_ranks_have_no_color_of_a_method():
    assert not set(SHADES) & set(INKS)


def test_p_values_as_people_write_them():
    assert [p_words(p) for p in (0.0004, 0.0044, 1.0, math.nan)] == ["< .001", ".004", "1.000", "–"]
