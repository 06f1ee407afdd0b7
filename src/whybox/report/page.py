"""The page of explained images: boxes, heat maps, and what each of them shows in words. Nothing is fetched."""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from torch import Tensor
from torch.nn.functional import avg_pool2d

from whybox.attention import TokenMaps
from whybox.frame import Size
from whybox.report.document import data_url, render, script_json
from whybox.report.overlay import (
    POSITIVE,
    SIGNED,
    at_size,
    color_table,
    fit,
    is_signed,
    picture_of,
    value_range,
)
from whybox.report.shapes import limbs_of, outlines
from whybox.report.texts import encode_text
from whybox.report.wording import SILENT, words_of
from whybox.types import Detections, HeatMaps

LONGEST_PHOTO = 1400
LONGEST_THUMB = 180
LONGEST_MAP = 168
"""The largest longer sides in pixels: thirty detections with six targets stay below five megabytes, and the finest level
that pyramid detectors explain, 8 pixels per cell of a canvas 1333 pixels wide, keeps its resolution."""


ROUTES = {
    "exact": "exact, through the whole model",
    "windows": "exact, on the receptive field",
    "frozen": "on the receptive field, statistics held fixed",
}


@dataclass(frozen=True)
class Layer:
    """The maps of one method for one target.

    Attributes:
        method: The method's name.
        target: The target's name.
        maps: One map per detection.
        seconds: What they took; 0 where it is not known.
        tokens: What the words of each detection's text weigh, or None.
    """

    method: str
    target: str
    maps: HeatMaps
    seconds: float = 0.0
    tokens: TokenMaps | None = None


@dataclass(frozen=True)
class Photo:
    """An image on the page.

    Attributes:
        name: The image's name.
        image: (3,H,W) in 0..1.
        detections: N detections.
        names: N class names.
        layers: Each with N maps.
        notes: N remarks, or ().
        model: The model's name.
        seconds: What the steps took, by name.
        keypoints: The names of the detections' keypoints, or ().
    """

    name: str
    image: Tensor
    detections: Detections
    names: Sequence[str]
    layers: Sequence[Layer] = ()
    notes: Sequence[str] = ()
    model: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    keypoints: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.detections)
        if len(self.names) != count or len(self.notes) not in (0, count):
            raise ValueError(f"{count} detections need as many names, and as many notes or none")
        for layer in self.layers:
            if len(layer.maps) != count:
                raise ValueError(f"{layer.method}/{layer.target} has {len(layer.maps)} maps for {count} detections")


class Sheet(NamedTuple):
    """An image made ready for the page, so that its tensors need not stay in memory.

    Attributes:
        name: The image's name.
        thumb: A small picture, as a data URL.
        body: JSON that is safe inside a script element.
    """

    name: str
    thumb: str
    body: str


def write_page(photos: Iterable[Photo | Sheet], *, title: str = "", remark: str = "") -> str:
    """Render the page.

    Args:
        photos: The images; at least one.
        title: The heading; "": the image's name or the number of images.
        remark: A line above the first image.

    Returns:
        The page as HTML.

    Raises:
        ValueError: There is no image.
    """
    sheets = [photo if isinstance(photo, Sheet) else make_sheet(photo) for photo in photos]
    if not sheets:
        raise ValueError("a page needs at least one photo")
    title = title or (sheets[0].name if len(sheets) == 1 else f"{len(sheets)} images")
    images = {"images": [[sheet.name, sheet.thumb] for sheet in sheets]} if len(sheets) > 1 else None
    return render_page(title, images, [sheet.body for sheet in sheets], remark=remark)


def render_page(
    title: str, images: Mapping[str, Any] | None, bodies: Sequence[str] = (), *, beside: str = "", remark: str = ""
) -> str:
    """Render the page around images that are made ready.

    Args:
        title: The heading.
        images: What the strip of images shows; None where there is a single one.
        bodies: The images, as in `Sheet`; none where they lie in the folder `beside`.
        beside: A folder's name.
        remark: A line above the first image.

    Returns:
        The page as HTML.
    """
    return render(
        "page.html",
        styles="page.css",
        script="page.js",
        title=title,
        remark=remark,
        page=script_json(page_settings()),
        images=None if images is None else script_json(images),
        # Escaped already, by `script_json`: escaped twice, it would be no JSON.
        bodies=[Markup(body) for body in bodies],
        beside=beside,
    )


def page_settings() -> dict[str, Any]:
    """What the page's script has to know whatever it shows."""
    return {
        # The page colors the maps itself, because the reader can change scale and opacity.
        "positive": to_base64(color_table(POSITIVE).tobytes()),
        "signed": to_base64(color_table(SIGNED).tobytes()),
        "silent": SILENT._asdict(),
        "routes": ROUTES,
    }


def make_sheet(photo: Photo) -> Sheet:
    """Encode an image with its maps: the picture as JPEG, each map as 8-bit steps over its own range.

    Args:
        photo: The image.

    Returns:
        The encoded image.
    """
    size = (photo.image.shape[-2], photo.image.shape[-1])
    body = {
        "name": photo.name,
        "model": photo.model,
        "methods": {layer.method: layer.maps.method_title or layer.method for layer in photo.layers},
        "height": size[0],
        "width": size[1],
        "picture": data_url(picture_of(photo.image, fit(size, LONGEST_PHOTO)), 85),
        "seconds": {name: _number(value) for name, value in photo.seconds.items()},
        **encode_shapes(photo.detections, photo.keypoints),
        "detections": encode_detections(photo.detections, photo.names, photo.notes),
        "layers": [encode_layer(layer) for layer in photo.layers],
    }
    return Sheet(photo.name, data_url(picture_of(photo.image, fit(size, LONGEST_THUMB)), 85), script_json(body))


def encode_detections(detections: Detections, names: Sequence[str], notes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Detections as the page's script reads them.

    Args:
        detections: N detections.
        names: N class names.
        notes: N remarks, or ().

    Returns:
        N dicts ready for JSON.
    """
    rows = zip(names, detections.scores.tolist(), detections.boxes.tolist(), notes or [""] * len(detections), strict=True)
    return [
        # A side that is NaN becomes 0: the script computes with boxes.
        {"name": name, "score": _number(score), "box": [_number(side) or 0.0 for side in box], "note": note}
        | encode_shape(detections, index)
        for index, (name, score, box, note) in enumerate(rows)
    ]


def encode_shapes(detections: Detections, keypoints: Sequence[str] = ()) -> dict[str, Any]:
    """What the detections of an image share, beside the boxes.

    Args:
        detections: N detections.
        keypoints: The names of their keypoints.

    Returns:
        Entries of the image's dict, ready for JSON.
    """
    return {"keypoints": list(keypoints), "limbs": [list(pair) for pair in limbs_of(detections)]}


def encode_shape(found: Detections, index: int) -> dict[str, Any]:
    """What a detection is drawn as beside its box.

    Args:
        found: Some detections.
        index: Which of them.

    Returns:
        Entries of the detection's dict, ready for JSON.
    """
    shape: dict[str, Any] = {}
    if found.masks is not None:
        shape["outlines"] = outlines(found.masks[index])
    if found.corners is not None:
        shape["corners"] = torch.nan_to_num(found.corners[index]).tolist()
    if found.keypoints is not None:
        shape["points"] = torch.nan_to_num(found.keypoints[index]).tolist()
    return shape


def encode_layer(layer: Layer) -> dict[str, Any]:
    """The maps, and the range that they share when they are drawn on one scale.

    Args:
        layer: N maps of one method for one target.

    Returns:
        A dict ready for JSON.
    """
    maps = [encode_map(layer.maps[i]) for i in range(len(layer.maps))]
    low = min((entry["low"] for entry in maps), default=0.0)
    high = max((entry["high"] for entry in maps), default=0.0)
    options = ", ".join(f"{name} {_as_text(value)}" for name, value in layer.maps.options.items() if value is not None)
    return {
        "method": layer.method,
        "target": layer.target,
        "words": words_of(layer.target)._asdict(),
        "options": options,
        "seconds": _number(layer.seconds),
        "signed": is_signed(low, high),
        "low": low,
        "high": high,
        "maps": maps,
        "texts": _texts(layer.tokens),
    }


def _texts(tokens: TokenMaps | None) -> list[list[dict[str, Any]]]:
    """The detections' texts in pieces; none where their words have no weights."""
    return [] if tokens is None else [encode_text(text, tokens, i, {}) for i, text in enumerate(tokens.texts)]


def encode_map(maps: HeatMaps, longest: int = LONGEST_MAP) -> dict[str, Any]:
    """One map cut to the image: h x w steps of 0..255 between `low` and `high`; `raw` is the range on its own grid.

    Only the `part` (x, y, w, h in cells) outside which every step is 0 is stored.

    Args:
        maps: One map.
        longest: The largest longer side in cells.

    Returns:
        A dict ready for JSON.
    """
    # NaN is drawn as 0, as overlays draw it: the stored steps are whole numbers.
    values = torch.nan_to_num(map_on_image(maps, longest))
    low, high = value_range([values])
    steps = ((values - low) / (high - low) * 255).round() if high > low else torch.zeros_like(values)
    rows, columns = _extent(steps.any(1)), _extent(steps.any(0))
    return {
        "w": values.shape[1],
        "h": values.shape[0],
        "low": low,
        "high": high,
        "part": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "data": to_base64(bytes(steps[rows, columns].to(torch.uint8).flatten().tolist())),
        "raw": [_number(end) for end in value_range(maps.native)],
        "grid": list(maps.native[0].shape),
        "route": maps.routes[0] if maps.routes else "",
        "layer": maps.layers[0] if maps.layers else "",
    }


def _extent(used: Tensor) -> slice:
    """From the first to the last true entry of (n,); empty where there is none."""
    places = used.nonzero().flatten().tolist()
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def map_on_image(maps: HeatMaps, longest: int = LONGEST_MAP) -> Tensor:
    """Resize a map to the image, padding cropped, at about its own resolution.

    A finer map is averaged over blocks, so that no thin line falls between two cells.

    Args:
        maps: One map.
        longest: The largest longer side in cells.

    Returns:
        (h,w) with at most `longest` cells per side.
    """
    size = _cells(maps)
    small = fit(size, longest)
    # The map is enlarged to whole blocks and then averaged.
    block = math.ceil(max(size) / longest)
    values = at_size(maps, (small[0] * block, small[1] * block)).detach().float().cpu()
    return avg_pool2d(values[:, None], block)[0, 0] if block > 1 else values[0]


def _cells(maps: HeatMaps) -> Size:
    """How many cells (h, w) of the map lie on the image."""
    # Without cropping, the padding is stretched over the image, too: all cells lie on it.
    shown = maps.frame.resized if maps.crop_padding else maps.frame.network
    cells = [
        max(1, round(grid * part / whole))
        for grid, part, whole in zip(maps.native[0].shape, shown, maps.frame.network, strict=True)
    ]
    return cells[0], cells[1]


def to_base64(data: bytes) -> str:
    """Bytes as text for a page."""
    return b64encode(data).decode("ascii")


def _number(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return float(value) if math.isfinite(value) else None


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
