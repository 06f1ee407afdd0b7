"""The texts of scenes: an object in words, captions of a whole scene, and which phrases are true of which objects."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.data._sprites import OBJECTS, Rng

PLURALS = {"person": "people"}
WHERE = {
    "meadow": "in a meadow",
    "street": "on a street",
    "beach": "on a beach",
    "snow": "in the snow",
    "room": "in a room",
    "dusk": "at dusk",
}
OPPOSITES = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
"""The relations that captions name, each with its opposite."""
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "there is {}", "this is {}")


class Phrase(NamedTuple):
    """An object in words.

    Attributes:
        name: Its class.
        color: Its color; None where the words name none.
    """

    name: str
    color: str | None = None

    def __str__(self) -> str:
        """With the article: "a red ball", "a person in blue", "a dog"."""
        return with_article(self.name if self.color is None else object_words(self.name, self.color))

    def is_true_of(self, name: str, color: str) -> bool:
        """Whether the words name an object.

        Args:
            name: The object's class.
            color: The object's color.

        Returns:
            True where the class is the same, and the color, if the words name one.
        """
        return self.name == name and self.color in (None, color)


def colors_of(name: str) -> tuple[str, ...]:
    """The colors that a class comes in.

    Args:
        name: Of `OBJECTS`.

    Returns:
        Names of `COLORS`, each once.
    """
    return tuple(dict.fromkeys(OBJECTS[name][3]))


def class_phrases() -> tuple[Phrase, ...]:
    """Every class: "a person", "a car" ..."""
    return tuple(Phrase(name) for name in OBJECTS)


def color_phrases(names: Sequence[str] = tuple(OBJECTS)) -> tuple[Phrase, ...]:
    """Classes in each of their colors: "a red ball", "an orange ball" ...

    Args:
        names: Classes of `OBJECTS`.

    Returns:
        The phrases, class by class.
    """
    return tuple(Phrase(name, color) for name in names for color in colors_of(name))


def object_words(name: str, color: str) -> str:
    """An object in words, without an article.

    Args:
        name: Its class.
        color: Its color.

    Returns:
        "red ball", "person in blue".
    """
    return f"person in {color}" if name == "person" else f"{color} {name}"


def with_article(words: str) -> str:
    """Words with their article.

    Args:
        words: At least one, in lower case: "orange ball".

    Returns:
        "an orange ball".
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def overview(names: Sequence[str], colors: Sequence[str], place: str) -> str:
    """One sentence with every object of a scene.

    Args:
        names: N classes.
        colors: N colors.
        place: A key of `WHERE`.

    Returns:
        "a red ball and two people in a meadow"; the color is named where a class has one object.
    """
    where = WHERE[place]
    parts = []
    for name in dict.fromkeys(names):
        tones = [tone for other, tone in zip(names, colors, strict=True) if other == name]
        parts.append(str(Phrase(name, tones[0])) if len(tones) == 1 else f"{_count(len(tones))} {_plural(name)}")
    if not parts:
        return f"nothing {where}"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) + f" {where}"


def _plural(name: str) -> str:
    return PLURALS.get(name, name + "s")


def _count(number: int) -> str:
    return ("two", "three", "four", "five", "six")[number - 2] if number < 7 else "many"


def relations(
    names: Sequence[str], colors: Sequence[str], boxes: NDArray[np.float32], masks: NDArray[np.bool_], rng: Rng
) -> Iterator[str]:
    """Up to four sentences on pairs of objects that differ in words: left of, right of, behind, in front of.

    Args:
        names: N classes, back to front.
        colors: N colors.
        boxes: (N,4) xyxy in image pixels, hidden parts too.
        masks: (N,H,W) the visible pixels.
        rng: Chooses the pairs, and which of the two comes first.

    Yields:
        "a red ball left of a person in blue".
    """
    phrases = [str(Phrase(name, color)) for name, color in zip(names, colors, strict=True)]
    # Two objects with the same words would make a sentence that is as true the other way around.
    pairs = [(i, j) for i in range(len(names)) for j in range(i) if phrases[i] != phrases[j]]
    for pick in rng.permutation(len(pairs))[:4]:
        first, second = rng.permutation(pairs[pick]).tolist()
        yield f"{phrases[first]} {_relation(boxes, masks, first, second)} {phrases[second]}"


def _relation(boxes: NDArray[np.float32], masks: NDArray[np.bool_], first: int, second: int) -> str:
    """How `first` stands to `second`; rows are ordered back to front, so the higher row is the nearer.

    Beside each other is what lies further apart than half their widths; one that covers a quarter of itself with the
    other's box stands in front of it all the same.
    """
    near, far = max(first, second), min(first, second)
    x1, y1, x2, y2 = boxes[far].astype(int)
    covers = masks[near, y1:y2, x1:x2].sum() > 0.25 * masks[near].sum()
    apart = float(boxes[first, ::2].mean() - boxes[second, ::2].mean())
    widths = float(np.ptp(boxes[first, ::2]) + np.ptp(boxes[second, ::2]))
    if not covers and abs(apart) > widths / 4:
        return "left of" if apart < 0 else "right of"
    return "in front of" if first == near else "behind"
