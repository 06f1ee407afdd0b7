"""What a detector learns from: images and boxes of any data set, and those that are held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox import registry
from whybox.data import scenes
from whybox.errors import MissingSplitError, WhyboxError
from whybox.loading import open_data
from whybox.specs import format_spec, parse_spec
from whybox.truth import DataSet, Sample

# Every fourth training scene is a crowd.
CROWD_EVERY = 4
SCENES = 6000


class Example(NamedTuple):
    """An image (H,W,3) uint8 with boxes (N,4) float32 xyxy, labels (N,) int64 from 0, iscrowd (N,) bool.

    iscrowd: regions where nothing is counted; they are not trained on.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]


@dataclass
class Examples(Sequence[Example]):
    """`size` examples made by `make(index)` when first asked for, and kept while they fit `memory` bytes."""

    size: int
    make: Callable[[int], Example]
    memory: int = 2_000_000_000
    kept: dict[int, Example] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if index in self.kept:
            return self.kept[index]
        example = self.make(index)
        if example.image.nbytes <= self.memory:
            self.memory -= example.image.nbytes
            self.kept[index] = example
        return example


class TrainingData(NamedTuple):
    """What to learn: class names, training examples, and sets of held-out examples by name, the main one first.

    problems: what was left out of the data, a line each. digest: a text that changes whenever the annotations do, or "".
    """

    classes: tuple[str, ...]
    train: Examples
    held_out: dict[str, Examples]
    problems: tuple[str, ...] = ()
    digest: str = ""


def open_training_data(data: str | DataSet, seed: int = 0, limit: int | None = None, held_out: int = 200) -> TrainingData:
    """The training and the held-out part of a data set.

    Scenes are drawn from the series `seed`, and held-out ones from a series that training never sees: `held_out` mixed ones and
    half as many crowds, or those of the variant that the name asks for. Of other data the split "val" is held out where there is
    one, else every tenth image.

    Args:
        data: A name as `open_data` takes it ("scenes", "coco:FOLDER", "crowdhuman:FOLDER"), or a data set. The split "train" is
            taken where the name asks for no other.
        seed: Of scenes, and of the choice of every tenth image.
        limit: Train on so many images only.
        held_out: Scenes to hold out.

    Returns:
        Both parts; nothing is read yet but the annotations.

    Raises:
        WhyboxError: The data cannot be opened, has too few images, or its splits differ in their classes.
    """
    if isinstance(data, str) and data.partition(":")[0] == scenes.PREFIX:
        return _scenes(data, seed, limit, held_out)
    train, held = _splits(data)
    if held is None:
        order = np.random.default_rng((seed, len(train))).permutation(len(train)).tolist()
        cut = max(1, len(order) // 10)
        held, rows, other = train, order[cut:], order[:cut]
    else:
        rows, other = list(range(len(train))), list(range(len(held)))
    if not rows or not other:
        raise WhyboxError(f"{train.name} has too few images to train on and to hold some out: {len(train)}")
    if held.classes != train.classes:
        raise WhyboxError(f"{train.name}: train and val differ in their classes: {train.classes} and {held.classes}")
    problems = train.problems if held is train else (*train.problems, *held.problems)
    digest = getattr(train, "digest", "")
    return TrainingData(train.classes, examples_of(train, rows[:limit]), {"val": examples_of(held, other)}, problems, digest)


def _splits(data: str | DataSet) -> tuple[DataSet, DataSet | None]:
    """What to train on, and the data's own split "val" where it has one and it is another."""
    if not isinstance(data, str) or not _has_splits(data):
        return open_data(data), None
    name, _, settings = data.partition(":split=")
    if not settings:
        train, val = open_data(f"{data}:split=train"), f"{data}:split=val"
    else:
        _, *others = settings.split(":")
        train, val = open_data(data), ":".join([name, "split=val", *others])
    try:
        held = open_data(val)
    except MissingSplitError:
        return train, None
    # A file, or a folder with one file, is the same whatever split is asked for.
    return train, None if held.name == train.name else held


def _has_splits(data: str) -> bool:
    module = registry.data_sets().get(data.partition(":")[0])
    return module is not None and "split" in signature(module.open_data).parameters


def _scenes(data: str, seed: int, limit: int | None, held_out: int) -> TrainingData:
    """Scenes for training and for scoring; every fourth a crowd where the name asks for no variant."""
    name, options = parse_spec(data)
    options = {"seed": seed, "count": limit or SCENES, **options}
    if options["seed"] == scenes.HELD_OUT_SEED:
        raise WhyboxError(f"seed {options['seed']} is kept for the held-out scenes; choose another")
    kinds = [str(options["variant"])] if options.get("variant", "both") != "both" else list(scenes.BOTH)

    def series(kind: str, **others: Any) -> DataSet:
        return open_data(format_spec(name, {**options, "variant": kind, **others}))

    drawn = [series(kind) for kind in kinds]
    rows = range(len(drawn[0]))[:limit]

    def make(index: int) -> Example:
        crowd = index % CROWD_EVERY == CROWD_EVERY - 1
        return _example(drawn[-1 if crowd else 0][rows[index]])

    counts = {kind: held_out if place == 0 else max(1, held_out // 2) for place, kind in enumerate(kinds)}
    held = {kind: series(kind, seed=scenes.HELD_OUT_SEED, count=count) for kind, count in counts.items()}
    parts = {kind: examples_of(found, range(len(found))) for kind, found in held.items()}
    return TrainingData(scenes.CLASSES, Examples(len(rows), make), parts, digest=" ".join(map(_digest, drawn)))


def _digest(data: DataSet) -> str:
    return str(getattr(data, "digest", ""))


def examples_of(data: DataSet, rows: Sequence[int]) -> Examples:
    """Some images of a data set.

    Args:
        data: The data set.
        rows: Which of its images.

    Returns:
        An example for each row; it is read when it is first asked for.
    """
    return Examples(len(rows), lambda index: _example(data[rows[index]]))


def _example(sample: Sample) -> Example:
    """A sample's image and boxes, cut at the image's edge, beyond which a detector draws none."""
    picture, truth = sample.image, sample.truth
    pixels = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    boxes = truth.boxes.numpy().clip(0, np.asarray([*picture.size] * 2, dtype=np.float32))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Example(pixels, boxes[inside], truth.labels.numpy()[inside], truth.ignore.numpy()[inside])
