"""Figures as files: all of them, with the curves' own numbers and the examples' own pixels."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from report.made_up_run import COLUMNS, HOSTILE, ROWS, made_up_example, made_up_report
from whybox.report.figures import GAP, INKS, LINE, draw_examples, write_figures


def read(path):
    with Image.open(path) as picture:
        return picture.convert("RGB")


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were saved."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: kept.append(self))
    return kept


def test_a_file_for_every_figure(tmp_path):
    written = write_figures(made_up_report(), tmp_path / "new" / "figures")
    assert [path.name for path in written] == ["curves-deletion.png", "curves-deletion.svg", "examples-deletion.png"]
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(written)
    assert read(written[0]).size[0] > 800
    assert ElementTree.parse(written[1]).getroot().tag.endswith("svg")


def test_the_lines_are_the_curves(tmp_path, drawn):
    report = made_up_report()
    write_figures(report, tmp_path)
    (axes,) = drawn[0].axes
    for line, row in zip(axes.get_lines(), ROWS, strict=True):
        curve = report.curves[row.key, "deletion"]
        assert np.array_equal(line.get_xydata(), np.stack([curve.at, curve.mean], 1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [row.title for row in ROWS]
    assert [line.get_color() for line in axes.get_lines()][:2] == list(INKS[:2])
    assert axes.get_xlabel() == "share"


def test_a_row_keeps_its_color_where_another_has_no_curve(tmp_path, drawn):
    report = made_up_report()
    alone = {key: curve for key, curve in report.curves.items() if key[0] == "gradcam"}
    write_figures(replace(report, curves=alone), tmp_path)
    (line,) = drawn[0].axes[0].get_lines()
    assert line.get_color() == INKS[1]


def test_the_same_report_gives_the_same_files(tmp_path):
    once, again = (write_figures(made_up_report(), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_any_text_is_only_text(tmp_path):
    odd = HOSTILE + r" $\frac{ a_b$ %s {0}"
    rows = tuple(replace(row, title=odd) for row in ROWS)
    columns = (replace(COLUMNS[0], title=odd, across=odd), *COLUMNS[1:])
    example = replace(made_up_example(), caption=odd)
    written = write_figures(made_up_report(rows=rows, columns=columns, examples=[example]), tmp_path)
    assert len(written) == 3


def test_names_of_columns_become_names_of_files(tmp_path):
    column = replace(COLUMNS[0], key="deletion:fill=blurred/../x")
    report = made_up_report(columns=(column,), cells={}, versus={}, curves={}, examples=[made_up_example(column.key)])
    (path,) = write_figures(report, tmp_path)
    assert path.parent == tmp_path
    assert path.name == "examples-deletion-fill-blurred-..-x.png"


def test_examples_keep_their_pixels_and_show_the_boxes(tmp_path):
    draw_examples(COLUMNS[0], [made_up_example(), made_up_example(kind="worst", color=(0, 0, 250))], tmp_path / "a.png")
    sheet = read(tmp_path / "a.png")
    band = 60 + 2 * LINE + 2 * GAP
    assert sheet.size == (GAP + 5 * (80 + GAP), 2 * band)
    left, top = 2 * GAP + 80, GAP + 2 * LINE
    assert sheet.getpixel((left + 70, top + 5)) == (200, 40, 40)
    assert sheet.getpixel((left + 70, band + top + 5)) == (0, 0, 250)
    assert sheet.getpixel((left + 10, top + 30)) == (255, 255, 255), "the predicted box's left side"
    assert sheet.getpixel((left + 42, top + 30)) == (255, 210, 74), "the annotated box's right side"
    assert (np.asarray(sheet)[: 2 * LINE, :, 0] < 128).any(), "words"


def test_boxes_beyond_the_picture_and_tiny_pictures(tmp_path):
    small = Image.new("RGB", (3, 2))
    given = made_up_example()
    panels = [replace(panel, overlay=small) for panel in given.panels]
    odd = replace(given, image=small, box=(-9.0, -9.0, 99.0, 99.0), truth_box=(2.0, 1.0, 1.0, 0.0), panels=panels)
    draw_examples(COLUMNS[0], [odd], tmp_path / "a.png")
    assert read(tmp_path / "a.png").size[0] == GAP + 5 * (3 + GAP)


def test_a_report_without_curves_and_examples_has_no_figures(tmp_path):
    assert write_figures(made_up_report(curves={}, examples=()), tmp_path) == []
