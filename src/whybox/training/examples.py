"""The training and held-out examples of a detector: images and boxes of any data set."""

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
    """An image with its boxes.

    Attributes:
        image: (H,W,3) uint8.
        boxes: (N,4) float32 xyxy in pixels.
        labels: (N,) int64, from 0.
        iscrowd: (N,) bool, ignore regions, which are not trained on.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]


@dataclass
class Examples(Sequence[Example]):
    """Examples that are made on first use, and kept as long as they fit into memory.

    Attributes:
        size: Number of examples.
        make: Index -> example.
        memory: Bytes left for images that are kept.
        kept: The examples that are kept, by index.
    """

    size: int
    make: Callable[[int], Example]
    memory: int = 2_000_000_000
    kept: dict[int, Example] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        """The example at an index.

        Args:
            index: From 0.

        Returns:
            The example.
        """
        if index in self.kept:
            return self.kept[index]
        example = self.make(index)
        # First come, first kept: nothing is dropped, because every epoch reads all examples anyway.
        if example.image.nbytes <= self.memory:
            self.memory -= example.image.nbytes
            self.kept[index] = example
        return example


class TrainingData(NamedTuple):
    """The data of a training.

    Attributes:
        classes: Class names.
        train: Training examples.
        held_out: Sets of held-out examples by name, the main one first.
        problems: What was left out of the data, one line per problem.
        digest: A text that changes whenever the annotations do, or "".
    """

    classes: tuple[str, ...]
    train: Examples
    held_out: dict[str, Examples]
    problems: tuple[str, ...] = ()
    digest: str = ""


def open_training_data(data: str | DataSet, seed: int = 0, limit: int | None = None, held_out: int = 200) -> TrainingData:
    """Open the training part and the held-out part of a data set.

    Training scenes are those of the series `seed`, and held-out scenes those of a series that training never uses: `held_out`
    mixed scenes and half as many crowds, or scenes of the variant that the name gives. For other data the split "val" is held
    out where it exists, else a tenth of the images, chosen at random.

    Args:
        data: A name as `open_data` takes it ("scenes", "coco:FOLDER", "crowdhuman:FOLDER"), or a data set. The split "train" is
            used where the name gives no other.
        seed: Seed of the scenes, and of the choice of held-out images.
        limit: The largest number of training images; None: all.
        held_out: Number of held-out scenes.

    Returns:
        Both parts; images are read on use.

    Raises:
        WhyboxError: `limit` is less than 1, or the data cannot be opened, has too few images, or has splits of other classes.
    """
    if limit is not None and limit < 1:
        raise WhyboxError(f"limit, the largest number of training images, must be at least 1, got {limit}")
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
        raise WhyboxError(f"{train.name} has too few images to train on some and hold out others: {len(train)}")
    if held.classes != train.classes:
        raise WhyboxError(f"{train.name}: train and val differ in their classes: {train.classes} and {held.classes}")
    problems = train.problems if held is train else (*train.problems, *held.problems)
    # A data set of the user's may have none.
    digest = getattr(train, "digest", "")
    return TrainingData(train.classes, examples_of(train, rows[:limit]), {"val": examples_of(held, other)}, problems, digest)


def _splits(data: str | DataSet) -> tuple[DataSet, DataSet | None]:
    """The training part, and the data set's split "val" where it exists and differs from the training part."""
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
    """Scenes for training and for scoring; every fourth training scene is a crowd where the name gives no variant."""
    name, options = parse_spec(data)
    options = {"seed": seed, "count": limit or SCENES, **options}
    if options["seed"] == scenes.HELD_OUT_SEED:
        raise WhyboxError(f"seed {options['seed']} is reserved for the held-out scenes; choose another")
    variants = [str(options["variant"])] if options.get("variant", "both") != "both" else list(scenes.BOTH)

    def series(variant: str, **others: Any) -> DataSet:
        return open_data(format_spec(name, {**options, "variant": variant, **others}))

    drawn = [series(variant) for variant in variants]
    # Both series have the same indices; example i is scene i of one of them.
    rows = range(len(drawn[0]))[:limit]

    def make(index: int) -> Example:
        crowd = index % CROWD_EVERY == CROWD_EVERY - 1
        return _example(drawn[-1 if crowd else 0][rows[index]])

    counts = {variant: max(1, held_out // 2) if place else held_out for place, variant in enumerate(variants)}
    held = {variant: series(variant, seed=scenes.HELD_OUT_SEED, count=count) for variant, count in counts.items()}
    parts = {variant: examples_of(part, range(len(part))) for variant, part in held.items()}
    return TrainingData(scenes.CLASSES, Examples(len(rows), make), parts, digest=" ".join(map(_digest, drawn)))


def _digest(data: DataSet) -> str:
    return str(getattr(data, "digest", ""))


def examples_of(data: DataSet, rows: Sequence[int]) -> Examples:
    """Examples from some images of a data set.

    Args:
        data: The data set.
        rows: Indices of its images.

    Returns:
        One example per row, read on first use.
    """
    return Examples(len(rows), lambda index: _example(data[rows[index]]))


def _example(sample: Sample) -> Example:
    """A sample's image and boxes, clipped to the image as a detector's predictions are."""
    picture, truth = sample.image, sample.truth
    # convert() copies, also from RGB to RGB.
    pixels = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    boxes = truth.boxes.numpy().clip(0, np.asarray([*picture.size] * 2, dtype=np.float32))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Example(pixels, boxes[inside], truth.labels.numpy()[inside], truth.ignore.numpy()[inside])
