"""The report of a run: who wins is worked out rightly, and the page says it, holds all it shows, and is safe."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image

from report.made_up_run import COLUMNS, HOSTILE, NAN, ROWS, VERSUS, made_up_cells, made_up_example, made_up_report
from whybox.report.charts import BOTTOM, LINE, TOP, Scale, apart, charts, round_step, sparkline, styles
from whybox.report.evaluation import headline, write_report
from whybox.report.results import Cell, Column, Curve, EvaluationReport, Row
from whybox.report.table import (
    MARK,
    decimals,
    number,
    places,
    table_latex,
    table_markdown,
    table_plain,
    warnings,
    winning_control,
)


class Tables(HTMLParser):
    """The texts of the score table's cells, one list a row, with the classes of the cells; and all tags and attributes."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.classes, self.attributes, self.tags, self.inside, self.cell = [], [], [], [], False, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside |= tag == "table"
        if self.inside and tag == "tr":
            self.rows.append([])
            self.classes.append([])
        if self.inside and tag in ("th", "td"):
            self.rows[-1].append("")
            self.classes[-1].append(given.get("class") or "")
            self.cell = True

    def handle_endtag(self, tag):
        self.inside &= tag != "table"
        if tag in ("th", "td"):
            self.cell = False

    def handle_data(self, data):
        if self.inside and self.cell:
            self.rows[-1][-1] += data + " "

    def line(self, title):
        """The words of the cells of the row with this title, and their classes."""
        return next(
            ([cell.split() for cell in row[1:]], classes[1:])
            for row, classes in zip(self.rows, self.classes, strict=True)
            if row and row[0].strip() == title
        )


def test_best_and_second_are_of_the_methods_and_follow_the_arrow():
    place = places(made_up_report())
    assert place["odam", "deletion"].rank == 1, "the lowest"
    assert place["gradcam", "deletion"].rank == 2
    assert (place["gradcam", "energy"].rank, place["odam", "energy"].rank) == (1, 2), "the highest"
    assert {place[row, column].rank for row in ("blob", "box") for column in ("deletion", "energy")} == {0}
    assert ("gradcam", "compact") not in place, "it has no number"


def test_equal_means_share_a_rank_and_the_third_has_none():
    rows = [Row(name, name) for name in "abcd"]
    column = Column("m", "M", True, (0, 1), "")
    cells = {(name, "m"): Cell(mean, 0, 1, 5) for name, mean in zip("abcd", (0.5, 0.7, 0.7, 0.1), strict=True)}
    report = EvaluationReport("", (), rows, [column], cells)
    assert [places(report)[name, "m"].rank for name in "abcd"] == [2, 1, 1, 0]


def test_a_method_is_marked_unless_its_whole_interval_beats_the_control():
    place = places(made_up_report())
    assert not place["odam", "deletion"].beaten
    assert place["gradcam", "deletion"].beaten, "the interval holds 0"
    assert place["odam", "energy"].beaten
    assert place["odam", "compact"].beaten, "an unknown interval shows nothing"
    assert not place["box", "deletion"].beaten, "a control is never marked"


def test_where_a_control_wins_the_report_says_so():
    report = made_up_report()
    assert [winning_control(report, column) for column in COLUMNS] == [None, ROWS[3], None]
    (sentence,) = warnings(report)
    assert "Energy in the box" in sentence
    assert "“Box”" in sentence
    assert "does not distinguish an explanation from a drawn box" in sentence
    page = write_report(report)
    assert sentence in page
    assert page.count("<em>control wins</em>") == 1


@pytest.mark.parametrize(
    ("higher", "control", "wins"), [(True, 0.6, True), (True, 0.59, False), (False, 0.5, True), (False, 0.51, False)]
)
def test_a_control_wins_from_a_draw_on(higher, control, wins):
    column = Column("m", "M", higher, (0, 1), "")
    means = {"odam": 0.5, "gradcam": 0.6, "blob": control}
    cells = {(key, "m"): Cell(mean, mean, mean, 3) for key, mean in means.items()}
    report = EvaluationReport("", (), ROWS, [column], cells)
    assert (winning_control(report, column) == ROWS[2]) is wins


def test_headline_counts_only_metrics_that_tell():
    assert headline(made_up_report()) == "ODAM has the best mean on the one metric on which the controls are beaten."
    assert headline(one_column()) == "ODAM has the best mean on the one metric on which the controls are beaten."
    blind = only(made_up_cells(), COLUMNS[1:2])
    assert headline(EvaluationReport("", (), ROWS, COLUMNS[1:2], blind)).startswith(
        "No metric of this run shows a method to beat the controls"
    )
    assert headline(EvaluationReport("", (), ROWS[:1], COLUMNS, {})) == "", "one method is not compared"


def test_a_draw_in_the_headline():
    columns = [Column(key, key, True, (0, 1), "") for key in ("m", "n")]
    means = {("odam", "m"): 0.5, ("odam", "n"): 0.9, ("gradcam", "m"): 0.7, ("gradcam", "n"): 0.8}
    report = EvaluationReport("", (), ROWS[:2], columns, {key: Cell(mean, 0, 1, 3) for key, mean in means.items()})
    assert headline(report) == "ODAM and Grad-CAM each have the best mean on 1 of the 2 metrics on which the controls are beaten."


def one_column(**fields):
    """The first metric alone."""
    cells, versus = only(made_up_cells(), COLUMNS[:1]), only(VERSUS, COLUMNS[:1])
    return made_up_report(**{"columns": COLUMNS[:1], "cells": cells, "versus": versus} | fields)


def only(cells, columns):
    keys = {column.key for column in columns}
    return {key: cell for key, cell in cells.items() if key[1] in keys}


def test_the_table_on_the_page():
    table = Tables(write_report(made_up_report()))
    words, classes = table.line("ODAM")
    assert words[0] == ["0.250", "0.230", "to", "0.280", "+0.100", "+0.050", "to", "+0.150"]
    assert words[1][:2] == ["0.500", MARK]
    assert words[2] == ["1.75", MARK, "1.73", "to", "1.78", "+0.25", MARK]
    assert classes == ["rank1", "rank2 beaten", "rank1 beaten"]
    assert table.line("Grad-CAM")[0][2] == ["–", "–"]
    assert table.line("Blob")[0][0] == ["0.350", "0.330", "to", "0.380", "reference"]
    assert table.line("Box")[0][0][-1] == "–", "the other control has no difference here"
    titles = [row[0].strip() for row in table.rows]
    assert titles.index("Grad-CAM") < titles.index("Controls, which do not depend on the model") < titles.index("Blob")


def test_counts_of_objects_stand_in_the_heads():
    cells = made_up_cells()
    cells["odam", "deletion"] = replace(cells["odam", "deletion"], count=1038)
    heads = Tables(write_report(made_up_report(cells=cells))).rows[0]
    assert "40–1,038 objects" in heads[1]
    assert "40 objects" in heads[2]
    assert "12 objects" in heads[3]


def test_the_table_as_markdown_by_hand():
    assert table_markdown(one_column()) == (
        "|  | Deletion ↓ |\n"
        "| --- | ---: |\n"
        "| ODAM | **0.250** (0.230 to 0.280) |\n"
        "| Grad-CAM | <u>0.300</u>† (0.280 to 0.330) |\n"
        "| *Blob* (control) | 0.350 (0.330 to 0.380) |\n"
        "| *Box* (control) | 0.400 (0.380 to 0.430) |\n"
        "\n"
        "Mean (95 % confidence interval); bold: the best method; underlined: the second; "
        "† not shown to beat the better control.\n"
    )


def test_the_table_for_a_terminal_by_hand():
    heads, rows = table_plain(one_column())
    assert heads == ["metric", "ODAM", "Grad-CAM", "Blob", "Box"]
    assert rows == [["Deletion ↓", "0.250*", "0.300†", "0.350", "0.400"]]


def test_the_table_as_latex_by_hand():
    rows = (Row("odam", "ODAM_x & 100 %"), *ROWS[1:])
    assert table_latex(one_column(rows=rows)) == (
        "\\begin{tabular}{lr}\n\\toprule\n & Deletion $\\downarrow$ \\\\\n\\midrule\n"
        "ODAM\\_x \\& 100 \\% & \\textbf{0.250} {\\scriptsize [0.230, 0.280]} \\\\\n"
        "Grad-CAM & \\underline{0.300}$^\\dagger$ {\\scriptsize [0.280, 0.330]} \\\\\n"
        "\\midrule\n"
        "Blob & 0.350 {\\scriptsize [0.330, 0.380]} \\\\\n"
        "Box & 0.400 {\\scriptsize [0.380, 0.430]} \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_markdown_text_cannot_break_the_table():
    rows = (Row("odam", "a|b\n*c*"), *ROWS[1:])
    line = table_markdown(made_up_report(rows=rows)).splitlines()[2]
    assert line.startswith(r"| a\|b \*c\* | ")
    assert len(re.findall(r"(?<!\\)\|", line)) == len(COLUMNS) + 2


@pytest.mark.parametrize(
    ("values", "digits"),
    [([0.5, 0.01], 3), ([1.0], 3), ([5.2], 2), ([87.0, -3], 1), ([140.0], 0), ([0.004], 5), ([0, NAN], 3), ([], 3)],
)
def test_as_many_digits_as_the_largest_number_needs(values, digits):
    assert decimals(values) == digits


def test_numbers_as_text():
    assert number(-0.1234, 3) == "−0.123"
    assert number(0.1234, 2, sign=True) == "+0.12"
    assert number(-0.0001, 2, sign=True) == number(-0.0001, 2) == "0.00"
    assert number(NAN, 2) == number(float("inf"), 2) == "–"


def test_nothing_is_fetched_and_no_handler_is_inline():
    page = write_report(made_up_report())
    for tag, name, value in Tables(page).attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("data:", "#")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\(|https?://", page)
    assert "default-src 'none'; img-src data:;" in page


def test_any_text_is_only_text():
    rows = tuple(replace(row, title=HOSTILE) for row in ROWS)
    columns = tuple(replace(column, title=HOSTILE, source=HOSTILE, note=HOSTILE, across=HOSTILE) for column in COLUMNS)
    example = replace(made_up_example(), caption=HOSTILE)
    page = write_report(
        made_up_report(
            title=HOSTILE, facts=[(HOSTILE, HOSTILE)], rows=rows, columns=columns, examples=[example],
            remarks=[HOSTILE], failed=[(HOSTILE, HOSTILE)], problems=[HOSTILE],
        )
    )  # fmt: skip
    parts = Tables(page)
    assert parts.tags.count("script") == 2, "the curves' numbers and the page's own"
    assert not [name for _, name, _ in parts.attributes if name.startswith("on")]
    assert {value[:5] for tag, name, value in parts.attributes if tag == "img" and name == "src"} == {"data:"}


def test_all_that_was_told_is_on_the_page():
    told = made_up_report(remarks=["A remark."], failed=[("b.jpg", "is truncated")], problems=["one line", "another"])
    page = write_report(told)
    for text in ("A remark.", "1 image could not be measured", "b.jpg", "is truncated", "2 notes about the data", "another"):
        assert text in page
    for text in ("A, 2018", "less is better", "Needs the model’s outputs on perturbed images.", "0 to ∞", "Model", "toy"):
        assert text in page
    assert "could not be measured" not in write_report(made_up_report())


def test_pictures_and_boxes_of_the_examples():
    page = write_report(made_up_report(examples=[made_up_example(color=(10, 20, 200))]))
    urls = re.findall(r'img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(urls) == 1 + len(ROWS)
    shown = Image.open(BytesIO(b64decode(urls[1])))
    assert shown.size == (80, 60)
    assert shown.getpixel((40, 30))[2] > 150
    assert re.search(r'class="found" x="10.0" y="12.0" width="30.0" height="38.0"', page)
    assert re.search(r'class="truth" x="8.0" y="12.0" width="34.0" height="40.0"', page)
    without = replace(made_up_example(), truth_box=None)
    assert 'class="truth" x=' not in write_report(made_up_report(examples=[without]))


@pytest.mark.parametrize(
    "fields",
    [
        {"cells": {}, "versus": {}, "curves": {}, "examples": ()},
        {"rows": (), "cells": {}, "versus": {}, "curves": {}, "examples": ()},
        {"columns": (), "cells": {}, "versus": {}, "curves": {}, "examples": ()},
        {"facts": (), "rows": ROWS[2:], "cells": only(made_up_cells(), ()), "versus": {}, "curves": {}},
    ],
)
def test_a_run_with_little_in_it_is_a_page_too(fields):
    report = made_up_report(**fields)
    assert "</html>" in write_report(report)
    assert warnings(report) == []
    assert table_markdown(report).startswith("| ")
    assert "tabular" in table_latex(report)


def test_what_belongs_to_no_row_or_column_is_refused():
    with pytest.raises(ValueError, match="no \\(row key, column key\\)"):
        made_up_report(cells={("odam", "unheard of"): Cell(0, 0, 0, 1)})
    with pytest.raises(ValueError, match="'unheard of', which is no column"):
        made_up_report(examples=[made_up_example(column="unheard of")])
    with pytest.raises(ValueError, match="as many means"):
        Curve((0, 1), (0,), (0, 0), (1, 1))


def test_a_curve_lies_where_its_numbers_say():
    (chart,) = charts(made_up_report())
    assert chart.column.key == "deletion"
    first = chart.lines[0]
    places_on_path = [tuple(map(float, point.split())) for point in re.findall(r"[ML]([\d.]+ [\d.]+)", first.path)]
    assert places_on_path == [(chart.x.place(at), chart.y.place(value)) for at, value in ((0, 1), (0.5, 0.3), (1, 0))]
    assert first.band.count("L") == 5, "three points there, three back"
    assert first.end == places_on_path[-1]


def test_a_curve_with_a_hole_is_broken_there():
    curve = Curve((0, 1, 2, 3), (0.1, NAN, 0.3, 0.4), (NAN,) * 4, (NAN,) * 4)
    (chart,) = charts(made_up_report(curves={("odam", "deletion"): curve}))
    assert re.sub(r"[\d. ]", "", chart.lines[0].path) == "MML"
    assert chart.lines[0].band == ""
    assert chart.data["series"][0]["mean"] == [0.1, None, 0.3, 0.4]
    nothing = Curve((0, 1), (NAN, NAN), (NAN, NAN), (NAN, NAN))
    assert charts(made_up_report(curves={("odam", "deletion"): nothing})) == []


def test_the_numbers_under_the_pointer_are_the_curves():
    page = write_report(made_up_report())
    (stored,) = re.findall(r'class="data">(.+?)</script>', page)
    data = json.loads(stored)
    assert [one["title"] for one in data["series"]] == [row.title for row in ROWS]
    assert data["series"][1]["mean"] == [1, 0.4, 0]
    assert data["x"] == [0, 1]


@pytest.mark.parametrize(("length", "step"), [(1, 0.2), (6, 1), (0.07, 0.02), (100, 20), (1.3, 0.5), (1e-4, 2e-5)])
def test_round_steps(length, step):
    assert round_step(length) == pytest.approx(step)


def test_ticks_are_round_numbers_where_they_belong():
    ticks = Scale(-0.4, 0.7, 0, 110).ticks()
    assert [tick.text for tick in ticks] == ["−0.4", "−0.2", "0.0", "0.2", "0.4", "0.6"]
    assert [tick.place for tick in ticks] == [0, 20, 40, 60, 80, 100]


def test_names_stand_apart_in_the_order_of_their_lines():
    found = apart([100, 101, 50, 102, BOTTOM + 5])
    assert found[2] < found[0] < found[1] < found[3] < found[4] <= BOTTOM
    assert min(b - a for a, b in zip(sorted(found), sorted(found)[1:], strict=False)) >= LINE - 1e-9
    assert found[2] == 50, "one with room stays beside its line"
    assert apart([5.0]) == [TOP]
    assert apart([]) == []


def test_more_rows_than_colors_get_dashes():
    found = styles([Row(str(i), "") for i in range(10)] + [Row("c", "", True)])
    assert found["1"] == "color1"
    assert found["9"] == "color1 dashed"
    assert found["c"] == "control0"
    assert len(set(found.values())) == 11


def test_sparklines_share_a_scale():
    assert sparkline((0.0, 1.0), 0, 1, (11, 12)) == "M1.0 10.0L10.0 2.0"
    assert sparkline((0.5,), 0, 1, (11, 12)).startswith("M1.0 6")
    assert sparkline((2.0, 2.0), 2, 2).startswith("M")
