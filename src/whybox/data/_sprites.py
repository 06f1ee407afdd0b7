"""The drawn things of the generated scenes: six classes of object, and clutter that belongs to none of them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Rng = np.random.Generator

COLORS: dict[str, Color] = {
    "red": (205, 45, 45),
    "orange": (232, 128, 38),
    "yellow": (240, 205, 60),
    "green": (62, 148, 70),
    "blue": (52, 98, 200),
    "purple": (128, 70, 165),
    "pink": (236, 140, 175),
    "brown": (128, 84, 50),
    "black": (48, 48, 54),
    "grey": (138, 140, 146),
    "white": (236, 236, 230),
}
SKIN: tuple[Color, ...] = ((244, 206, 176), (224, 172, 130), (176, 120, 82), (120, 78, 54))
HAIR: tuple[Color, ...] = ((44, 32, 26), (96, 62, 36), (206, 166, 90), (150, 148, 146), (150, 62, 32))
GLASS: Color = (176, 208, 226)
DARK: Color = (40, 40, 46)


def shade(color: Color, factor: float) -> Color:
    """A color made darker or lighter.

    Args:
        color: Red, green and blue, 0 to 255.
        factor: On each of them: below 1 darker, above 1 lighter.

    Returns:
        The color, cut off at 255.
    """
    red, green, blue = (min(255, int(value * factor)) for value in color)
    return red, green, blue


class Pen:
    """Draws on a transparent sheet in unit coordinates: x and y from 0 to 1, y downwards.

    Attributes:
        width: Of the sheet, in pixels.
        height: Of the sheet, in pixels.
        sheet: The image that is drawn on, RGBA.
        ink: PIL's own pen, in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        """Take an empty sheet.

        Args:
            width: In pixels.
            height: In pixels.
        """
        self.width, self.height = width, height
        self.sheet = Image.new("RGBA", (width, height))
        self.ink = ImageDraw.Draw(self.sheet)

    def _pixels(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        # - 1, because PIL's coordinates are those of pixels, the last one included.
        return [(x * (self.width - 1), y * (self.height - 1)) for x, y in points]

    def polygon(self, color: Color, *points: tuple[float, float]) -> None:
        """A filled polygon.

        Args:
            color: Of the whole.
            *points: Its corners (x, y), each 0 to 1.
        """
        self.ink.polygon(self._pixels(points), fill=color)

    def block(self, color: Color, x1: float, y1: float, x2: float, y2: float, rounded: float = 0.0) -> None:
        """A filled rectangle.

        Args:
            color: Of the whole.
            x1: The left side, 0 to 1.
            y1: The upper side, 0 to 1.
            x2: The right side, 0 to 1.
            y2: The lower side, 0 to 1.
            rounded: The radius of its corners, as a part of the sheet's height.
        """
        (left, top), (right, bottom) = self._pixels([(x1, y1), (x2, y2)])
        self.ink.rounded_rectangle((left, top, right, bottom), rounded * self.height, fill=color)

    def disc(self, color: Color, x: float, y: float, radius: float, flat: float = 1.0) -> None:
        """A filled disc.

        Args:
            color: Of the whole.
            x: The center, 0 to 1.
            y: The center, 0 to 1.
            radius: As a part of the sheet's height.
            flat: Its height by its width.
        """
        ((middle, center),) = self._pixels([(x, y)])
        across = radius * self.height
        self.ink.ellipse((middle - across, center - across * flat, middle + across, center + across * flat), color)

    def stroke(self, color: Color, thickness: float, *points: tuple[float, float]) -> None:
        """A line with round ends.

        Args:
            color: Of the whole.
            thickness: As a part of the sheet's height.
            *points: What it goes through, (x, y), each 0 to 1.
        """
        width = max(1, round(thickness * self.height))
        pixels = self._pixels(points)
        self.ink.line(pixels, fill=color, width=width, joint="curve")
        # PIL's lines end flat, and its joint rounds the inner points alone.
        for x, y in (pixels[0], pixels[-1]):
            self.ink.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), color)


def draw_person(pen: Pen, color: Color, rng: Rng) -> None:
    """Head, hair, coat in `color`, arms, trousers, shoes; the pose varies."""
    skin, hair = SKIN[rng.integers(len(SKIN))], HAIR[rng.integers(len(HAIR))]
    trousers = shade(COLORS[("blue", "black", "brown", "grey")[rng.integers(4)]], 0.75)
    step, lift = rng.uniform(0.04, 0.2), rng.uniform(-0.08, 0.3)
    for side in (-1, 1):
        foot = 0.5 + side * step
        pen.stroke(trousers, 0.085, (0.5 + side * 0.1, 0.58), (foot, 0.93))
        pen.stroke(DARK, 0.05, (foot, 0.97), (foot + 0.06, 0.97))
    for side, raised in ((-1, lift), (1, -lift * 0.5)):
        hand = (0.5 + side * 0.36, 0.56 - raised)
        pen.stroke(shade(color, 0.8), 0.07, (0.5 + side * 0.2, 0.27), hand)
        pen.disc(skin, *hand, 0.035)
    pen.block(color, 0.26, 0.21, 0.74, 0.64, rounded=0.06)
    pen.stroke(shade(color, 0.7), 0.012, (0.5, 0.24), (0.5, 0.62))
    pen.block(skin, 0.43, 0.16, 0.57, 0.23)
    pen.disc(hair, 0.5, 0.095, 0.094)
    pen.disc(skin, 0.53, 0.115, 0.075)
    for eye in (0.5, 0.62):
        pen.disc(DARK, eye, 0.108, 0.01)


def draw_car(pen: Pen, color: Color, rng: Rng) -> None:
    """Body and cabin in `color`, windows, wheels with hubs, lamps, a door."""
    front, back, roof = rng.uniform(0.74, 0.84), rng.uniform(0.08, 0.2), rng.uniform(0.04, 0.16)
    pen.polygon(color, (back, 0.5), (back + 0.12, roof), (front - 0.16, roof), (front, 0.5))
    pen.block(color, 0.02, 0.42, 0.98, 0.82, rounded=0.14)
    pen.block(shade(color, 0.7), 0.03, 0.68, 0.97, 0.8, rounded=0.06)
    pane, sill = roof + 0.07, 0.43
    pen.polygon(GLASS, (back + 0.06, sill), (back + 0.14, pane), (0.45, pane), (0.45, sill))
    pen.polygon(GLASS, (0.5, sill), (0.5, pane), (front - 0.18, pane), (front - 0.05, sill))
    pen.stroke(shade(color, 0.6), 0.02, (0.475, 0.45), (0.475, 0.7))
    pen.block(shade(color, 0.5), 0.52, 0.52, 0.58, 0.55)
    pen.block((250, 236, 170), 0.93, 0.5, 0.98, 0.6)
    pen.block((190, 30, 30), 0.02, 0.5, 0.06, 0.62)
    for wheel in (0.22, 0.78):
        pen.disc(DARK, wheel, 0.8, 0.19)
        pen.disc((190, 192, 198), wheel, 0.8, 0.1)
        pen.disc(DARK, wheel, 0.8, 0.035)


def draw_tree(pen: Pen, color: Color, rng: Rng) -> None:
    """A trunk under a crown in `color`: round like an oak's, or three tiers like a fir's."""
    bark = shade(COLORS["brown"], rng.uniform(0.7, 1.1))
    pen.polygon(bark, (0.43, 0.55), (0.57, 0.55), (0.61, 1.0), (0.39, 1.0))
    pen.stroke(shade(bark, 0.7), 0.012, (0.5, 0.65), (0.48, 0.95))
    if rng.random() < 0.4:
        for tier, (top, bottom, half) in enumerate(((0.4, 0.8, 0.5), (0.2, 0.58, 0.4), (0.0, 0.36, 0.29))):
            pen.polygon(shade(color, 0.8 + 0.12 * tier), (0.5 - half, bottom), (0.5, top), (0.5 + half, bottom))
        return
    pen.stroke(bark, 0.04, (0.5, 0.65), (0.7, 0.45))
    angles = np.linspace(0, 2 * np.pi, 8)[:-1] + rng.uniform(0, 1)
    for factor, spread in ((0.75, 1.0), (1.0, 0.72)):
        for angle in angles:
            center = 0.5 + spread * 0.28 * np.cos(angle), 0.34 + spread * 0.18 * np.sin(angle)
            pen.disc(shade(color, factor), *center, 0.16 * spread)
    for x, y in rng.uniform((0.25, 0.15), (0.75, 0.5), (9, 2)):
        pen.disc(shade(color, 1.25), x, y, 0.02)


def draw_house(pen: Pen, color: Color, rng: Rng) -> None:
    """Walls in `color`, a roof of another color, door, windows, chimney."""
    roof = shade(COLORS[("red", "brown", "grey", "black")[rng.integers(4)]], 0.85)
    eaves, peak = rng.uniform(0.36, 0.46), rng.uniform(0.3, 0.5)
    pen.block(shade(roof, 0.7), 0.7, 0.08, 0.8, 0.35)
    pen.block(color, 0.08, eaves - 0.02, 0.92, 1.0)
    for row in np.arange(eaves + 0.06, 1.0, 0.075):
        pen.stroke(shade(color, 0.86), 0.008, (0.09, row), (0.91, row))
    pen.polygon(roof, (0.0, eaves), (peak - 0.14, 0.03), (peak + 0.24, 0.03), (1.0, eaves))
    pen.stroke(shade(roof, 0.7), 0.02, (0.03, eaves), (0.97, eaves))
    door = rng.choice((0.2, 0.44))
    pen.block(shade(COLORS["brown"], 0.8), door, 0.64, door + 0.16, 1.0)
    pen.disc(COLORS["yellow"], door + 0.13, 0.83, 0.015)
    for left in (0.66, 0.44 if door < 0.3 else 0.16):
        pen.block((250, 250, 245), left - 0.02, 0.56, left + 0.18, 0.8)
        pen.block(shade(GLASS, 0.8), left, 0.58, left + 0.16, 0.78)
        pen.stroke((250, 250, 245), 0.015, (left + 0.08, 0.58), (left + 0.08, 0.78))


def draw_ball(pen: Pen, color: Color, rng: Rng) -> None:
    """A ball in `color`: with white panels, bands or spots."""
    edge = (1, 1, pen.width - 2, pen.height - 2)
    # A white or pale ball gets a pattern in red, which white would not show on.
    turn, other = rng.uniform(0, 360), COLORS["white" if min(color) < 200 else "red"]
    pen.ink.ellipse(edge, color)
    pattern = rng.integers(3)
    if pattern == 0:
        for start in (0, 120, 240):
            pen.ink.pieslice(edge, turn + start, turn + start + 55, fill=other)
        pen.disc(color, 0.5, 0.5, 0.1)
    elif pattern == 1:
        pen.ink.chord(edge, turn, turn + 70, fill=other)
        pen.ink.chord(edge, turn + 180, turn + 250, fill=other)
    else:
        for angle in np.radians(turn) + np.linspace(0, 2 * np.pi, 6)[:-1]:
            pen.disc(other, 0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle), 0.075)
        pen.disc(other, 0.5, 0.5, 0.09)
    pen.disc(shade(color, 1.6), 0.35, 0.28, 0.07)


def draw_dog(pen: Pen, color: Color, rng: Rng) -> None:
    """Body, four legs, tail, head with ear, eye and muzzle, and a collar."""
    far, wag = shade(color, 0.7), rng.uniform(0.05, 0.35)
    for near, hip in ((False, 0.3), (False, 0.68), (True, 0.22), (True, 0.6)):
        pen.stroke(color if near else far, 0.1, (hip, 0.65), (hip + rng.uniform(-0.04, 0.04), 0.94))
    pen.stroke(color, 0.07, (0.16, 0.5), (0.04, wag))
    pen.block(color, 0.12, 0.38, 0.7, 0.74, rounded=0.17)
    pen.stroke(color, 0.2, (0.64, 0.5), (0.76, 0.3))
    pen.disc(color, 0.78, 0.26, 0.19)
    pen.block(shade(color, 1.15), 0.8, 0.24, 0.98, 0.41, rounded=0.08)
    pen.disc(DARK, 0.965, 0.27, 0.04)
    pen.disc(DARK, 0.82, 0.2, 0.028)
    pen.polygon(far, (0.66, 0.1), (0.75, 0.1), (0.72, 0.42), (0.65, 0.36))
    pen.stroke(COLORS[("red", "blue", "yellow")[rng.integers(3)]], 0.05, (0.65, 0.4), (0.76, 0.47))
    if rng.random() < 0.4:
        pen.disc(COLORS["white"], rng.uniform(0.3, 0.5), 0.52, 0.09, flat=0.8)


def draw_rock(pen: Pen, color: Color, rng: Rng) -> None:
    """A heap of stone."""
    tops = rng.uniform(0.0, 0.4, 4)
    points = [(0.0, 1.0), (0.1, 0.5), *zip((0.3, 0.5, 0.7, 0.85), tops.tolist(), strict=True), (1.0, 1.0)]
    pen.polygon(color, *points)
    pen.polygon(shade(color, 0.75), (0.5, float(tops[1])), (0.7, 0.5), (0.6, 1.0), (1.0, 1.0), (0.85, float(tops[3])))


def draw_bush(pen: Pen, color: Color, rng: Rng) -> None:
    """Leaves without a trunk."""
    for factor in (0.7, 0.9, 1.1):
        for x, y in rng.uniform((0.2, 0.35), (0.8, 0.8), (6, 2)):
            pen.disc(shade(color, factor), x, y, 0.2)


def draw_crate(pen: Pen, color: Color, rng: Rng) -> None:
    """A box of planks with a brace."""
    pen.block(color, 0.0, 0.0, 1.0, 1.0)
    for plank in (0.33, 0.66):
        pen.stroke(shade(color, 0.6), 0.03, (0.0, plank), (1.0, plank))
    brace = ((0.05, 0.95), (0.95, 0.05)) if rng.random() < 0.5 else ((0.05, 0.05), (0.95, 0.95))
    pen.stroke(shade(color, 0.75), 0.1, *brace)


def draw_sign(pen: Pen, color: Color, rng: Rng) -> None:
    """A plate on a pole."""
    pen.block((120, 122, 126), 0.45, 0.2, 0.55, 1.0)
    if rng.random() < 0.5:
        pen.polygon(color, (0.5, 0.0), (1.0, 0.4), (0.0, 0.4))
    else:
        pen.block(color, 0.0, 0.0, 1.0, 0.34)
        pen.block(COLORS["white"], 0.15, 0.12, 0.85, 0.2)


def draw_cone(pen: Pen, color: Color, rng: Rng) -> None:
    """A traffic cone."""
    pen.polygon(color, (0.5, 0.0), (0.8, 0.9), (0.2, 0.9))
    pen.polygon(COLORS["white"], (0.41, 0.35), (0.59, 0.35), (0.66, 0.55), (0.34, 0.55))
    pen.block(shade(color, 0.7), 0.05, 0.88, 0.95, 1.0)


def draw_fence(pen: Pen, color: Color, rng: Rng) -> None:
    """Pales with gaps: hides in part what stands behind."""
    for rail in (0.35, 0.75):
        pen.stroke(shade(color, 0.75), 0.08, (0.02, rail), (0.98, rail))
    for pale in np.linspace(0.04, 0.96, 7):
        pen.polygon(color, (pale - 0.03, 1), (pale - 0.03, 0.12), (pale, 0.0), (pale + 0.03, 0.12), (pale + 0.03, 1))


# (the pen, the color that names the thing, random numbers for its variations): draws it over the pen's whole sheet.
Draw = Callable[[Pen, Color, Rng], None]

# name: (draw, width / height, height at the front of a 240-pixel scene, colors)
OBJECTS: dict[str, tuple[Draw, float, float, tuple[str, ...]]] = {
    "person": (draw_person, 0.44, 104, ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")),
    "car": (draw_car, 2.0, 66, ("red", "orange", "yellow", "green", "blue", "grey", "black", "white")),
    "tree": (draw_tree, 0.72, 138, ("green", "green", "orange", "yellow", "pink")),
    "house": (draw_house, 1.1, 128, ("white", "yellow", "pink", "blue", "brown", "grey")),
    "ball": (draw_ball, 1.0, 46, ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")),
    "dog": (draw_dog, 1.35, 58, ("brown", "black", "grey", "orange", "white")),
}
CLASSES: tuple[str, ...] = tuple(OBJECTS)
CLUTTER: dict[str, tuple[Draw, float, float, tuple[str, ...]]] = {
    "rock": (draw_rock, 1.7, 32, ("grey", "brown")),
    "bush": (draw_bush, 1.1, 42, ("green", "green", "brown")),
    "crate": (draw_crate, 1.1, 42, ("brown", "orange", "grey")),
    "sign": (draw_sign, 0.45, 78, ("red", "blue", "yellow", "green")),
    "cone": (draw_cone, 0.75, 38, ("orange", "red")),
    "fence": (draw_fence, 1.9, 48, ("brown", "white", "grey")),
}


def draw_sprite(name: str, color: str, height: int, rng: Rng) -> Image.Image:
    """Draw one thing, cut out: lit from above, grainy, smooth at its edges.

    Args:
        name: Of `OBJECTS` or `CLUTTER`.
        color: Of `COLORS`.
        height: In pixels.
        rng: For its variations.

    Returns:
        An RGBA image of this height, transparent around the thing.
    """
    draw, aspect, _, _ = OBJECTS.get(name) or CLUTTER[name]
    # Drawn finer and reduced, because PIL draws edges without antialiasing.
    finer = 4 if height < 80 else 2
    tone = shade(COLORS[color], rng.uniform(0.85, 1.12))
    pen = Pen(max(4, round(height * aspect)) * finer, height * finer)
    draw(pen, tone, rng)
    sheet = pen.sheet.reduce(finer)
    if rng.random() < 0.5 and name != "house":
        sheet = sheet.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # After the flip, so that the light comes from the same side for all things of a scene.
    return _light(sheet, rng)


def _light(sheet: Image.Image, rng: Rng) -> Image.Image:
    """The sprite brighter at the upper left than at the lower right, with grain."""
    pixels: NDArray[np.float32] = np.asarray(sheet, dtype=np.float32)
    high, wide = pixels.shape[:2]
    down, across = np.linspace(0.14, -0.16, high, dtype=np.float32), np.linspace(0.07, -0.07, wide, dtype=np.float32)
    light = 1 + down[:, None] + across + rng.normal(0, 0.035, (high, wide)).astype(np.float32)
    lit = np.concatenate([pixels[..., :3] * light[..., None], pixels[..., 3:]], axis=2)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))
