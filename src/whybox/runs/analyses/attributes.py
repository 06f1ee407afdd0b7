"""Whether a map follows the attribute or the noun, and whether a relation is read at all."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from whybox.data.captions import OPPOSITES, Phrase, colors_of
from whybox.data.scenes import HELD_OUT_SEED, Scene, draw_scene
from whybox.ops.similarity import pearson
from whybox.report.analysis import Measure
from whybox.runs.analyses.asking import Answers, Observation, Question, Study
from whybox.runs.analyses.energy import chosen, energy_inside, share_between

MOST = 2
"""Pairs of a kind from one scene."""
LEAST_AREA = 0.004
"""Of the image: smaller objects have less than a patch or two of their own."""


class Thing(NamedTuple):
    """An object of a scene: its words, and its visible pixels (H,W) bool."""

    phrase: Phrase
    mask: Tensor


class Ask(NamedTuple):
    """A text whose map should lie on one region rather than another. sort: which measure it belongs to."""

    sort: str
    text: str
    own: Tensor
    other: Tensor


def phrases_in(scene: Scene) -> list[Phrase]:
    """The words of each object."""
    return [Phrase(name, color) for name, color in zip(scene.names, scene.colors, strict=True)]


def things_of(scene: Scene) -> list[Thing]:
    """The objects that are large enough, and that no other object shares its words with."""
    phrases = phrases_in(scene)
    masks = torch.from_numpy(scene.masks)
    found = [Thing(phrase, mask) for phrase, mask in zip(phrases, masks, strict=True)]
    return [one for one in found if phrases.count(one.phrase) == 1 and float(one.mask.float().mean()) >= LEAST_AREA]


def asks_of(first: Thing, second: Thing, phrases: Sequence[Phrase]) -> list[Ask]:
    """What a pair of objects is asked, each of both in turn, so that a map that does not depend on the words gives 0.5.

    Of one noun and two colors: each phrase, and each color alone. Of one color and two nouns: each phrase, and each noun
    alone. Of two colors and two nouns: each noun in the other's color, where no object of the scene, `phrases`, is that.
    """
    turns = ((first, second), (second, first))
    if first.phrase.name == second.phrase.name:
        asks = [Ask("color", str(own.phrase), own.mask, other.mask) for own, other in turns]
        return asks + [Ask("color_alone", str(own.phrase.color), own.mask, other.mask) for own, other in turns]
    if first.phrase.color == second.phrase.color:
        asks = [Ask("noun", str(own.phrase), own.mask, other.mask) for own, other in turns]
        return asks + [Ask("noun_alone", own.phrase.name, own.mask, other.mask) for own, other in turns]
    mixed = [(Phrase(own.phrase.name, other.phrase.color), own, other) for own, other in turns]
    if any(phrase in phrases or phrase.color not in colors_of(phrase.name) for phrase, _, _ in mixed):
        return []
    return [Ask("conflict", str(phrase), own.mask, other.mask) for phrase, own, other in mixed]


def pairs_of(scene: Scene) -> list[list[Ask]]:
    """What the first pairs of each kind are asked."""
    phrases = phrases_in(scene)
    found: dict[str, list[list[Ask]]] = {}
    for first, second in combinations(things_of(scene), 2):
        asks = asks_of(first, second, phrases)
        if asks:
            found.setdefault(asks[0].sort, []).append(asks)
    return [asks for of_sort in found.values() for asks in of_sort[:MOST]]


class Relation(NamedTuple):
    """A sentence on two objects, and what it becomes when it is changed. foreign: the second phrase is another one, of which
    nothing is in the scene."""

    text: str
    first: Thing
    second: Thing
    turned: str
    swapped: str
    converse: str
    foreign: str


def relations_of(scene: Scene, others: Sequence[Phrase]) -> list[Relation]:
    """The first sentences on two large objects, each with its changed forms. others: phrases to take the foreign one from."""
    things, known = {str(thing.phrase): thing for thing in things_of(scene)}, phrases_in(scene)
    foreign = next((phrase for phrase in others if phrase not in known), None)
    found = []
    for caption in scene.captions[1:]:
        how = next(relation for relation in OPPOSITES if f" {relation} " in caption)
        first, second = caption.split(f" {how} ")
        if first in things and second in things and foreign is not None:
            back = OPPOSITES[how]
            changed = (
                f"{first} {back} {second}",
                f"{second} {how} {first}",
                f"{second} {back} {first}",
                f"{first} {how} {foreign}",
            )
            found.append(Relation(caption, things[first], things[second], *changed))
    return found[:MOST]


def ask_scenes(count: int, seed: int) -> Iterator[Question]:
    """A question a scene that holds a pair or a relation; `count` scenes are looked at."""
    scenes = (draw_scene(index, seed=HELD_OUT_SEED + seed) for index in range(count + 1))
    scene = next(scenes)
    for following in scenes:
        question = _question(scene, phrases_in(following))
        if question is not None:
            yield question
        scene = following


def _question(scene: Scene, others: Sequence[Phrase]) -> Question | None:
    pairs, relations = pairs_of(scene), relations_of(scene, others)
    if not pairs and not relations:
        return None

    def observe(answers: Answers) -> Iterator[Observation]:
        for asks in pairs:
            yield from _observe_pair(answers, asks)
        for relation in relations:
            yield from _observe_relation(answers, relation)

    texts = [ask.text for asks in pairs for ask in asks]
    texts += [text for one in relations for text in (one.text, one.turned, one.swapped, one.converse, one.foreign)]
    shown = texts if not relations else [*texts[: 3 if pairs else 0], relations[0].text, relations[0].turned]
    return Question(scene.image, texts, observe, scene.captions[0], list(dict.fromkeys(shown))[:5])


def _observe_pair(answers: Answers, asks: Sequence[Ask]) -> Iterator[Observation]:
    """The share of each text; and how alike the maps are of two texts that differ in one word. Nothing of a pair of which the
    model did not see the half."""
    if any(is_cut_off(mask, answers.seen) for mask in (asks[0].own, asks[0].other)):
        return
    for ask in asks:
        share = share_between(answers.pixels(ask.text), ask.own, ask.other)
        yield Observation(ask.sort, share, 0.5, ask.text)
        yield Observation(f"{ask.sort}_choice", chosen(share), 0.5, ask.text)
    if asks[0].sort != "conflict":
        yield Observation(f"{asks[0].sort}_r", _alike(answers, asks[0].text, asks[1].text))


def is_cut_off(mask: Tensor, seen: Tensor) -> bool:
    """Whether less than half of an object's pixels lie where the model looked."""
    return float((mask & seen).sum()) < 0.5 * float(mask.sum())


def _observe_relation(answers: Answers, one: Relation) -> Iterator[Observation]:
    first, second = one.first.mask, one.second.mask
    if not (is_cut_off(first, answers.seen) or is_cut_off(second, answers.seen)):
        values, both = answers.pixels(one.text), first | second
        yield Observation("relation_energy", energy_inside(values, both), float(both.float().mean()))
        yield Observation("relation_subject", share_between(values, first, second), 0.5)
    for name in ("turned", "swapped", "converse", "foreign"):
        yield Observation(f"relation_{name}", _alike(answers, one.text, getattr(one, name)))
    better = answers.score(one.text) - answers.score(one.turned)
    yield Observation("relation_score", 1.0 if better > 0 else 0.0 if better < 0 else 0.5, 0.5)


def _alike(answers: Answers, one: str, other: str) -> float:
    """Pearson's correlation of the maps of two texts, on their own grid."""
    return float(pearson(answers.cells(one)[None], answers.cells(other)[None])[0])


ATTRIBUTES = Study(
    title="Does the map follow the attribute or the noun?",
    lead=(
        "Two objects of one noun in two colors; two of one color with two nouns; a noun in another object's color; and "
        "sentences on how two objects stand. On which object does the map lie, and does it change when the relation is "
        "turned round?"
    ),
    remark=(
        "A share is the mean energy on the object in question as a part of that on both objects of a pair. Every pair is "
        "asked both ways, so that a map that does not depend on the text gives 0.5. Things drawn in scenes have colors "
        "and no materials: of wood or metal this says nothing."
    ),
    measures=(
        Measure("color", "“a red ball” beside a blue ball: share on the red", "Only the color tells them apart."),
        Measure("color_choice", "color: right one of the two"),
        Measure("color_alone", "“red” alone: share on the red ball"),
        Measure("color_alone_choice", "color alone: right one of the two"),
        Measure("color_r", "r of the maps of “a red ball” and “a blue ball”", "1: the color is not read."),
        Measure("noun", "“a red ball” beside a red car: share on the ball", "Only the noun tells them apart."),
        Measure("noun_choice", "noun: right one of the two"),
        Measure("noun_alone", "“ball” alone: share on the ball"),
        Measure("noun_alone_choice", "noun alone: right one of the two"),
        Measure("noun_r", "r of the maps of “a red ball” and “a red car”", "1: the noun is not read."),
        Measure(
            "conflict", "“a red ball” between a blue ball and a red car: share on the ball", "Above 0.5 it follows the noun."
        ),
        Measure("conflict_choice", "the same: on the ball rather than the car"),
        Measure("relation_energy", "“A left of B”: energy on A and B", "Chance: their part of the image."),
        Measure("relation_subject", "“A left of B”: share on A"),
        Measure("relation_turned", "r with “A right of B”", "1: the relation is not read."),
        Measure("relation_swapped", "r with “B left of A”", "1: neither order nor relation is read."),
        Measure("relation_converse", "r with “B right of A”", "Says the same as the sentence itself."),
        Measure("relation_foreign", "r with “A left of C”, of which nothing is there", "To compare: what another phrase does."),
        Measure("relation_score", "“A left of B” matches better than “A right of B”", "Of the model itself: its cosine."),
    ),
    questions=ask_scenes,
)
"""Pairs of objects that share a noun or a color, and sentences on how two objects stand."""
