"""Generated scenes: drawn objects with boxes, masks and captions, the same for the same seed and index.

Six classes (`CLASSES`) stand on a ground with depth, among clutter that belongs to no class. Whatever stands nearer
hides what stands behind it; a thing that would leave an object less visible than its variant allows is not placed, so
no annotated object is nearly hidden and no hidden object lacks an annotation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whybox.data._problems import POLICIES
from whybox.data._scene import BOTH, LEAST_SIDE, LEAST_VISIBLE, VARIANTS, Scene, draw_scene
from whybox.data._scene_export import export_coco
from whybox.data._scene_places import PLACES
from whybox.data._sprites import CLASSES
from whybox.errors import WhyboxError, unknown
from whybox.specs import format_spec
from whybox.truth import DataSet, Sample, Truth

# The parts that others use, beside the data set.
__all__ = [
    "BOTH",
    "CLASSES",
    "HELD_OUT_SEED",
    "LEAST_SIDE",
    "LEAST_VISIBLE",
    "PLACES",
    "PREFIX",
    "VARIANTS",
    "Scene",
    "SceneData",
    "draw_scene",
    "export_coco",
    "open_data",
]

PREFIX = "scenes"
# Scenes of this series are for scoring alone; training refuses it as its own seed.
HELD_OUT_SEED = 1_000_003


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
