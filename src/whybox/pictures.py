"""An explanation as pictures: overlays, a figure, and the HTML page of boxes or of texts."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from whybox.explained import Explained
from whybox.report.match import Asked, Match, write_match
from whybox.report.overlay import overlay, shrink, value_range
from whybox.report.page import Layer, Photo, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_OVERLAY = 1024
LONGEST_CELL = 800
MOST_CELLS = 16


def draw_overlay(explained: Explained, index: int, picture: Image.Image, opacity: float = 0.85) -> Image.Image:
    """Overlay of detection `index`: map, box, class and score; without a box where the model predicts for the whole image."""
    name, score = explained.names[index], float(explained.detections.scores[index])
    if explained.whole_image:
        return overlay(picture, explained.maps[index], caption=f"{score:.2f} {name}", opacity=opacity)
    caption = f"{name} {score:.2f}"
    found = explained.detections[index]
    return overlay(picture, explained.maps[index], found.boxes[0], caption, shape=found, opacity=opacity)


def draw_figure(explained: Explained, index: int | Sequence[int] | None, columns: int, opacity: float) -> "Figure":
    """A matplotlib figure with an overlay for each of the detections `index`; None: the first 16."""
    # Not pyplot, which would choose a backend and keep every figure open.
    from matplotlib.figure import Figure

    every = range(min(len(explained), MOST_CELLS))
    indices = [index] if isinstance(index, int) else list(every if index is None else index)
    across = max(1, min(columns, len(indices)))
    rows = max(1, -(-len(indices) // across))
    aspect = explained.image.shape[-2] / explained.image.shape[-1]
    figure = Figure(figsize=(4 * across, (4 * aspect + 0.5) * rows), layout="constrained")
    cells = figure.subplots(rows, across, squeeze=False).flatten()
    for cell in cells:
        cell.axis("off")
    picture = shrink(explained.image, LONGEST_CELL)
    for cell, i in zip(cells, indices, strict=False):
        cell.imshow(draw_overlay(explained, i, picture, opacity))
        low, high = value_range(explained.maps[i].native)
        cell.set_title(f"{explained.maps.method} {explained.maps.target}: {low:.3g} to {high:.3g}", fontsize=9)
    if not indices:
        cells[0].imshow(picture)
        cells[0].set_title("no detection", fontsize=9)
    return figure


def notebook_view(explained: Explained) -> str:
    """The page in a sandboxed iframe, which may run scripts and downloads alone."""
    style = "width:100%;height:760px;border:0;border-radius:12px"
    page = html.escape(page_of(explained))
    return f'<iframe title="whybox" sandbox="allow-scripts allow-downloads" style="{style}" srcdoc="{page}"></iframe>'


def page_of(explained: Explained) -> str:
    """The page about one explanation: of boxes, or of texts and classes of the whole image."""
    if explained.whole_image and len(explained):
        return write_match(match_of(explained))
    return write_page([photo_of([explained])])


def match_of(explained: Explained) -> Match:
    """What the page about texts, or a classifier's classes, shows."""
    words = explained.single_words
    return Match(
        explained.name,
        explained.image,
        Asked(explained.names, explained.detections.scores, explained.maps),
        explained.texts,
        explained.token_maps,
        None if words is None else Asked(words.names, words.detections.scores, words.maps),
        explained.notes,
        explained.model,
        explained.seconds,
    )


def photo_of(explanations: Sequence[Explained]) -> Photo:
    """A photo for the page from explanations of the same detections of one image, one layer per explanation."""
    first = explanations[0]
    layers = [
        Layer(each.maps.method, each.maps.target, each.maps, each.seconds.get("maps", 0.0), each.token_maps)
        for each in explanations
    ]
    seconds = {name: value for name, value in first.seconds.items() if name != "maps"}
    facts = (first.name, first.image, first.detections, first.names, layers, first.notes, first.model, seconds)
    return Photo(*facts, first.keypoints)
