"""The page of a detector's errors: their number by type, and a card with heat maps for each. Nothing is fetched.

The cards of a large page lie in scripts beside it, and are loaded when the reader comes to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from whybox.report.document import data_url, fill, render, script_json
from whybox.report.overlay import overlay, picture_of
from whybox.report.parts import Parts
from whybox.report.shapes import path_of, strokes_of
from whybox.types import Detections, HeatMaps

WIDTH = 400
"""Width in pixels of a card's picture: a hundred cards took 2.5 MB on blood smears, 5.2 MB on the noisier generated scenes."""
LONGEST_DRAWN = 2400
"""The largest longer side in pixels to which an image is enlarged before a card's part is cropped."""
QUALITY = 78
MOST_IN_FILE = 300
"""Cards that the page itself holds, in at most 15 MB; the cards of a larger one lie beside it."""
PER_PART = 8
"""Cards in a script: those of one page of a filtered list are all over the scripts, and a script is loaded as a whole."""
PER_PAGE = 48
BESIDE = "cards"
"""The folder beside the page."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """A map on a card.

    Attributes:
        label: What the map explains, in a few words.
        maps: One map, or None where there is none to show.
        box: A detection's box (4,) xyxy in image pixels.
        side: The edge to mark: "x1", "y1", "x2", "y2", or "".
        other: The box that it was compared with (4,) xyxy in image pixels, or None.
        shape: The detection, whose mask, keypoints or turned box are drawn.
    """

    label: str
    maps: HeatMaps | None = None
    box: Tensor | None = None
    side: str = ""
    other: Tensor | None = None
    shape: Detections | None = None


@dataclass(frozen=True)
class Picture:
    """A view as the page shows it.

    Attributes:
        label: What the map explains.
        heat: The crop with its heat map, as a data URL; "" for none.
        box: The detection's box, in the crop's image pixels.
        edge: The marked edge (x1, y1, x2, y2), in the crop's image pixels.
        peak_outside: Whether the map's strongest value lies outside the crop.
        other: The box that it was compared with, in the crop's image pixels.
        lines: The detection's mask, turned box and limbs as an SVG path in the crop's image pixels, or "".
        dots: Its keypoints, or "".
    """

    label: str
    heat: str
    box: Box | None
    edge: Box | None
    peak_outside: bool
    other: Box | None = None
    lines: str = ""
    dots: str = ""


@dataclass(frozen=True)
class Card:
    """An error of the detector, as the page shows it.

    Attributes:
        kind: The error type.
        title: What was predicted or missed.
        score: The score, as text.
        sentence: What is wrong.
        note: A remark, or "".
        image: The image's name.
        classes: The classes that it is filtered by.
        plain: The crop without a heat map, as a data URL.
        width: Width of the crop in image pixels.
        height: Height of the crop in image pixels.
        truth: The annotated object's box, in the crop's image pixels.
        pictures: Its maps.
        decision: What duplicate removal decided, as a sentence, or "".
        numbers: Names and values of what it decided by.
    """

    kind: str
    title: str
    score: str
    sentence: str
    note: str
    image: str
    classes: tuple[str, ...]
    plain: str
    width: float
    height: float
    truth: Box | None
    pictures: tuple[Picture, ...]
    decision: str = ""
    numbers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tally:
    """The number of errors of one type.

    Attributes:
        kind: The error type.
        meaning: What the type means.
        count: How many there are.
        gain: What AP50 would gain without them; NaN where it is not known.
    """

    kind: str
    meaning: str
    count: int
    gain: float


def make_card(
    image: Tensor,
    views: Sequence[View],
    truth: Tensor | None,
    *,
    kind: str,
    title: str,
    sentence: str,
    name: str,
    score: str = "",
    note: str = "",
    decision: str = "",
    numbers: Sequence[tuple[str, str]] = (),
    classes: Sequence[str] = (),
) -> Card:
    """Crop the image around the boxes of an error, and overlay its maps.

    Args:
        image: (3,H,W) in 0..1.
        views: The maps to show.
        truth: The annotated object's box (4,) xyxy in image pixels, or None.
        kind: The error type.
        title: What was predicted or missed.
        sentence: What is wrong.
        name: The image's name.
        score: The score, as text.
        note: A remark, or "".
        decision: What duplicate removal decided, as a sentence, or "".
        numbers: Names and values of what it decided by.
        classes: The classes that it is filtered by.

    Returns:
        The card.
    """
    boxes = [box for view in views for box in (view.box, view.other) if box is not None] + ([] if truth is None else [truth])
    cut = close_up([_numbers(box) for box in boxes], (image.shape[-2], image.shape[-1]))
    # The whole image is enlarged, not the crop, because a map is overlaid on its whole image.
    scale = min(WIDTH / (cut[2] - cut[0]), max(1.0, LONGEST_DRAWN / max(image.shape[-2:])))
    whole = picture_of(image, (max(1, round(image.shape[-2] * scale)), max(1, round(image.shape[-1] * scale))))
    return Card(
        kind=kind,
        title=title,
        score=score,
        sentence=sentence,
        note=note,
        image=name,
        classes=tuple(classes),
        plain=_cut(whole, cut, scale),
        width=cut[2] - cut[0],
        height=cut[3] - cut[1],
        truth=None if truth is None else _moved(_numbers(truth), cut),
        pictures=tuple(_picture(view, whole, cut, scale) for view in views),
        decision=decision,
        numbers=tuple(numbers),
    )


def close_up(boxes: Sequence[Box], size: tuple[int, int]) -> Box:
    """Choose the crop of an image: all boxes with a margin, 4:3 where that fits, at least a fifth of the image's width.

    Args:
        boxes: xyxy in image pixels; none: the whole image.
        size: (height, width) of the image.

    Returns:
        xyxy in image pixels.
    """
    height, width = size
    low = [min((box[axis] for box in boxes), default=0.0) for axis in (0, 1)]
    high = [max((box[axis + 2] for box in boxes), default=float((width, height)[axis])) for axis in (0, 1)]
    # Half as much again around the boxes; and a fifth of the image, so that a small object is seen in its surroundings.
    wide = max((high[0] - low[0]) * 1.5, (high[1] - low[1]) * 1.5 * 4 / 3, width / 5)
    w, h = min(float(width), wide), min(float(height), wide * 3 / 4)
    x = min(max(0.0, (low[0] + high[0] - w) / 2), width - w)
    y = min(max(0.0, (low[1] + high[1] - h) / 2), height - h)
    return x, y, x + w, y + h


def _picture(view: View, whole: Image.Image, cut: Box, scale: float) -> Picture:
    drawn = None if view.maps is None else overlay(whole, view.maps)
    lines, dots, turned = ([], [], False) if view.shape is None else strokes_of(view.shape, 0)
    return Picture(
        label=view.label,
        heat="" if drawn is None else _cut(drawn, cut, scale),
        box=None if view.box is None or turned else _moved(_numbers(view.box), cut),
        edge=None if view.box is None or not view.side else _edge(_moved(_numbers(view.box), cut), view.side),
        peak_outside=view.maps is not None and _peaks_outside(view.maps, cut),
        other=None if view.other is None else _moved(_numbers(view.other), cut),
        lines=path_of(lines, cut),
        dots=path_of([[dot] for dot in dots], cut),
    )


def _peaks_outside(maps: HeatMaps, cut: Box) -> bool:
    """Whether the map's strongest value lies outside the cut; a constant map has no peak."""
    # The absolute value: of a signed map, evidence against is a peak, too.
    values = maps.at_image()[0].detach().float().nan_to_num().abs()
    if not values.max() > values.min():
        return False
    y, x = divmod(int(values.argmax()), values.shape[1])
    # A pixel that the cut divides counts as inside: the cut does not end at whole pixels.
    return not (cut[0] - 1 <= x <= cut[2] and cut[1] - 1 <= y <= cut[3])


def _cut(picture: Image.Image, cut: Box, scale: float) -> str:
    left, top, right, bottom = (round(side * scale) for side in cut)
    # At least one pixel, also where a crop rounds to nothing.
    part = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return data_url(part, QUALITY)


def _moved(box: Box, cut: Box) -> Box:
    return box[0] - cut[0], box[1] - cut[1], box[2] - cut[0], box[3] - cut[1]


def _edge(box: Box, side: str) -> Box:
    """The line (x1, y1, x2, y2) of one side of a box."""
    x1, y1, x2, y2 = box
    return {"x1": (x1, y1, x1, y2), "y1": (x1, y1, x2, y1), "x2": (x2, y1, x2, y2), "y2": (x1, y2, x2, y2)}[side]


def _numbers(box: Tensor) -> Box:
    x1, y1, x2, y2 = box.detach().float().nan_to_num().tolist()
    return x1, y1, x2, y2


def write_gallery(
    cards: Sequence[Card],
    tallies: Sequence[Tally],
    *,
    title: str,
    facts: str,
    folder: Path,
    remarks: Sequence[str] = (),
    kinds: str = "error type",
    order: str = "highest scores first",
    empty: str = "No error to show.",
) -> str:
    """Render the page.

    Args:
        cards: The errors, in the order in which they are shown.
        tallies: The number of errors of each type.
        title: The heading.
        facts: A line on model, data and settings.
        folder: Where the page will lie: more than `MOST_IN_FILE` cards are written into a folder in it.
        remarks: Further lines.
        kinds: What the cards are counted by.
        order: The order of the cards, in words.
        empty: What stands in the place of no cards.

    Returns:
        The page as HTML.
    """
    classes = sorted({name for card in cards for name in card.classes})
    # By number: a name with a space in it would be two words in the attribute that the script searches.
    numbers = {name: number for number, name in enumerate(classes)}
    index = _write_beside(cards, numbers, folder / BESIDE) if len(cards) > MOST_IN_FILE else None
    return render(
        "gallery.html",
        styles="gallery.css",
        script="gallery.js",
        title=title,
        facts=facts,
        remarks=remarks,
        cards=[] if index else cards,
        index=None if index is None else script_json(index),
        beside=BESIDE if index else "",
        classes=classes,
        kinds=kinds,
        order=order,
        empty=empty,
        gains=any(tally.gain == tally.gain for tally in tallies),
        truths=any(card.truth for card in cards),
        edges=any(picture.edge for card in cards for picture in card.pictures),
        pairs=any(picture.other for card in cards for picture in card.pictures),
        numbers=numbers,
        tallies=tallies,
        most=max((tally.count for tally in tallies), default=0) or 1,
        # NaN differs from itself: gains that are not known are left out.
        largest=max((tally.gain for tally in tallies if tally.gain == tally.gain), default=0.0) or 1.0,
        shown={tally.kind: sum(card.kind == tally.kind for card in cards) for tally in tallies},
    )


def _write_beside(cards: Sequence[Card], numbers: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """Write the cards into scripts.

    Returns:
        What the page has to know of them: enough to filter and to search, without loading one.
    """
    with Parts(folder, "cards", PER_PART) as parts:
        for number, card in enumerate(cards, 1):
            parts.add(script_json(fill("card.html", card=card, number=number, numbers=numbers)))
    rows = [
        [
            card.kind,
            [numbers[name] for name in card.classes],
            " ".join((card.title, card.sentence, card.decision, card.note, card.image)),
        ]
        for card in cards
    ]
    return {"folder": BESIDE, "each": PER_PART, "step": PER_PAGE, "cards": rows}
