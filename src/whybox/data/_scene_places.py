"""The places of the generated scenes: skies, walls and grounds, and the marks that make them busy."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from whybox.data._sprites import COLORS, Color, Rng, shade

# name: (sky or wall above, below; ground far, near)
PLACES: dict[str, tuple[Color, Color, Color, Color]] = {
    "meadow": ((120, 176, 226), (214, 232, 240), (122, 168, 92), (84, 132, 62)),
    "street": ((150, 170, 190), (206, 212, 216), (138, 136, 134), (92, 92, 96)),
    "beach": ((96, 172, 222), (188, 222, 232), (226, 206, 160), (204, 176, 122)),
    "snow": ((170, 188, 210), (222, 228, 236), (226, 232, 240), (196, 208, 222)),
    "room": ((196, 176, 150), (182, 160, 138), (150, 112, 78), (122, 86, 58)),
    "dusk": ((84, 72, 120), (232, 160, 120), (112, 106, 90), (70, 70, 66)),
}


def _noise(cells: tuple[int, int], size: tuple[int, int], rng: Rng) -> NDArray[np.float32]:
    """Smooth noise (H,W) around 0 with about unit spread, from a grid of (columns, rows) random cells."""
    grid = Image.fromarray(rng.normal(0, 1, (cells[1], cells[0])).astype(np.float32))
    return np.asarray(grid.resize(size, Image.Resampling.BILINEAR))


def draw_place(place: str, horizon: float, size: tuple[int, int], rng: Rng) -> Image.Image:
    """Draw an empty scene: sky or wall, ground, and the marks of the place.

    Args:
        place: One of `PLACES`.
        horizon: Its height on the image, 0 the top and 1 the bottom.
        size: (width, height) in pixels.
        rng: Where everything random comes from.

    Returns:
        The picture, in RGB.
    """
    width, height = size
    line = round(height * horizon)
    above, below, far, near = (np.asarray(color, dtype=np.float32) for color in PLACES[place])
    tint = rng.uniform(0.88, 1.1, 3).astype(np.float32)
    upper = above + (below - above) * np.linspace(0, 1, line, dtype=np.float32)[:, None]
    lower = far + (near - far) * np.linspace(0, 1, height - line, dtype=np.float32)[:, None]
    rows = np.concatenate([upper, lower]) * tint
    canvas = Image.fromarray(np.broadcast_to(rows[:, None], (height, width, 3)).clip(0, 255).astype(np.uint8))
    _decorate(canvas, place, line, rng)
    canvas = canvas.filter(ImageFilter.BoxBlur(0.6))
    soft, fine = _noise((12, 9), size, rng), _noise((width // 2, height // 2), size, rng)
    strength = np.where(np.arange(height) < line, 0.4, 1.0).astype(np.float32)[:, None]
    texture = 1 + strength * (0.05 * soft + 0.06 * fine)
    return Image.fromarray((np.asarray(canvas) * texture[..., None]).clip(0, 255).astype(np.uint8))


def _decorate(canvas: Image.Image, place: str, line: int, rng: Rng) -> None:
    """Clouds and hills, a skyline, wallpaper, planks, tufts: what makes the background busy."""
    ink = ImageDraw.Draw(canvas)
    width, height = canvas.size
    if place == "room":
        _wallpaper(ink, line, canvas.size, rng)
        return
    for x, y in rng.uniform((0, 0), (width, line * 0.6), (rng.integers(0, 4), 2)):
        for puff in range(4):
            radius = rng.uniform(0.03, 0.06) * width
            center = x + puff * radius * 0.8
            ink.ellipse((center - radius, y - radius * 0.5, center + radius, y + radius * 0.5), fill=(236, 238, 242))
    if place == "street":
        for left in np.arange(0, width, width / rng.integers(7, 12)):
            tone = shade(COLORS["grey"], rng.uniform(0.7, 1.2))
            ink.rectangle((left, line - rng.uniform(0.1, 0.8) * line, left + width / 8, line), fill=tone)
    else:
        hills = line - np.abs(np.cumsum(rng.normal(0, 0.02 * height, 12))) - 2
        tone = shade(tuple(np.asarray(PLACES[place][2]).tolist()), 0.85)
        ridge = zip(np.linspace(0, width, 12).tolist(), hills.tolist(), strict=True)
        ink.polygon([(0, line), *ridge, (width, line)], tone)
    _tufts(ink, place, line, canvas.size, rng)


def _wallpaper(ink: ImageDraw.ImageDraw, line: int, size: tuple[int, int], rng: Rng) -> None:
    stripe = shade(tuple(COLORS.values())[rng.integers(len(COLORS))], rng.uniform(0.7, 1.1))
    pitch = rng.uniform(0.04, 0.1) * size[0]
    for left in np.arange(0, size[0], pitch):
        ink.rectangle((left, 0, left + pitch * 0.3, line), fill=stripe)
    ink.rectangle((0, line - 5, size[0], line), fill=(228, 222, 212))
    for start in np.linspace(-0.6, 1.6, 16) * size[0]:
        ink.line((size[0] / 2 + (start - size[0] / 2) * 0.5, line, start, size[1]), fill=(96, 68, 46))


def _tufts(ink: ImageDraw.ImageDraw, place: str, line: int, size: tuple[int, int], rng: Rng) -> None:
    """Short strokes on the ground, larger towards the front: grass, cracks, pebbles, ripples."""
    for part, y, factor in zip(rng.random(60), rng.uniform(line, size[1], 60), rng.uniform(0.7, 1.25, 60), strict=True):
        x, reach = part * size[0], 2 + 8 * (y - line) / (size[1] - line)
        tone = shade(PLACES[place][3], float(factor))
        if place in ("meadow", "dusk"):
            ink.line((x, y, x + reach * 0.4, y - reach), fill=tone)
        else:
            ink.line((x, y, x + reach * 1.5, y + reach * 0.2), fill=tone)
