"""Generated scenes: drawn objects with boxes, masks and captions, the same for the same seed and index.

Six classes (`CLASSES`) stand on a ground with depth, among clutter that belongs to no class. Whatever stands nearer
hides what stands behind it; a thing that would leave an object less visible than its variant allows is not placed, so
no annotated object is nearly hidden and no hidden object lacks an annotation.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from whybox.data._problems import POLICIES
from whybox.data._segmentations import encode_mask
from whybox.data._sprites import CLUTTER, COLORS, OBJECTS, Color, Rng, draw_sprite, shade
from whybox.data.captions import object_words, overview, relations
from whybox.errors import WhyboxError, unknown
from whybox.files import write_whole
from whybox.specs import format_spec
from whybox.truth import DataSet, Sample, Truth

PREFIX = "scenes"
# Scenes of this series are for scoring alone; training refuses it as its own seed.
HELD_OUT_SEED = 1_000_003
CLASSES: tuple[str, ...] = tuple(OBJECTS)
# What "both" stands for, by turns.
BOTH = ("mixed", "crowd")
# A scene's pixels depend on its variant's place here: a new one goes to the end.
VARIANTS = (*BOTH, "single")
LEAST_SIDE = 64
# The smallest visible part of an object's drawn pixels: below it, whatever hides the object is not placed.
LEAST_VISIBLE = {"mixed": 0.35, "crowd": 0.25, "single": 0.6}
# name: (sky or wall above, below; ground far, near)
PLACES: dict[str, tuple[Color, Color, Color, Color]] = {
    "meadow": ((120, 176, 226), (214, 232, 240), (122, 168, 92), (84, 132, 62)),
    "street": ((150, 170, 190), (206, 212, 216), (138, 136, 134), (92, 92, 96)),
    "beach": ((96, 172, 222), (188, 222, 232), (226, 206, 160), (204, 176, 122)),
    "snow": ((170, 188, 210), (222, 228, 236), (226, 232, 240), (196, 208, 222)),
    "room": ((196, 176, 150), (182, 160, 138), (150, 112, 78), (122, 86, 58)),
    "dusk": ((84, 72, 120), (232, 160, 120), (112, 106, 90), (70, 70, 66)),
}


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


@dataclass(frozen=True)
class _Thing:
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


class _Stage:
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
        self.picture, self.least_visible = picture, least_visible
        self.owner: NDArray[np.int16] = np.full((picture.height, picture.width), -1, dtype=np.int16)
        self.things: list[_Thing] = []
        self.boxes: list[tuple[int, int, int, int]] = []
        self.areas: list[int] = []

    def place(self, thing: _Thing, rng: Rng) -> None:
        """Draw the thing in front of all others, unless it hides too much of one or is itself mostly outside."""
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
    stage = _Stage(_draw_place(place, horizon, size, rng), LEAST_VISIBLE[variant])
    things = {"mixed": _mixture, "crowd": _crowd, "single": _lone}[variant](horizon, size, rng)
    # Back to front: on the ground what stands lower in the image is nearer.
    for thing in sorted(things, key=lambda thing: thing.y):
        stage.place(thing, rng)
    return _annotate(stage, place, rng)


def _mixture(horizon: float, size: tuple[int, int], rng: Rng) -> list[_Thing]:
    """Objects of all classes and clutter on the ground, larger the nearer they stand."""
    wanted = [str(name) for name in rng.choice(CLASSES, rng.integers(2, 11))]
    if rng.random() < 0.25:
        wanted += [wanted[0]] * int(rng.integers(1, 4))
    wanted += [str(name) for name in rng.choice(list(CLUTTER), rng.integers(2, 8))]
    return [_stand(name, rng.uniform(0.02, 0.98), _depth(horizon, rng), horizon, size, rng) for name in wanted]


def _depth(horizon: float, rng: Rng) -> float:
    """A foot's height on the image, 0 the top and 1 the bottom."""
    # Up to 1.06, so that some things are cut off by the lower edge.
    return float(rng.uniform(horizon + 0.08, 1.06))


def _stand(name: str, x: float, y: float, horizon: float, size: tuple[int, int], rng: Rng) -> _Thing:
    """A thing of random color whose foot is at (x, y), parts of the image's width and height."""
    _, _, tall, colors = OBJECTS.get(name) or CLUTTER[name]
    # From a third of the listed height at the horizon to a little more than it at the image's lower edge.
    near = 0.34 + 0.76 * (y - horizon) / (1 - horizon)
    height = max(14, round(tall * near * rng.uniform(0.72, 1.35) * size[1] / 240))
    return _Thing(name, str(rng.choice(colors)), height, x * size[0], y * size[1])


def _lone(horizon: float, size: tuple[int, int], rng: Rng) -> list[_Thing]:
    """One object, well inside the image and not far off, and clutter."""
    name = str(rng.choice(CLASSES))
    thing = _stand(name, rng.uniform(0.2, 0.8), rng.uniform(horizon + 0.3, 0.98), horizon, size, rng)
    wanted = [str(name) for name in rng.choice(list(CLUTTER), rng.integers(1, 6))]
    return [thing] + [_stand(name, rng.uniform(0.02, 0.98), _depth(horizon, rng), horizon, size, rng) for name in wanted]


def _crowd(_: float, size: tuple[int, int], rng: Rng) -> list[_Thing]:
    """Knots of people who stand close together, with a few other things, on a ground that reaches far up."""
    horizon, things = 0.2, []
    for _ in range(rng.integers(2, 6)):
        middle, foot, spread = rng.uniform(0.1, 0.9), rng.uniform(0.5, 0.98), rng.uniform(0.05, 0.11)
        for _ in range(rng.integers(5, 13)):
            x, y = rng.normal(middle, spread), min(foot + rng.normal(0, 0.04), 1.05)
            things.append(_stand("person", float(x), float(y), horizon, size, rng))
    for name in rng.choice([*CLUTTER, *CLASSES], rng.integers(1, 5)):
        things.append(_stand(str(name), rng.uniform(0.05, 0.95), _depth(0.3, rng), horizon, size, rng))
    return things


def _annotate(stage: _Stage, place: str, rng: Rng) -> Scene:
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


def _noise(cells: tuple[int, int], size: tuple[int, int], rng: Rng) -> NDArray[np.float32]:
    """Smooth noise (H,W) around 0 with about unit spread, from a grid of (columns, rows) random cells."""
    grid = Image.fromarray(rng.normal(0, 1, (cells[1], cells[0])).astype(np.float32))
    return np.asarray(grid.resize(size, Image.Resampling.BILINEAR))


def _draw_place(place: str, horizon: float, size: tuple[int, int], rng: Rng) -> Image.Image:
    """The empty scene: sky or wall, ground, and the marks of the place."""
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


@dataclass
class SceneData:
    """The first scenes of a series, by turns of each of the variants; drawn when they are asked for.

    Attributes:
        name: For reports: how `open_data` gets the same scenes.
        variants: The variants, as for `draw_scene`.
        count: The number of scenes.
        seed: The series.
        size: (width, height) in pixels.
        classes: The class names; a label is an index into them.
        problems: None: drawn scenes have no problems.
    """

    name: str
    variants: tuple[str, ...]
    count: int
    seed: int
    size: tuple[int, int]
    classes: tuple[str, ...] = CLASSES
    problems: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What the scenes depend on; not their number, so that a longer series goes on with a shorter one."""
        return f"{'-'.join(self.variants)} {self.seed} {self.size[0]}x{self.size[1]}"

    @property
    def names(self) -> Sequence[str]:
        """The variant and the index of each scene: "mixed-0", "crowd-1"."""
        return [self._name(index) for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Draw one scene.

        Args:
            index: From 0; a negative one counts from the end.

        Returns:
            The picture, and its objects with masks, phrases and the boxes of their visible parts.

        Raises:
            IndexError: There is no such scene.
        """
        # As a list takes it: negative indices count from the end, and an IndexError ends an iteration.
        place = range(self.count)[index]
        scene = draw_scene(place, seed=self.seed, variant=self._variant(place), size=self.size)
        truth = Truth(
            torch.from_numpy(scene.boxes),
            torch.from_numpy(scene.labels),
            tuple(f"{self._name(place)}/{row}" for row in range(len(scene.labels))),
            torch.zeros(len(scene.labels), dtype=torch.bool),
            torch.from_numpy(scene.masks),
            {"visible": torch.from_numpy(scene.visible)},
            phrases=scene.phrases,
        )
        return Sample(self._name(place), scene.image, truth)

    def _variant(self, index: int) -> str:
        return self.variants[index % len(self.variants)]

    def _name(self, index: int) -> str:
        return f"{self._variant(index)}-{index}"


def open_data(
    rest: str = "",
    *,
    on_problem: str = "skip",
    variant: str = "both",
    count: int = 100,
    seed: int = HELD_OUT_SEED,
    size: str = "320x240",
) -> DataSet:
    """Generated scenes as a data set: "scenes:variant=crowd:count=40". By default those that training never sees.

    Args:
        rest: What follows "scenes:" beside the options; it must be empty.
        on_problem: "skip" or "refuse", without effect: drawn scenes have no problems.
        variant: "mixed", "crowd", "single", or "both", the first two by turns.
        count: The number of scenes, from 1.
        seed: The series, from 0.
        size: WIDTHxHEIGHT in pixels, each at least `LEAST_SIDE`.

    Returns:
        The data set.

    Raises:
        UnknownNameError: There is no such variant, or no such `on_problem`.
        WhyboxError: Another option is invalid, or `rest` is not empty.
    """
    if rest:
        raise WhyboxError(f"scenes are drawn and lie nowhere: scenes:count=100, not {rest!r}")
    if on_problem not in POLICIES:
        raise unknown("on_problem", on_problem, POLICIES)
    if variant not in (*VARIANTS, "both"):
        raise unknown("variant", str(variant), (*VARIANTS, "both"))
    # type and not isinstance, because True is an int.
    if type(count) is not int or type(seed) is not int or count < 1 or seed < 0:
        raise WhyboxError(f"count is a whole number from 1 and seed one from 0, got count={count} and seed={seed}")
    sides = re.fullmatch(r"(\d+)x(\d+)", str(size).lower())
    if not sides or min(int(side) for side in sides.groups()) < LEAST_SIDE:
        raise WhyboxError(f"size is WIDTHxHEIGHT of at least {LEAST_SIDE} pixels each, such as 320x240, got {size!r}")
    name = format_spec(PREFIX, {"variant": variant, "count": count, "seed": seed, "size": size})
    return SceneData(name, BOTH if variant == "both" else (variant,), count, seed, (int(sides[1]), int(sides[2])))


def export_coco(
    folder: str | Path, count: int, *, seed: int = 0, variant: str = "mixed", size: tuple[int, int] = (320, 240)
) -> Path:
    """Write the first scenes of a series in COCO's format: `images/`, `instances.json`, `captions.json`.

    An annotation's `bbox` goes around the whole object, its `segmentation` (uncompressed run lengths) and `area` are of
    the visible pixels; `visible_bbox`, `visibility` and `phrase` are ours.

    Args:
        folder: The folder to write to; it is created where it is missing.
        count: The number of scenes.
        seed: As for `draw_scene`.
        variant: As for `draw_scene`.
        size: (width, height) in pixels.

    Returns:
        The folder.

    Raises:
        WhyboxError: The folder holds annotations already, or an option is invalid.
    """
    target = Path(folder)
    if (target / "instances.json").exists():
        raise WhyboxError(f"{target} already holds instances.json; name another folder")
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    captions: list[dict[str, Any]] = []
    (target / "images").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(index, seed=seed, variant=variant, size=size)
        entry = {"id": index + 1, "file_name": f"{index:06d}.png", "width": size[0], "height": size[1]}
        scene.image.save(target / "images" / str(entry["file_name"]))
        content["images"].append(entry)
        content["annotations"] += _rows(scene, index + 1, len(content["annotations"]))
        for caption in scene.captions:
            captions.append({"id": len(captions) + 1, "image_id": index + 1, "caption": caption})
    classes = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
    # instances.json comes last: a folder that holds it is complete, and is not written to again.
    write_whole(target / "captions.json", json.dumps({"images": content["images"], "annotations": captions}))
    write_whole(target / "instances.json", json.dumps({**content, "categories": classes}))
    return target


def _rows(scene: Scene, image: int, before: int) -> list[dict[str, Any]]:
    return [
        {
            "id": before + row + 1,
            "image_id": image,
            "category_id": int(scene.labels[row]) + 1,
            "bbox": _xywh(scene.boxes[row]),
            "visible_bbox": _xywh(scene.visible[row]),
            "visibility": round(float(scene.visibility[row]), 4),
            "phrase": scene.phrases[row],
            "segmentation": encode_mask(mask),
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        for row, mask in enumerate(scene.masks)
    ]


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
