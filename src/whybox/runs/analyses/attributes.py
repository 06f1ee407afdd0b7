"""The analysis "attributes": whether maps follow an attribute or the noun, and whether they depend on relations."""

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
"""Maximum number of pairs of one sort, and of relations, from one scene."""
LEAST_AREA = 0.004
"""Minimum fraction of the image: smaller objects cover less than one or two patches."""


class Thing(NamedTuple):
    """An object of a scene.

    Attributes:
        phrase: Its noun and color.
        mask: Its visible pixels, (H,W) bool.
    """

    phrase: Phrase
    mask: Tensor


class Ask(NamedTuple):
    """A text whose map should lie in one region rather than another.

    Attributes:
        sort: The measure that it belongs to.
        text: The text.
        own: The region that the text describes, (H,W) bool.
        other: The region to compare with, (H,W) bool.
    """

    sort: str
    text: str
    own: Tensor
    other: Tensor


def phrases_in(scene: Scene) -> list[Phrase]:
    """The phrase of each object.

    Args:
        scene: A generated scene with N objects.

    Returns:
        N phrases.
    """
    return [Phrase(name, color) for name, color in zip(scene.names, scene.colors, strict=True)]


def things_of(scene: Scene) -> list[Thing]:
    """The objects that are large enough and whose phrase describes no other object.

    Args:
        scene: A generated scene.

    Returns:
        The objects, in the scene's order.
    """
    phrases = phrases_in(scene)
    masks = torch.from_numpy(scene.masks)
    things = [Thing(phrase, mask) for phrase, mask in zip(phrases, masks, strict=True)]
    return [thing for thing in things if phrases.count(thing.phrase) == 1 and float(thing.mask.float().mean()) >= LEAST_AREA]


def asks_of(first: Thing, second: Thing, phrases: Sequence[Phrase]) -> list[Ask]:
    """The texts for a pair of objects, always one for each, so that a map that ignores the text scores 0.5 on average.

    One noun in two colors: each phrase, and each color alone. Two nouns in one color: each phrase, and each noun alone. Two
    nouns in two colors: each noun in the other's color, unless the scene has such an object.

    Args:
        first: An object.
        second: Another object.
        phrases: The phrases of all objects of the scene.

    Returns:
        The texts; empty if none fits the pair.
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
    """The texts for the first pairs of each sort.

    Args:
        scene: A generated scene.

    Returns:
        The texts of each pair, at most `MOST` pairs per sort.
    """
    phrases = phrases_in(scene)
    pairs: dict[str, list[list[Ask]]] = {}
    for first, second in combinations(things_of(scene), 2):
        asks = asks_of(first, second, phrases)
        if asks:
            pairs.setdefault(asks[0].sort, []).append(asks)
    return [asks for pairs_of_sort in pairs.values() for asks in pairs_of_sort[:MOST]]


class Relation(NamedTuple):
    """A sentence on the relation of two objects, and changed forms of it.

    Attributes:
        text: "A left of B".
        first: A.
        second: B.
        turned: "A right of B".
        swapped: "B left of A".
        converse: "B right of A", which means the same as the text.
        foreign: "A left of C", where C is not in the scene.
    """

    text: str
    first: Thing
    second: Thing
    turned: str
    swapped: str
    converse: str
    foreign: str


def relations_of(scene: Scene, others: Sequence[Phrase]) -> list[Relation]:
    """The first relations of two large objects, each with its changed forms.

    Args:
        scene: A generated scene with captions of relations.
        others: Phrases of another scene, from which the foreign one is taken.

    Returns:
        At most `MOST` relations.
    """
    things, known = {str(thing.phrase): thing for thing in things_of(scene)}, phrases_in(scene)
    foreign = next((phrase for phrase in others if phrase not in known), None)
    relations = []
    # The first caption lists the objects.
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
            relations.append(Relation(caption, things[first], things[second], *changed))
    return relations[:MOST]


def ask_scenes(count: int, seed: int) -> Iterator[Question]:
    """One question per scene that has a pair or a relation.

    Args:
        count: Number of scenes that are examined.
        seed: Seed of the scenes.

    Yields:
        At most `count` questions.
    """
    # One scene more: each takes its foreign phrase from the next.
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
    texts += [
        text
        for relation in relations
        for text in (relation.text, relation.turned, relation.swapped, relation.converse, relation.foreign)
    ]
    shown = texts if not relations else [*texts[: 3 if pairs else 0], relations[0].text, relations[0].turned]
    return Question(scene.image, texts, observe, scene.captions[0], list(dict.fromkeys(shown))[:5])


def _observe_pair(answers: Answers, asks: Sequence[Ask]) -> Iterator[Observation]:
    """The share of each text, and the correlation of the maps of two texts that differ in one word.

    Nothing is observed if the model's preprocessing cropped more than half of an object.
    """
    if any(is_cut_off(mask, answers.seen) for mask in (asks[0].own, asks[0].other)):
        return
    for ask in asks:
        share = share_between(answers.pixels(ask.text), ask.own, ask.other)
        yield Observation(ask.sort, share, 0.5, ask.text)
        yield Observation(f"{ask.sort}_choice", chosen(share), 0.5, ask.text)
    # The two texts of a conflict differ in both words, so that their correlation would say nothing of either.
    if asks[0].sort != "conflict":
        yield Observation(f"{asks[0].sort}_r", _correlation(answers, asks[0].text, asks[1].text))


def is_cut_off(mask: Tensor, seen: Tensor) -> bool:
    """Whether the model saw less than half of an object's pixels.

    Args:
        mask: The object's pixels, (H,W) bool.
        seen: The pixels that the model saw, (H,W) bool.

    Returns:
        True if more than half of the object was cropped.
    """
    return float((mask & seen).sum()) < 0.5 * float(mask.sum())


def _observe_relation(answers: Answers, relation: Relation) -> Iterator[Observation]:
    first, second = relation.first.mask, relation.second.mask
    if not (is_cut_off(first, answers.seen) or is_cut_off(second, answers.seen)):
        values, both = answers.pixels(relation.text), first | second
        yield Observation("relation_energy", energy_inside(values, both), float(both.float().mean()))
        yield Observation("relation_subject", share_between(values, first, second), 0.5)
    # Also where an object was cropped: two maps of the same image are compared, not a map with a region.
    for name in ("turned", "swapped", "converse", "foreign"):
        yield Observation(f"relation_{name}", _correlation(answers, relation.text, getattr(relation, name)))
    better = answers.score(relation.text) - answers.score(relation.turned)
    yield Observation("relation_score", 1.0 if better > 0 else 0.0 if better < 0 else 0.5, 0.5)


def _correlation(answers: Answers, text: str, other: str) -> float:
    """Pearson's correlation of the maps of two texts, on their own grid."""
    return float(pearson(answers.cells(text)[None], answers.cells(other)[None])[0])


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
"""The analysis of pairs of objects that share a noun or a color, and of sentences on the relation of two objects."""
