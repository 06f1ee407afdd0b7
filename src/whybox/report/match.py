"""The page of a model that predicts for the whole image: its map for every text and word, or for every class."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from whybox.attention import Text, TokenMaps
from whybox.report.document import data_url, render, script_json
from whybox.report.overlay import POSITIVE, SIGNED, color_table, fit, is_signed, picture_of, value_range
from whybox.report.page import LONGEST_MAP, LONGEST_PHOTO
from whybox.report.texts import encode_text
from whybox.types import HeatMaps


@dataclass(frozen=True)
class Asked:
    """N texts or classes, and what the model predicts for them on one image.

    Attributes:
        names: N texts or class names.
        scores: (N,).
        maps: N maps.
    """

    names: Sequence[str]
    scores: Tensor
    maps: HeatMaps

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.scores.shape != (count,) or len(self.maps) != count:
            raise ValueError(f"{count} names do not fit scores {tuple(self.scores.shape)} and {len(self.maps)} maps")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Match:
    """One image with N texts or classes.

    Attributes:
        name: The image's name.
        image: (3,H,W) in 0..1.
        asked: The texts or classes with their scores and maps.
        texts: N texts as the model read them; () for classes.
        tokens: The weights of the texts' tokens; None where the method has none.
        words: `distinct_words` of the texts, each matched alone.
        notes: N remarks, or ().
        model: The model's name.
        seconds: By step.
    """

    name: str
    image: Tensor
    asked: Asked
    texts: Sequence[Text] = ()
    tokens: TokenMaps | None = None
    words: Asked | None = None
    notes: Sequence[str] = ()
    model: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.asked)
        if not count:
            raise ValueError("a match needs at least one text or class")
        for what in (self.texts, self.notes, self.tokens or ()):
            if len(what) not in (0, count):
                raise ValueError(f"{count} texts or classes need as many texts, weights and notes, or none")


def write_match(match: Match) -> str:
    """Render the page.

    Args:
        match: The image with its texts or classes.

    Returns:
        The page as HTML.
    """
    settings = {
        "positive": _base64(color_table(POSITIVE).tobytes()),
        "signed": _base64(color_table(SIGNED).tobytes()),
        "methods": {match.asked.maps.method: match.asked.maps.method_title or match.asked.maps.method},
    }
    return render(
        "match.html",
        styles="match.css",
        script="match.js",
        title=match.name,
        page=script_json(settings),
        match=script_json(_body(match)),
    )


def _body(match: Match) -> dict[str, Any]:
    height, width = match.image.shape[-2:]
    maps = match.asked.maps
    texts = [_text(match, i) for i in range(len(match.asked))]
    # Of the texts alone: the maps of single words are shown on the same scale, but do not set it.
    low = min(row["map"]["low"] for row in texts)
    high = max(row["map"]["high"] for row in texts)
    return {
        "name": match.name,
        "model": match.model,
        "height": height,
        "width": width,
        "picture": data_url(picture_of(match.image, fit((height, width), LONGEST_PHOTO)), 85),
        "score": "cosine" if match.texts else "probability",
        "method": maps.method,
        "target": maps.target,
        "options": _settings(maps.options),
        "network": list(maps.frame.network),
        "area": _area(maps),
        "seconds": {name: _number(value) for name, value in match.seconds.items()},
        "low": low,
        "high": high,
        "signed": is_signed(low, high),
        "texts": texts,
        "words": [] if match.words is None else [_row(match.words, i) for i in range(len(match.words))],
    }


def _row(asked: Asked, index: int) -> dict[str, Any]:
    peak = value_range(asked.maps[index].native)[1]
    score = _number(float(asked.scores[index]))
    return {"name": asked.names[index], "score": score, "peak": peak, "map": _map(asked.maps[index])}


def _text(match: Match, index: int) -> dict[str, Any]:
    """A text's row: its numbers, its map, and what it is made of: plain pieces, words with weights, and what was cut."""
    row = _row(match.asked, index)
    row["note"] = match.notes[index] if match.notes else ""
    row["explained"] = _explained(match.asked.maps.options, index)
    text = match.texts[index] if match.texts else Text(row["name"], (), ())
    row["pieces"] = encode_text(text, match.tokens, index, {} if match.words is None else _places(match.words.names))
    return row


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _map(maps: HeatMaps) -> dict[str, Any]:
    """The one map in `maps` on its own grid: h x w steps of 0..255 between `low` and `high`. A finer grid is averaged."""
    values = torch.nan_to_num(maps.values[0].detach().float().cpu())
    size = (values.shape[0], values.shape[1])
    small = fit(size, LONGEST_MAP)
    values = values if small == size else adaptive_avg_pool2d(values[None], small)[0]
    low, high = value_range([values])
    steps = ((values - low) / (high - low) * 255).round() if high > low else torch.zeros_like(values)
    data = _base64(bytes(steps.to(torch.uint8).flatten().tolist()))
    return {"w": small[1], "h": small[0], "low": low, "high": high, "data": data, "grid": list(size)}


def _area(maps: HeatMaps) -> list[float]:
    """(x, y, w, h) of what the maps cover, as shares of the image: less than it where the model's canvas is a crop, more
    where it has padding."""
    if not maps.crop_padding:
        return [0.0, 0.0, 1.0, 1.0]
    height, width = maps.frame.network
    x1, y1, x2, y2 = maps.frame.boxes_to_image(torch.tensor([0.0, 0.0, width, height])).tolist()
    down, across = maps.frame.image
    return [x1 / across, y1 / down, (x2 - x1) / across, (y2 - y1) / down]


PER_TEXT = ("explained_score", "own_score")
"""Options of a result that hold a number per text, not a setting."""


def _settings(options: Mapping[str, Any]) -> list[list[str]]:
    return [[name, _as_text(value)] for name, value in options.items() if value is not None and name not in PER_TEXT]


def _explained(options: Mapping[str, Any], index: int) -> list[float] | None:
    """The score that the method explained and the model's score, where the method gives both and they differ."""
    given = [options.get(name) for name in PER_TEXT]
    if not all(isinstance(values, (list, tuple)) and len(values) > index for values in given):
        return None
    explained, native = (float(values[index]) for values in given if values is not None)
    # They are computed by different passes, so that equal scores differ by rounding.
    close = math.isclose(explained, native, rel_tol=1e-3, abs_tol=1e-4)
    return None if close or not math.isfinite(explained + native) else [explained, native]


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _number(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return float(value) if math.isfinite(value) else None


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
