"""The analysis "objects": whether the map of a prompt that names several objects shows all of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from whybox.data.captions import Phrase
from whybox.data.scenes import HELD_OUT_SEED, Scene, draw_scene
from whybox.report.analysis import Measure
from whybox.report.table import number
from whybox.runs.analyses.asking import CUT, Answers, Observation, Question, Study
from whybox.runs.analyses.energy import energy_inside, peak_inside

TILE = (160, 120)
"""(width, height) of a scene in a mosaic, in pixels."""
TILES = 4
SIZES = range(1, TILES + 1)
"""Numbers of objects that a prompt names."""


@dataclass(frozen=True)
class Mosaic:
    """Four scenes of one object each, in two rows of two; no noun occurs twice.

    Attributes:
        image: The mosaic.
        phrases: The phrase of each object, row by row.
    """

    image: Image.Image
    phrases: tuple[str, ...]

    def quadrant(self, place: int) -> Tensor:
        """The region of one scene.

        Args:
            place: Its index in `phrases`.

        Returns:
            (H,W) bool.
        """
        region = torch.zeros((self.image.height, self.image.width), dtype=torch.bool)
        top, left = place // 2 * TILE[1], place % 2 * TILE[0]
        region[top : top + TILE[1], left : left + TILE[0]] = True
        return region


def mosaics(seed: int) -> Iterator[Mosaic]:
    """Generate mosaics of scenes with a single object, each scene in at most one mosaic.

    Args:
        seed: Seed of the scenes.

    Yields:
        Mosaics, without end.
    """
    waiting: list[Scene] = []
    for index in numbers():
        scene = draw_scene(index, seed=seed, variant="single", size=TILE)
        waiting += [scene] if len(scene.names) == 1 else []
        chosen: dict[str, Scene] = {}
        for candidate in waiting:
            # One scene for each noun, the first: a noun that is there twice would make the prompt ambiguous.
            chosen.setdefault(candidate.names[0], candidate)
        if len(chosen) >= TILES:
            taken = list(chosen.values())[:TILES]
            # By identity: `==` of scenes would compare their arrays, which has no single truth value.
            waiting = [candidate for candidate in waiting if all(candidate is not used for used in taken)]
            yield _lay_out(taken)


def _lay_out(scenes: Sequence[Scene]) -> Mosaic:
    image = Image.new("RGB", (2 * TILE[0], 2 * TILE[1]))
    for place, scene in enumerate(scenes):
        image.paste(scene.image, (place % 2 * TILE[0], place // 2 * TILE[1]))
    return Mosaic(image, tuple(str(Phrase(scene.names[0], scene.colors[0])) for scene in scenes))


def prompt_of(phrases: Sequence[str]) -> str:
    """Join phrases to one prompt: "a red ball, a dog and a blue car".

    Args:
        phrases: At least one phrase.

    Returns:
        The prompt.
    """
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def judge(values: Tensor, regions: Sequence[Tensor]) -> tuple[list[float], float, list[float]]:
    """Measure the map of a prompt that names K objects.

    Args:
        values: The map, (H,W).
        regions: The objects' regions, K times (H,W) bool.

    Returns:
        The K shares of the energy in each region, whether the peak lies in any region, and K values of whether it lies in
        each.
    """
    union = torch.stack(list(regions)).any(0)
    return (
        [energy_inside(values, region) for region in regions],
        peak_inside(values, union),
        [peak_inside(values, region) for region in regions],
    )


def ask_mosaics(count: int, seed: int) -> Iterator[Question]:
    """One question per mosaic, whose prompts name the objects in random order.

    Args:
        count: Number of mosaics.
        seed: Seed of the scenes and of the order.

    Yields:
        `count` questions.
    """
    # Random, so that an advantage of the first word or of one quadrant averages out.
    rng = np.random.default_rng(seed)
    # The range first: `mosaics` has no end, and drawing one more would cost scenes.
    for _, mosaic in zip(range(count), mosaics(HELD_OUT_SEED + seed), strict=False):
        yield _question(mosaic, rng.permutation(TILES).tolist())


def _question(mosaic: Mosaic, order: Sequence[int]) -> Question:
    named = [order[:size] for size in SIZES]
    prompts = {prompt_of([mosaic.phrases[place] for place in places]): places for places in named}

    def observe(answers: Answers) -> Iterator[Observation]:
        for prompt, places in prompts.items():
            yield Observation(CUT, float(answers.is_cut(prompt)))
            if not answers.is_cut(prompt):
                yield from _observe_prompt(answers, prompt, [mosaic.quadrant(place) for place in places])
        yield from _observe_alone(answers, ((phrase, mosaic.quadrant(i)) for i, phrase in enumerate(mosaic.phrases)))

    whole = prompt_of([mosaic.phrases[place] for place in order])
    texts = list(dict.fromkeys([*prompts, *mosaic.phrases]))
    return Question(mosaic.image, texts, observe, whole, texts)


def _observe_prompt(answers: Answers, prompt: str, regions: Sequence[Tensor]) -> Iterator[Observation]:
    energies, anywhere, peaks = judge(answers.pixels(prompt), regions)
    count = len(regions)
    yield Observation(f"energy_{count}", sum(energies), count / TILES)
    yield Observation(f"any_{count}", anywhere, count / TILES)
    yield Observation(f"weakest_{count}", count * min(energies))
    for energy, peak in zip(energies, peaks, strict=True):
        yield Observation(f"own_{count}", energy, 1 / TILES)
        yield Observation(f"peak_{count}", peak, 1 / TILES)


def _observe_alone(answers: Answers, things: Iterable[tuple[str, Tensor]]) -> Iterator[Observation]:
    for phrase, region in things:
        yield Observation("alone_energy", energy_inside(answers.pixels(phrase), region), 1 / TILES, phrase)
        yield Observation("alone_peak", peak_inside(answers.pixels(phrase), region), 1 / TILES, phrase)


def _limit(named: int) -> str:
    return f"At best {number(1 / named, 3)} on average." if named < TILES else "0.250 whatever the map is."


EVEN = "1: all named objects equally; 0: one is missed."
OBJECTS = Study(
    title="Several objects in one prompt",
    lead=(
        "A mosaic of four scenes with one object each; a prompt names one, two, three or all four of them. How much of "
        "the map lies in the quadrants that are named, is any named object missed, and what do the objects' phrases "
        "show when asked alone?"
    ),
    remark=(
        "One map has one peak and one unit of energy: with k objects named, the peak in an object's own quadrant and the "
        "energy there are 1/k at best, averaged over the objects, whatever the method. A map for each phrase does not "
        "have this limit: the last rows."
    ),
    measures=(
        # With all four named, energy_4 and any_4 could only be 1.
        *(Measure(f"energy_{named}", f"{named} named: energy in the named quadrants") for named in range(1, TILES)),
        *(Measure(f"own_{named}", f"{named} named: energy in an object's own quadrant", _limit(named)) for named in SIZES[1:]),
        *(Measure(f"weakest_{named}", f"{named} named: the weakest one's energy, times {named}", EVEN) for named in SIZES[1:]),
        *(Measure(f"any_{named}", f"{named} named: peak in a named quadrant") for named in range(1, TILES)),
        *(Measure(f"peak_{named}", f"{named} named: peak in an object's own quadrant", _limit(named)) for named in SIZES[1:]),
        Measure("alone_energy", "each phrase alone: energy in its quadrant", "Of all four objects."),
        Measure("alone_peak", "each phrase alone: peak in its quadrant"),
    ),
    questions=ask_mosaics,
)
"""The analysis of mosaics of four scenes, with prompts that name one, two, three and four of their objects."""
