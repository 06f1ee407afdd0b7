"""The page of a rule of duplicate removal: for each kept box what it was compared with, the two maps, and the numbers that
decided. Nothing is fetched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup
from torch import Tensor

from whybox.report.document import data_url, render, script_json
from whybox.report.overlay import POSITIVE, SIGNED, color_table, fit, is_signed, picture_of
from whybox.report.page import LONGEST_PHOTO, LONGEST_THUMB, encode_map, encode_shape, to_base64
from whybox.report.shapes import limbs_of
from whybox.rule import Decision
from whybox.types import Detections, HeatMaps

LONGEST_MAP = 112
"""The largest longer side of a stored map in cells: 120 maps that cover the whole image are 1.7 MB."""


@dataclass(frozen=True)
class Crowd:
    """An image and what a rule of duplicate removal decided in it.

    Attributes:
        name: The image's name.
        image: (3,H,W) in 0..1.
        model: The model's name.
        title: The rule's name as people write it.
        compared: What the rule compares beside boxes, in words; "" for a rule that compares boxes alone.
        settings: Names and values of the rule's options.
        found: N candidates.
        names: N class names.
        kept: K rows of the kept ones.
        scores: K scores afterwards.
        pairs: The decisions that are shown.
        pair_count: How many there were.
        differ_count: How many of them greedy NMS decides otherwise.
        map_rows: m rows of candidates that have a map.
        maps: m maps, or None.
        cosines: The cosine of the maps of each pair, or ().
        greedy_iou: The IoU threshold of the greedy NMS that the rule is compared with.
        greedy_kept: How many of the candidates it would keep.
        shapes: The candidates `rows` with masks, keypoints or corners; None: they have none.
    """

    name: str
    image: Tensor
    model: str
    title: str
    compared: str
    settings: Sequence[tuple[str, str]]
    found: Detections
    names: Sequence[str]
    kept: Sequence[int]
    scores: Sequence[float]
    pairs: Sequence[Decision]
    pair_count: int
    differ_count: int
    map_rows: Sequence[int] = ()
    maps: HeatMaps | None = None
    cosines: Sequence[float] = field(default=())
    greedy_iou: float = 0.5
    greedy_kept: int = 0
    shapes: Detections | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.found) or len(self.kept) != len(self.scores):
            raise ValueError("candidates need as many names, and kept ones as many scores")
        if len(self.map_rows) != (0 if self.maps is None else len(self.maps)) or len(self.cosines) not in (0, len(self.pairs)):
            raise ValueError("maps need as many rows, and pairs as many cosines or none")
        if self.shapes is not None and len(self.shapes) != len(self.rows):
            raise ValueError(f"{len(self.rows)} candidates on the page need as many shapes, got {len(self.shapes)}")

    @property
    def rows(self) -> list[int]:
        """The candidates on the page, kept ones first."""
        return rows_on_page(self.kept, self.pairs)


def rows_on_page(kept: Sequence[int], pairs: Sequence[Decision]) -> list[int]:
    """The candidates that a page shows, kept ones first; others that no pair is about stay away: there may be thousands.

    Args:
        kept: Rows of the kept ones.
        pairs: The decisions that are shown.
    """
    return list(dict.fromkeys([*kept, *(row for pair in pairs for row in (pair.kept, pair.other))]))


class CrowdSheet(NamedTuple):
    """An image made ready for the page, so that its tensors need not stay in memory.

    Attributes:
        name: The image's name.
        thumb: A small picture, as a data URL.
        body: JSON that is safe inside a script element.
        title: The rule's name.
    """

    name: str
    thumb: str
    body: str
    title: str


def write_decisions(sheets: Sequence[CrowdSheet], *, remark: str = "") -> str:
    """Render the page.

    Args:
        sheets: The images; at least one.
        remark: A line above the first image.

    Returns:
        The page as HTML.

    Raises:
        ValueError: There is no image.
    """
    if not sheets:
        raise ValueError("a page needs at least one image")
    settings = {"positive": to_base64(color_table(POSITIVE).tobytes()), "signed": to_base64(color_table(SIGNED).tobytes())}
    title = sheets[0].name if len(sheets) == 1 else f"{len(sheets)} images"
    return render(
        "decisions.html",
        styles="decisions.css",
        script="decisions.js",
        title=f"{title} · {sheets[0].title}",
        remark=remark,
        page=script_json(settings),
        # Escaped already, by `script_json`: escaped twice, it would be no JSON.
        photos=[{"name": sheet.name, "thumb": sheet.thumb, "body": Markup(sheet.body)} for sheet in sheets],
    )


def make_crowd_sheet(crowd: Crowd) -> CrowdSheet:
    """Encode an image with its decisions and maps.

    Args:
        crowd: The image.

    Returns:
        The encoded image.
    """
    size = (crowd.image.shape[-2], crowd.image.shape[-1])
    place = {row: index for index, row in enumerate(crowd.rows)}
    maps = [] if crowd.maps is None else [encode_map(crowd.maps[i], LONGEST_MAP) for i in range(len(crowd.maps))]
    low = min((entry["low"] for entry in maps), default=0.0)
    high = max((entry["high"] for entry in maps), default=0.0)
    body = {
        "name": crowd.name,
        "model": crowd.model,
        "height": size[0],
        "width": size[1],
        "picture": data_url(picture_of(crowd.image, fit(size, LONGEST_PHOTO)), 85),
        "rule": crowd.title,
        "compared": crowd.compared,
        "settings": [list(setting) for setting in crowd.settings],
        "boxes": _boxes(crowd),
        "limbs": [] if crowd.shapes is None else [list(pair) for pair in limbs_of(crowd.shapes)],
        "kept": len(crowd.kept),
        "pairs": [_pair(crowd, index, place) for index in range(len(crowd.pairs))],
        "pair_count": crowd.pair_count,
        "differ_count": crowd.differ_count,
        "greedy_iou": crowd.greedy_iou,
        "greedy_kept": crowd.greedy_kept,
        "low": low,
        "high": high,
        "signed": is_signed(low, high),
        "maps": maps,
    }
    thumb = data_url(picture_of(crowd.image, fit(size, LONGEST_THUMB)), 85)
    return CrowdSheet(crowd.name, thumb, script_json(body), crowd.title)


def _boxes(crowd: Crowd) -> list[dict[str, Any]]:
    """The candidates on the page."""
    rows = crowd.rows
    boxes, before = crowd.found.boxes[rows].tolist(), crowd.found.scores[rows].tolist()
    after = dict(zip(crowd.kept, crowd.scores, strict=True))
    map_of = {row: index for index, row in enumerate(crowd.map_rows)}
    return [
        {
            "name": crowd.names[row],
            "box": box,
            "score": score,
            # Where a rule lowers scores; not where half precision rounds.
            "lowered": after[row] if row in after and score - after[row] > 0.0005 else None,
            "map": map_of.get(row),
            **({} if crowd.shapes is None else encode_shape(crowd.shapes, place)),
        }
        for place, (row, box, score) in enumerate(zip(rows, boxes, before, strict=True))
    ]


def _pair(crowd: Crowd, index: int, place: dict[int, int]) -> dict[str, Any]:
    pair = crowd.pairs[index]
    return {
        "kept": place[pair.kept],
        "other": place[pair.other],
        "outcome": pair.outcome,
        "iou": pair.iou,
        "similarity": _number(pair.similarity),
        "cosine": _number(crowd.cosines[index]) if crowd.cosines else None,
        "differs": pair.differs,
        "why": pair.why,
    }


def _number(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return float(value) if math.isfinite(value) else None
