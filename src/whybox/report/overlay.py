"""Overlays of heat maps on images: colors, an opacity that follows the value, boxes, and PNG or JPEG bytes."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from whybox.frame import Frame, Size
from whybox.report.shapes import draw_shape
from whybox.types import Detections, HeatMaps

POSITIVE = "inferno"
SIGNED = "RdBu_r"
"""matplotlib's names of a sequential color map for maps that start at zero, and a diverging one for maps with both signs."""

ACCENT = (255, 255, 255)
SHADE = (16, 18, 24)


Pixels = NDArray[np.uint8]
"""(H,W,3), as in PIL. Drawing is done in NumPy: torch would start its threads for every small step."""


@cache
def color_table(name: str) -> Pixels:
    """Read a color map of matplotlib.

    Args:
        name: Its name.

    Returns:
        (256,3), one color per row.
    """
    from matplotlib import colormaps

    return (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def value_range(maps: Sequence[Tensor]) -> tuple[float, float]:
    """The range of several maps.

    Args:
        maps: Tensors of any shape.

    Returns:
        The lowest and the highest finite value; (0, 0) where there is none.
    """
    ends = [end for values in maps for end in _ends(values)]
    return min(ends, default=0.0), max(ends, default=0.0)


def _ends(values: Tensor) -> tuple[float, ...]:
    if values.numel():
        # One pass suffices in the usual case, where all values are finite.
        low, high = (float(end) for end in values.detach().aminmax())
        if math.isfinite(low) and math.isfinite(high):
            return low, high
        values = values[torch.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.numel() else ()


def is_signed(low: float, high: float) -> bool:
    """Decide whether a map is drawn in diverging colors around zero.

    Args:
        low: Its lowest value.
        high: Its highest value.

    Returns:
        Whether it has negative values beyond a hundredth of its highest value, which is rounding.
    """
    return low < 0 and -low > 0.01 * high


def blend(image: Pixels, values: NDArray[np.float32], low: float, high: float, opacity: float = 0.85) -> Pixels:
    """Overlay a map on an image.

    `low` becomes transparent and `high` has the full `opacity`; a fraction t between them has opacity * t * (2 - t), so that
    weak values are faint but not lost. Maps with both signs are transparent at zero instead.

    Args:
        image: (H,W,3).
        values: (H,W).
        low: The lowest value of the color scale.
        high: The highest value of the color scale.
        opacity: Of the strongest value, in 0..1.

    Returns:
        (H,W,3)
    """
    # NaN is drawn as 0; casting it to an index is undefined.
    strength, colors = _shade(np.nan_to_num(values), low, high)
    alpha = (opacity * strength * (2 - strength))[:, :, None]
    return (image * (1 - alpha) + colors * alpha).round().astype(np.uint8)


def _shade(values: NDArray[np.float32], low: float, high: float) -> tuple[NDArray[np.float32], Pixels]:
    """Strength (H,W) in 0..1 and colors (H,W,3)."""
    if is_signed(low, high):
        # Symmetric, so that zero is the middle of the color map and transparent.
        position = (values / max(-low, high)).clip(-1, 1)
        strength, step, table = np.abs(position), (position + 1) / 2, SIGNED
    else:
        position = (values - low) / (high - low) if high > low else values * 0
        strength = position.clip(0, 1)
        step, table = strength, POSITIVE
    return strength, color_table(table)[(step * 255).round().astype(np.int64)]


def fit(size: Size, longest: int) -> Size:
    """Shrink a size, keeping its aspect ratio; it is never enlarged.

    Args:
        size: (height, width).
        longest: The largest longer side, in pixels.

    Returns:
        (height, width)
    """
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def at_size(maps: HeatMaps, size: Size) -> Tensor:
    """Resize maps to the image, padding cropped, as if the image had another size.

    Args:
        maps: N maps.
        size: (height, width).

    Returns:
        (N,*size)
    """
    return replace(maps, frame=replace(maps.frame, image=size)).at_image()


def picture_of(image: Tensor, size: Size | None = None) -> Image.Image:
    """Convert an image to 8-bit RGB.

    Args:
        image: (3,H,W) in 0..1.
        size: (height, width) to resize it to, antialiased; None: as it is.

    Returns:
        The picture.
    """
    pixels = (image.detach().cpu().float().numpy().clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if size is None or size == (picture.height, picture.width):
        return picture
    return picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def tensor_of(picture: Image.Image) -> Tensor:
    """Convert a picture to a tensor.

    Args:
        picture: In any mode.

    Returns:
        (3,H,W) float in 0..1.
    """
    pixels = np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1) / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def overlay(
    image: Tensor | Image.Image,
    maps: HeatMaps,
    box: Tensor | None = None,
    caption: str = "",
    *,
    shape: Detections | None = None,
    longest: int = 1024,
    opacity: float = 0.85,
) -> Image.Image:
    """Overlay one map on its image, colored over its own range.

    Args:
        image: (3,H,W) in 0..1, or a picture of it at its final size, so that many overlays can share one.
        maps: One map.
        box: (4,) xyxy in image pixels, or None.
        caption: Text at the box or, without a box, in the corner.
        shape: One detection, whose mask, keypoints or turned box are drawn, too.
        longest: The largest longer side of the result in pixels, for an image that is a tensor.
        opacity: Of the strongest value, in 0..1.

    Returns:
        The picture.
    """
    picture = image if isinstance(image, Image.Image) else shrink(image, longest)
    size = (picture.height, picture.width)
    values = at_size(maps, size)[0].detach().cpu().float()
    drawn = Image.fromarray(blend(np.asarray(picture), values.numpy(), *value_range([values]), opacity))
    turned = shape is not None and draw_shape(drawn, shape, 0, maps.frame.image, ACCENT, SHADE)
    if box is not None:
        to_picture = Frame(maps.frame.image, size, size)
        draw_box(drawn, to_picture.boxes_to_network(box.detach().cpu().float()), caption, outlined=not turned)
    elif caption:
        _write(ImageDraw.Draw(drawn), caption, (0, 0), drawn.size)
    return drawn


def shrink(image: Tensor, longest: int) -> Image.Image:
    """Convert an image to a picture of limited size.

    Args:
        image: (3,H,W) in 0..1.
        longest: The largest longer side, in pixels.

    Returns:
        The picture.
    """
    return picture_of(image, fit((image.shape[-2], image.shape[-1]), longest))


def draw_box(picture: Image.Image, box: Tensor, caption: str = "", *, outlined: bool = True) -> None:
    """Draw a box on a picture: a white line in a dark seam.

    Args:
        picture: The picture, which is changed.
        box: (4,) xyxy in the picture's pixels.
        caption: Text at its top left, or "".
        outlined: False: the caption alone.
    """
    ink = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = _inside(box, picture)
    line = max(2, round(max(picture.size) / 400))
    if outlined:
        # The dark seam keeps a white line visible on a bright image.
        ink.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=SHADE, width=line + 2)
        ink.rectangle((x1, y1, x2, y2), outline=ACCENT, width=line)
    if caption:
        _write(ink, caption, (x1, y1), picture.size)


def _inside(box: Tensor, picture: Image.Image) -> tuple[float, float, float, float]:
    """The part of the box inside the picture; a box outside it shrinks onto the edge."""
    x1, y1, x2, y2 = torch.nan_to_num(box).tolist()
    right, bottom = picture.width - 1, picture.height - 1
    x1, y1 = min(max(x1, 0), right), min(max(y1, 0), bottom)
    # Pillow refuses a rectangle whose second corner lies before its first (python-pillow/Pillow#6978).
    return x1, y1, max(min(x2, right), x1), max(min(y2, bottom), y1)


def _write(ink: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], size: tuple[int, int]) -> None:
    """A line of text on a dark plate above `corner` (x, y), moved and cut so that it stays in the picture of `size` (w, h)."""
    height = max(11, round(max(size) / 60))
    font = _font(height)
    pad = height // 3
    text = _cut_to(text, lambda line: ink.textlength(line, font=font) + 2 * pad <= size[0])
    width = ink.textlength(text, font=font) + 2 * pad
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height - 2 * pad
    # Inside the box where there is no room above it.
    y = corner[1] if y < 0 else y
    ink.rectangle((x, y, x + width, y + height + 2 * pad), fill=SHADE)
    ink.text((x + pad, y + pad * 0.7), text, font=font, fill=ACCENT)


def _cut_to(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or as many of its first characters as fit before an ellipsis."""
    text = " ".join(text.split())
    if fits(text):
        return text
    # A longer text is wider, so that the first length that does not fit can be bisected.
    kept = bisect_left(range(1, len(text)), True, key=lambda end: not fits(f"{text[:end]}…"))
    return f"{text[:kept].rstrip()}…"


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: The picture.

    Returns:
        The file's bytes.
    """
    # Level 1: of a photograph, a higher one saves little and takes longer.
    return _encode(picture, "PNG", compress_level=1)


def jpeg_bytes(picture: Image.Image, quality: int = 85) -> bytes:
    """Encode a picture as JPEG.

    Args:
        picture: The picture.
        quality: JPEG quality, 1 to 95.

    Returns:
        The file's bytes.
    """
    return _encode(picture, "JPEG", quality=quality, optimize=True)


def _encode(picture: Image.Image, form: str, **options: int) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
