"""Scenes for training an image-text model: rendered once at about the network's size, cropped, and matched with texts."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from whybox.data.captions import OPPOSITES, TEMPLATES, Phrase, class_phrases, color_phrases, overview
from whybox.data.scenes import Scene, draw_scene
from whybox.errors import WhyboxError
from whybox.files import write_whole

# The variants alternate: single objects teach what a word means, the others to find it among several objects.
TURNS = ("single", "mixed", "single", "mixed", "mixed", "single", "mixed", "crowd")
# The side of the grid of object indices (`owners`), in cells.
CELLS = 40
BLOCK = 500
# The share of an object's visible pixels inside a window: below GONE it is absent, from THERE on present, else undecided.
GONE, UNCLEAR, THERE = 0.05, 0.25, 0.5
PHRASES = (*class_phrases(), *color_phrases())
COLUMNS = {
    (phrase.name, phrase.color): [
        column for column, other in enumerate(PHRASES) if other.is_true_of(phrase.name, str(phrase.color))
    ]
    for phrase in color_phrases()
}
ROWS = {str(phrase): column for column, phrase in enumerate(PHRASES)}
RELATIONS = tuple(OPPOSITES)
MIRRORED = {"left of": "right of", "right of": "left of"}


class Words(NamedTuple):
    """A scene's annotations.

    Attributes:
        names: The class of each object.
        colors: The color of each object.
        place: Where the scene is set.
        relations: (phrase, relation, phrase) of some pairs of objects.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    place: str
    relations: tuple[tuple[str, str, str], ...]

    @property
    def phrases(self) -> list[str]:
        """Each object as a phrase, such as "red ball"."""
        return [str(Phrase(name, color)) for name, color in zip(self.names, self.colors, strict=True)]


@dataclass(frozen=True)
class Drawn:
    """N scenes.

    Attributes:
        images: (N,S,S,3) uint8, each scene resized to a square.
        owners: (N,C,C) int8, the index of the object visible in each cell, or -1.
        words: One per scene.
    """

    images: NDArray[np.uint8]
    owners: NDArray[np.int8]
    words: tuple[Words, ...]

    def __len__(self) -> int:
        return len(self.images)


def draw(count: int, seed: int, side: int, folder: Path, on_progress: Callable[[int], None] = lambda done: None) -> Drawn:
    """Render the first scenes of a series; they are stored in the folder in blocks, which a later run reads.

    Args:
        count: Number of scenes.
        seed: Seed of the series.
        side: Side in pixels of the squares that they are resized to.
        folder: Folder of the blocks.
        on_progress: Called with the number of scenes that are ready, after each block.

    Returns:
        The scenes.

    Raises:
        WhyboxError: `count` is less than 1.
    """
    if count < 1:
        raise WhyboxError(f"the number of scenes must be at least 1, got {count}")
    blocks = []
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        blocks.append(_block(folder / f"seed{seed}-side{side}-{start}-{stop}.npz", range(start, stop), seed, side))
        on_progress(stop)
    return Drawn(
        np.concatenate([block.images for block in blocks]),
        np.concatenate([block.owners for block in blocks]),
        tuple(words for block in blocks for words in block.words),
    )


def _block(file: Path, indices: range, seed: int, side: int) -> Drawn:
    if file.exists():
        with np.load(file) as kept:
            return Drawn(kept["images"], kept["owners"], tuple(_words(row) for row in json.loads(str(kept["words"]))))
    scenes = [draw_scene(index, seed=seed, variant=TURNS[index % len(TURNS)]) for index in indices]
    drawn = Drawn(
        np.stack([np.asarray(scene.image.resize((side, side), Image.Resampling.BICUBIC)) for scene in scenes]),
        np.stack([_owners(scene) for scene in scenes]),
        tuple(
            _words((scene.names, scene.colors, scene.place, [_parts(text) for text in scene.captions[1:]])) for scene in scenes
        ),
    )
    # In memory first, so that an interrupted run leaves no part of a block behind.
    content = io.BytesIO()
    # The words as JSON: numpy would have to pickle them, and np.load refuses pickles.
    np.savez(content, images=drawn.images, owners=drawn.owners, words=json.dumps(drawn.words))
    write_whole(file, content.getvalue())
    return drawn


def _owners(scene: Scene) -> NDArray[np.int8]:
    """The row of the object at the middle of each cell, or -1."""
    width, height = scene.image.size
    ys, xs = ((np.arange(CELLS) + 0.5) / CELLS * length for length in (height, width))
    owners = np.full((CELLS, CELLS), -1, dtype=np.int8)
    for row, mask in enumerate(scene.masks):
        owners[mask[np.ix_(ys.astype(int), xs.astype(int))]] = row
    return owners


def _words(row: Sequence[Any]) -> Words:
    names, colors, place, relations = row
    return Words(tuple(names), tuple(colors), place, tuple((first, how, second) for first, how, second in relations))


def _parts(caption: str) -> tuple[str, str, str]:
    """The two phrases of a relation and the relation between them."""
    how = next(relation for relation in RELATIONS if f" {relation} " in caption)
    first, second = caption.split(f" {how} ")
    return first, how, second


class Window(NamedTuple):
    """A crop of a scene, possibly mirrored.

    Attributes:
        left: As a share of the scene's width. Beyond 0..1 the scene's edge is repeated.
        top: As a share of the scene's height.
        right: As a share of the scene's width.
        bottom: As a share of the scene's height.
        mirrored: Whether left and right are exchanged.
    """

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool

    def cells(self, owners: NDArray[np.int8], count: int) -> NDArray[np.int8]:
        """The owners at the centers of a grid of count x count cells over the window.

        Args:
            owners: (C,C) the index of the object visible in each cell of the scene, or -1.
            count: Cells per side.

        Returns:
            (count,count); -1 outside the scene.
        """
        steps = (np.arange(count) + 0.5) / count
        ys = np.floor((self.top + (self.bottom - self.top) * steps) * CELLS).astype(int)
        xs = np.floor((self.left + (self.right - self.left) * steps) * CELLS).astype(int)
        inside = ((ys >= 0) & (ys < CELLS))[:, None] & (xs >= 0) & (xs < CELLS)
        cells = np.where(inside, owners[np.ix_(ys.clip(0, CELLS - 1), xs.clip(0, CELLS - 1))], np.int8(-1))
        return cells[:, ::-1] if self.mirrored else cells

    def kept(self, owners: NDArray[np.int8], count: int) -> NDArray[np.float64]:
        """The share of each object's visible cells that lies inside the window.

        Args:
            owners: (C,C) the index of the object visible in each cell of the scene, or -1.
            count: Number of objects.

        Returns:
            (count,) in 0..1; `UNCLEAR` for an object too small for a cell.
        """
        middles = (np.arange(CELLS) + 0.5) / CELLS
        inside = ((middles > self.top) & (middles < self.bottom))[:, None] & (middles > self.left) & (middles < self.right)
        whole = np.bincount(owners[owners >= 0], minlength=count)
        held = np.bincount(owners[(owners >= 0) & inside], minlength=count)
        # np.where computes both: the maximum keeps the division finite where nothing is visible.
        return np.where(whole > 0, held / np.maximum(whole, 1), UNCLEAR)


def random_window(rng: np.random.Generator, zoom: tuple[float, float]) -> Window:
    """Draw a window.

    Args:
        rng: The source of randomness.
        zoom: The range of its sides, as shares of the scene's. They differ by up to 8 percent from their common size.

    Returns:
        The window, mirrored half of the time.
    """
    part = rng.uniform(*zoom)
    wide, high = part * rng.uniform(0.92, 1.08, 2)
    left, top = (rng.uniform(min(0, 1 - side), max(0, 1 - side)) for side in (wide, high))
    return Window(left, top, left + wide, top + high, bool(rng.random() < 0.5))


def take_windows(images: NDArray[np.uint8], windows: Sequence[Window], side: int) -> Tensor:
    """Crop images, bilinearly.

    Args:
        images: (B,S,S,3) uint8.
        windows: B windows.
        side: Side of the crops in pixels.

    Returns:
        (B,3,side,side) in 0..1.
    """
    # affine_grid's coordinates run from -1 to 1 over the scene.
    theta = torch.zeros(len(windows), 2, 3)
    for row, window in enumerate(windows):
        wide, high = window.right - window.left, window.bottom - window.top
        # A negative scale across mirrors the crop in the same step.
        theta[row, 0, 0] = -wide if window.mirrored else wide
        theta[row, 0, 2] = window.left + window.right - 1
        theta[row, 1, 1], theta[row, 1, 2] = high, window.top + window.bottom - 1
    grid = functional.affine_grid(theta, [len(windows), 3, side, side], align_corners=False)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


class Matches(NamedTuple):
    """Texts and their labels for B images.

    Attributes:
        texts: T texts.
        truth: (B,T), 1 where the text is true of the image.
        sure: (B,T), 0 where the label is unknown.
    """

    texts: list[str]
    truth: Tensor
    sure: Tensor


def match_phrases(words: Sequence[Words], kept: Sequence[NDArray[np.float64]], rng: np.random.Generator) -> Matches:
    """Label every phrase, each in a random template, for every image; unknown where an object is partly cropped.

    Args:
        words: The annotations of the B images' scenes.
        kept: The share of each object inside the image, as `Window.kept` gives it.
        rng: The source of randomness.

    Returns:
        One text per phrase of `PHRASES`.
    """
    truth, sure = torch.zeros(len(words), len(PHRASES)), torch.ones(len(words), len(PHRASES))
    for row, (known, parts) in enumerate(zip(words, kept, strict=True)):
        there = parts >= THERE
        for name, color, here, part in zip(known.names, known.colors, there, parts, strict=True):
            for column in COLUMNS[name, color]:
                if here:
                    truth[row, column] = 1
                elif part > GONE:
                    sure[row, column] = 0
    # A second object of the same phrase, wholly inside, decides.
    sure[truth == 1] = 1
    templates = rng.choice(TEMPLATES, len(PHRASES))
    return Matches([str(form).format(phrase) for form, phrase in zip(templates, PHRASES, strict=True)], truth, sure)


def match_captions(words: Sequence[Words], kept: Sequence[NDArray[np.float64]], count: int) -> Matches:
    """Label the captions of the first `count` images without partly cropped objects, for every image.

    Args:
        words: The annotations of the B images' scenes.
        kept: The share of each object inside the image, as `Window.kept` gives it.
        count: The largest number of captions.

    Returns:
        Up to `count` texts; unknown for images with partly cropped objects.
    """
    # A caption names all objects of an image: one that is half there would make it neither true nor false.
    clear = [not ((parts > GONE) & (parts < THERE)).any() for parts in kept]
    texts = [_caption(known, parts) for known, parts in zip(words, kept, strict=True)]
    chosen = [row for row, is_clear in enumerate(clear) if is_clear][:count]
    truth = torch.tensor([[float(other == texts[row]) for row in chosen] for other in texts]).reshape(len(texts), len(chosen))
    sure = torch.tensor(clear)[:, None].expand(len(texts), len(chosen)).float()
    return Matches([texts[row] for row in chosen], truth, sure)


def _caption(known: Words, parts: NDArray[np.float64]) -> str:
    rows = np.flatnonzero(parts >= THERE)
    return overview([known.names[row] for row in rows], [known.colors[row] for row in rows], known.place)


def match_relations(
    words: Sequence[Words], windows: Sequence[Window], truth: Tensor, count: int, rng: np.random.Generator
) -> Matches:
    """Label one relation of each of up to `count` images, and its opposite; unknown for other images with both objects.

    Args:
        words: The annotations of the B images' scenes.
        windows: The B images' windows.
        truth: (B,P) of the phrases, from `match_phrases`.
        count: The largest number of relations.
        rng: The source of randomness.

    Returns:
        Two texts per relation.
    """
    texts: list[str] = []
    columns: list[Tensor] = []
    sure: list[Tensor] = []
    for row, known in enumerate(words):
        if len(texts) >= 2 * count or not known.relations:
            continue
        first, how, second = known.relations[rng.integers(len(known.relations))]
        both = truth[:, ROWS[first]] * truth[:, ROWS[second]]
        # "the red ball left of ..." is ambiguous where there are two red balls.
        if not both[row] or any(known.phrases.count(phrase) > 1 for phrase in (first, second)):
            continue
        how = MIRRORED.get(how, how) if windows[row].mirrored else how
        this_image = functional.one_hot(torch.tensor(row), len(words)).float()
        texts += [f"{first} {how} {second}", f"{first} {OPPOSITES[how]} {second}"]
        columns += [this_image, torch.zeros(len(words))]
        # Another image with both objects may hold them in either relation.
        sure += [torch.maximum(1 - both, this_image)] * 2
    if not texts:
        return Matches([], truth[:, :0], truth[:, :0])
    return Matches(texts, torch.stack(columns, 1), torch.stack(sure, 1))


def join(*parts: Matches) -> Matches:
    """Concatenate sets of texts for the same images.

    Args:
        *parts: The sets.

    Returns:
        All texts, in order.
    """
    return Matches(
        [text for part in parts for text in part.texts],
        torch.cat([part.truth for part in parts], 1),
        torch.cat([part.sure for part in parts], 1),
    )
