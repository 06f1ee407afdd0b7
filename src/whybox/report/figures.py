"""Figures of a run as files for papers and slides: a metric's curves, and its best, median and worst examples."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from whybox.files import file_stem, write_whole
from whybox.report.charts import COLORS
from whybox.report.results import Column, Curve, EvaluationReport, Example, Row
from whybox.report.table import ARROWS, decimals, number

INKS = ("#c2410c", "#1d6fb8", "#2b8a50", "#8444b8", "#a67c00", "#c22f78", "#11868f", "#6d5844")
"""The colors of the page's light theme, in the same order."""
GREY = "#7b7d86"
DOTS = 200
"""Dots per inch of a PNG."""
LEGEND = 32
"""The largest number of letters of a name in a legend."""
LINE, GAP = 26, 12
"""Pixels from one line of text to the next, and between pictures."""
FONTS = {"font.size": 9.0, "svg.hashsalt": "whybox", "axes.spines.top": False, "axes.spines.right": False}


def write_figures(report: EvaluationReport, folder: Path) -> list[Path]:
    """Write all figures of a run: curves as PNG and SVG, examples as PNG.

    Args:
        report: The report of the run.
        folder: The folder to write to; it is created if needed.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for column in report.columns:
        pairs = [(row, report.curves[row.key, column.key]) for row in report.rows if (row.key, column.key) in report.curves]
        shown = [example for example in report.examples if example.column == column.key]
        if pairs:
            paths = [folder / f"curves-{_stem(column)}.{suffix}" for suffix in ("png", "svg")]
            draw_curves(report.rows, column, pairs, paths)
            written += paths
        if shown:
            path = folder / f"examples-{_stem(column)}.png"
            draw_examples(column, shown, path)
            written.append(path)
    return written


def _stem(column: Column) -> str:
    """A file name for a metric; names cut at the same place are distinguished by a digest."""
    stem = file_stem(column.key)
    return stem if len(column.key) <= len(stem) else f"{stem}-{sha256(column.key.encode()).hexdigest()[:8]}"


def draw_curves(rows: Sequence[Row], column: Column, pairs: Sequence[tuple[Row, Curve]], paths: Sequence[Path]) -> None:
    """Draw the curves of a metric with their intervals.

    Args:
        rows: All rows of the report, so that a row has the same color in every figure.
        column: The metric.
        pairs: The rows to draw, with their curves.
        paths: The files to write, in any format of matplotlib.
    """
    # Imported on use, because matplotlib takes long to load; without pyplot, which keeps its figures in global state.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(FONTS):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for row, curve in pairs:
            look = _look(rows, row)
            axes.plot(curve.at, curve.mean, label=_short(row.title), linewidth=1.6, **look)
            axes.fill_between(curve.at, curve.low, curve.high, color=look["color"], alpha=0.13, linewidth=0)
        axes.set_title(f"{column.title} {ARROWS[column.higher_is_better]}", loc="left", parse_math=False)
        axes.set_xlabel(column.across, parse_math=False)
        axes.grid(axis="y", color="#e2dfd7", linewidth=0.6)
        save_with_legend(figure, axes, paths)


def save_with_legend(figure: Any, axes: Any, paths: Sequence[Path]) -> None:
    """End a figure: a legend on its right, and its files.

    Args:
        figure: A figure of matplotlib.
        axes: Its axes.
        paths: The files to write, in any format of matplotlib.
    """
    plain_texts(axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False).get_texts())
    for path in paths:
        write_whole(path, figure_bytes(figure, path.suffix[1:]))


def plain_texts(texts: Sequence[Any]) -> None:
    """Draw texts of matplotlib as they are: one may hold a dollar sign, which would begin a formula (matplotlib/matplotlib#4938).

    Args:
        texts: The texts.
    """
    for text in texts:
        text.set_parse_math(False)


def figure_bytes(figure: Any, form: str) -> bytes:
    """A figure as a file.

    Args:
        figure: A figure of matplotlib.
        form: "png", "svg", or another of matplotlib's formats.

    Returns:
        The file's bytes.
    """
    drawn = BytesIO()
    # Without a date, and with a fixed hash salt in FONTS, an SVG is the same in every run.
    figure.savefig(drawn, dpi=DOTS, format=form, metadata={"Date": None} if form == "svg" else None)
    return drawn.getvalue()


def _short(title: str) -> str:
    """A name that leaves room for the curves beside the legend."""
    return title if len(title) <= LEGEND else f"{title[: LEGEND - 1]}…"


def _look(rows: Sequence[Row], row: Row) -> dict[str, Any]:
    """Color and dashes: those that the page gives to the row."""
    # Methods and controls are counted apart, as on the page: a control takes no color from a method.
    place = [other.key for other in rows if other.is_control == row.is_control].index(row.key)
    if row.is_control:
        return {"color": GREY, "linestyle": (0, (5, 3)) if place % 3 == 0 else (0, (1.5, 2))}
    return {"color": INKS[place % COLORS], "linestyle": "-" if place < COLORS else (0, (5, 3))}


def draw_examples(column: Column, examples: Sequence[Example], path: Path) -> None:
    """Draw the examples of a metric, one below the other: the image, then every row's overlay with its value.

    Args:
        column: The metric.
        examples: At least one example.
        path: The PNG to write.
    """
    bands = [_draw_band(column, example) for example in examples]
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    drawn = BytesIO()
    sheet.save(drawn, "PNG", dpi=(DOTS, DOTS))
    write_whole(path, drawn.getvalue())


def _draw_band(column: Column, example: Example) -> Image.Image:
    """One example: a line of text, and below it the pictures, each under its label."""
    panels = [("image", example.image), *zip(_labels(example), (panel.overlay for panel in example.panels), strict=True)]
    width, height = example.image.size
    band = Image.new("RGB", (GAP + len(panels) * (width + GAP), height + 2 * LINE + 2 * GAP), "white")
    ink = ImageDraw.Draw(band)
    title = f"{column.title} {ARROWS[column.higher_is_better]}, {example.kind}: {example.caption}"
    _write(ink, title, (GAP, GAP), band.width - 2 * GAP)
    for i, (label, picture) in enumerate(panels):
        left = GAP + i * (width + GAP)
        _write(ink, label, (left, GAP + LINE), width)
        band.paste(_outlined(picture, example), (left, GAP + 2 * LINE))
    return band


def _labels(example: Example) -> list[str]:
    digits = decimals([panel.value for panel in example.panels])
    return [f"{number(panel.value, digits)}  {panel.title}" for panel in example.panels]


def _write(ink: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], width: int) -> None:
    """One line of text, cut where it would be wider than `width`."""
    line = " ".join(text.split())
    tries = [line, *(f"{line[:end].rstrip()}…" for end in range(len(line) - 1, 0, -1))]
    cut = next((text for text in tries if ink.textlength(text, font=_font()) <= width), "")
    ink.text(corner, cut, font=_font(), fill="#1c1d22")


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font of matplotlib's figures; Pillow's own has no arrows."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), LINE * 5 // 8)


def _outlined(picture: Image.Image, example: Example) -> Image.Image:
    """A copy with the annotated box, yellow, and over it the predicted one, white, each in a dark seam."""
    drawn = picture.convert("RGB")
    ink = ImageDraw.Draw(drawn)
    for box, color in ((example.truth_box, "#ffd24a"), (example.box, "white")):
        if box is not None:
            # Pillow refuses a rectangle whose second corner lies before its first (python-pillow/Pillow#6978).
            x1, y1, x2, y2 = box[0], box[1], max(box[0], box[2]), max(box[1], box[3])
            ink.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="#101218", width=4)
            ink.rectangle((x1, y1, x2, y2), outline=color, width=2)
    return drawn
