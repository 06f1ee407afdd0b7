"""The stage of a generated scene: things are drawn back to front, and none hides too much of another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from whybox.data._sprites import OBJECTS, Rng, draw_sprite


@dataclass(frozen=True)
class Thing:
    """Something to place.

    Attributes:
        name: Of `OBJECTS` or `CLUTTER`.
        color: Of `COLORS`.
        height: In image pixels.
        x: The middle of its foot, in image pixels.
        y: Likewise.
    """

    name: str
    color: str
    height: int
    x: float
    y: float


class Stage:
    """The picture while it is built, with the owner of every pixel: an object's row, or -1.

    Attributes:
        picture: What has been drawn so far.
        least_visible: The smallest visible share of an object's pixels.
        owner: (H,W) the row of the object that is seen there.
        things: The objects that were placed, back to front.
        boxes: Their boxes, xyxy in image pixels, hidden parts too.
        areas: Their pixels inside the image, hidden ones too.
    """

    def __init__(self, picture: Image.Image, least_visible: float) -> None:
        """Take an empty scene.

        Args:
            picture: The scene, which is drawn on.
            least_visible: The smallest visible share of an object's pixels, 0 to 1.
        """
        self.picture, self.least_visible = picture, least_visible
        self.owner: NDArray[np.int16] = np.full((picture.height, picture.width), -1, dtype=np.int16)
        self.things: list[Thing] = []
        self.boxes: list[tuple[int, int, int, int]] = []
        self.areas: list[int] = []

    def place(self, thing: Thing, rng: Rng) -> None:
        """Draw a thing in front of all others, unless it hides too much of one or is itself mostly outside.

        Args:
            thing: The thing.
            rng: Where everything random in its drawing comes from.
        """
        sprite = draw_sprite(thing.name, thing.color, thing.height, rng)
        left, top = round(thing.x - sprite.width / 2), round(thing.y - sprite.height)
        # A pixel on the smooth edge is the thing's where it is more than half opaque.
        solid = np.asarray(sprite)[..., 3] > 127
        covered = np.zeros_like(self.owner, dtype=bool)
        rows, columns = self.owner.shape
        y1, y2, x1, x2 = max(top, 0), min(top + sprite.height, rows), max(left, 0), min(left + sprite.width, columns)
        if y1 >= y2 or x1 >= x2:
            return
        covered[y1:y2, x1:x2] = solid[y1 - top : y2 - top, x1 - left : x2 - left]
        # Clutter takes pixels away from objects, but owns none.
        after = np.where(covered, np.int16(len(self.things) if thing.name in OBJECTS else -1), self.owner)
        # Mostly outside the image, it could not be told what it is.
        if covered.sum() < 0.6 * solid.sum() or self._hides_too_much(after):
            return
        self._paint(sprite, left, top)
        self.owner = after
        if thing.name in OBJECTS:
            ys, xs = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
            self.things.append(thing)
            self.boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
            self.areas.append(int(covered.sum()))

    def _hides_too_much(self, owner: NDArray[np.int16]) -> bool:
        # Without the object that is being placed, which has no area yet.
        left = np.bincount(owner[owner >= 0], minlength=len(self.areas))[: len(self.areas)]
        return bool((left < self.least_visible * np.asarray(self.areas)).any())

    def _paint(self, sprite: Image.Image, left: int, top: int) -> None:
        """The soft shadow on the ground, then the sprite."""
        wide, high = round(sprite.width * 1.2), max(6, round(sprite.width * 0.22))
        margin = high // 2
        shadow = Image.new("L", (wide + 2 * margin, high + 2 * margin))
        ImageDraw.Draw(shadow).ellipse((margin, margin, margin + wide, margin + high), fill=110)
        shadow = shadow.filter(ImageFilter.BoxBlur(margin / 2))
        corner = left + round(sprite.width * 0.52 - shadow.width / 2), top + sprite.height - shadow.height // 2
        self.picture.paste((20, 20, 30), corner, shadow)
        self.picture.paste(sprite, (left, top), sprite)
