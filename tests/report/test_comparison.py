"""Two runs side by side: what counts as better, the words for it, and the page."""

import re

import pytest

from report.made_up_run import COLUMNS, HOSTILE, NAN, ROWS
from whybox.report.comparison import Comparison, Pair, Side, comparison_markdown, p_text, summary, verdict, write_comparison
from whybox.report.results import Cell, Column


def made_up_pair(a=0.30, b=0.25, p=0.001, p_holm=0.004, count=40):
    difference = Cell(b - a, b - a - 0.01, b - a + 0.01, count)
    return Pair(Cell(a, a - 0.02, a + 0.02, count), Cell(b, b - 0.02, b + 0.02, count), difference, p, p_holm)


def made_up_comparison(**fields):
    pairs = {
        ("odam", "deletion"): made_up_pair(),
        ("gradcam", "deletion"): made_up_pair(b=0.28, p_holm=0.05),
        ("odam", "energy"): made_up_pair(),
        ("blob", "energy"): made_up_pair(b=0.30, p=1.0, p_holm=1.0, count=38),
    }
    given = {"title": "Two runs", "a": Side("first", (("Seed", "0"),)), "b": Side("second", (("Seed", "1"),))}
    return Comparison(**given | {"rows": ROWS, "columns": COLUMNS, "pairs": pairs} | fields)


@pytest.mark.parametrize(
    ("pair", "higher", "expected"),
    [
        (made_up_pair(), False, "better"),
        (made_up_pair(), True, "worse"),
        (made_up_pair(a=0.2), True, "better"),
        (made_up_pair(p=0.01, p_holm=0.05), True, "same"),
        (made_up_pair(p=NAN, p_holm=NAN), True, "same"),
        (made_up_pair(a=0.25, p_holm=0.0), True, "same"),
    ],
)
def test_better_follows_the_arrow_and_the_corrected_p(pair, higher, expected):
    assert verdict(pair, Column("m", "M", higher, (0, 1), "")) == expected


def test_summary_counts():
    assert summary(made_up_comparison()) == "Of 4 numbers, B is better on 1, worse on 1, and not shown to differ on 2."
    assert summary(made_up_comparison(pairs={})) == "The two runs have nothing in common that could be compared."


def test_the_comparison_as_markdown_by_hand():
    lines = comparison_markdown(made_up_comparison(columns=COLUMNS[:2])).splitlines()
    assert lines[0] == "|  | Deletion ↓ | Energy in the box ↑ |"
    change = "**−0.050** (−0.060 to −0.040), p = 0.004"
    assert lines[2] == f"| ODAM | 0.300 → 0.250, {change} | 0.300 → 0.250, {change} |"
    assert lines[3] == "| Grad-CAM | 0.300 → 0.280, −0.020 (−0.030 to −0.010), p = 0.050 | – |"
    assert lines[4] == "| Blob | – | 0.300 → 0.300, 0.000 (−0.010 to +0.010), p = 1.000 |"


def test_p_values_as_text():
    assert (p_text(0.0004), p_text(0.0349), p_text(NAN)) == ("p < 0.001", "p = 0.035", "p –")


def test_the_page_marks_better_and_worse():
    page = write_comparison(made_up_comparison(remarks=["Compactness is in run A alone."]))
    found = re.findall(r'<td class="(\w+)" data-raw="([^"]*)" title="([^"]*)"', page)
    assert [(kind, round(float(sort), 3)) for kind, sort, _ in found] == [
        ("better", 0.05),
        ("worse", -0.05),
        ("same", 0.02),
        ("same", 0.0),
    ]
    assert found[0][2] == "40 common objects; p = 0.001 before correction"
    assert "38–40 objects" in page
    for text in ("first", "second", "Compactness is in run A alone.", "Controls, which do not depend on the model"):
        assert text in page


def test_nothing_is_fetched_and_any_text_is_only_text():
    side = Side(HOSTILE, ((HOSTILE, HOSTILE),))
    page = write_comparison(made_up_comparison(title=HOSTILE, a=side, b=side, remarks=[HOSTILE]))
    assert page.count("<script") == 1
    assert "<img" not in page
    assert not re.search(r"url\(|@import|fetch\(|https?://", page)


def test_what_belongs_to_no_row_or_column_is_refused():
    with pytest.raises(ValueError, match="no \\(row key, column key\\)"):
        made_up_comparison(pairs={("odam", "unheard of"): made_up_pair()})


def test_nothing_in_common_is_a_page_too():
    assert "nothing in common" in write_comparison(made_up_comparison(pairs={}, columns=()))
