"""One generated scene: a picture and everything that is known of its objects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whybox.data._scene_layouts import LAYOUTS
from whybox.data._scene_places import PLACES, draw_place
from whybox.data._scene_stage import Stage
from whybox.data._sprites import CLASSES, Rng
from whybox.data.captions import object_words, overview, relations
from whybox.errors import WhyboxError, unknown

# What "both" stands for, by turns.
BOTH = ("mixed", "crowd")
# A scene's pixels depend on its variant's place here: a new one goes to the end.
VARIANTS = (*BOTH, "single")
LEAST_SIDE = 64
# The smallest visible part of an object's drawn pixels: below it, whatever hides the object is not placed.
LEAST_VISIBLE = {"mixed": 0.35, "crowd": 0.25, "single": 0.6}


@dataclass(frozen=True)
class Scene:
    """One generated image and everything that is known of its N objects, back to front.

    Attributes:
        image: The picture, in RGB, of W x H pixels.
        labels: (N,) int64, 0 for the first of `CLASSES`.
        boxes: (N,4) float32 xyxy in image pixels around the whole object, hidden parts too, cut at the image's edge.
        visible: (N,4) float32 xyxy in image pixels around the visible pixels only.
        masks: (N,H,W) bool, the visible pixels.
        visibility: (N,) float32, the visible share of the object's pixels inside the image, 0 to 1.
        colors: N names of `COLORS`.
        captions: The first names all objects, each of the others a relation of two.
        place: The background, one of `PLACES`.
    """

    image: Image.Image
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]
    masks: NDArray[np.bool_]
    visibility: NDArray[np.float32]
    colors: tuple[str, ...]
    captions: tuple[str, ...]
    place: str

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(CLASSES[label] for label in self.labels)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Each object in words: "red ball", "person in blue"."""
        return tuple(object_words(name, color) for name, color in zip(self.names, self.colors, strict=True))


def draw_scene(index: int, *, seed: int = 0, variant: str = "mixed", size: tuple[int, int] = (320, 240)) -> Scene:
    """Draw one scene of an endless series. The same arguments give the same scene, in any order and process.

    Args:
        index: The scene's place in the series, from 0.
        seed: The series.
        variant: "mixed": one to nine objects of all classes with clutter. "crowd": a throng of people whose boxes overlap
            heavily. "single": one object that is easy to see, with clutter.
        size: (width, height) in pixels.

    Returns:
        The picture and its annotations.

    Raises:
        UnknownNameError: There is no such variant.
        WhyboxError: A side is shorter than `LEAST_SIDE`.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    if min(size) < LEAST_SIDE:
        raise WhyboxError(f"a scene is at least {LEAST_SIDE} pixels wide and high, not {size[0]}x{size[1]}")
    # All that follows is drawn from this one generator: another order of the draws would change every scene.
    rng = np.random.default_rng((seed, index, VARIANTS.index(variant)))
    place = str(rng.choice(list(PLACES)))
    horizon = rng.uniform(0.28, 0.5)
    stage = Stage(draw_place(place, horizon, size, rng), LEAST_VISIBLE[variant])
    things = LAYOUTS[variant](horizon, size, rng)
    # Back to front: on the ground what stands lower in the image is nearer.
    for thing in sorted(things, key=lambda thing: thing.y):
        stage.place(thing, rng)
    return _annotate(stage, place, rng)


def _annotate(stage: Stage, place: str, rng: Rng) -> Scene:
    count, (rows, columns) = len(stage.things), stage.owner.shape
    masks = stage.owner == np.arange(count, dtype=np.int16)[:, None, None]
    visible = np.zeros((count, 4), dtype=np.float32)
    for row, mask in enumerate(masks):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        visible[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    boxes = np.asarray(stage.boxes, dtype=np.float32).reshape(count, 4)
    areas = np.asarray(stage.areas, dtype=np.float32)
    colors = tuple(thing.color for thing in stage.things)
    names = [thing.name for thing in stage.things]
    return Scene(
        image=stage.picture,
        labels=np.asarray([CLASSES.index(name) for name in names], dtype=np.int64),
        boxes=boxes,
        visible=visible,
        masks=masks.reshape(count, rows, columns),
        visibility=(masks.reshape(count, -1).sum(1) / np.maximum(areas, 1)).astype(np.float32),
        colors=colors,
        captions=(overview(names, colors, place), *dict.fromkeys(relations(names, colors, boxes, masks, rng))),
        place=place,
    )
