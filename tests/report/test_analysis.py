"""An analysis as Markdown, for a terminal, and as a page."""

import pytest
from PIL import Image

from whybox.report.analysis import Analysis, Measure, Number, Panel, analysis_markdown, analysis_plain, write_analysis
from whybox.report.results import Cell

NAN = float("nan")


@pytest.fixture
def analysis():
    numbers = {
        ("one", "share"): Number(Cell(0.75, 0.5, 0.875, 8), 3, 0.5),
        ("two", "share"): Number(Cell(0.25, NAN, NAN, 2), 1, 0.5),
        ("one", "drop"): Number(Cell(-0.0125, -0.02, 0.001, 4), 2, NAN),
    }
    measures = [Measure("share", "a|b", "What it means."), Measure("drop", "loss"), Measure("never", "not seen")]
    panels = [Panel(Image.new("RGB", (8, 6)), "<b>a red ball</b>")]
    return Analysis("Title", "Lead.", ["one", "two"], measures, numbers, [("images", "3")], ["A remark."], [("caption", panels)])


def test_markdown(analysis):
    lines = analysis_markdown(analysis).splitlines()
    assert lines[0] == "|  | one | two | chance |"
    assert lines[2] == "| a\\|b | 0.750 (0.500 to 0.875); 8 in 3 images | 0.250; 2 in 1 image | 0.500 |"
    assert lines[3] == "| loss | −0.0125 (−0.0200 to 0.0010); 4 in 2 images | – | – |"
    assert "not seen" not in "\n".join(lines)
    assert lines[-1] == "A remark."


def test_terminal(analysis):
    assert analysis_plain(analysis) == (
        ["measure", "one", "two", "chance"],
        [["a|b", "0.750", "0.250", "0.500"], ["loss", "−0.0125", "–", "–"]],
    )


def test_the_page_is_whole_and_escapes_texts(analysis):
    page = write_analysis(analysis)
    assert "&lt;b&gt;a red ball&lt;/b&gt;" in page
    assert "<b>a red ball" not in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "What it means." in page
    assert "by one" in page


def test_a_page_without_examples(analysis):
    bare = Analysis(analysis.title, analysis.lead, analysis.methods, analysis.measures, {})
    assert 'id="examples"' not in write_analysis(bare)
