"""The analysis "concreteness": the weight of each kind of word in a text, its own map, and the loss of cosine without it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from whybox.data._sprites import COLORS
from whybox.data.captions import PLURALS, WHERE
from whybox.data.scenes import CLASSES, HELD_OUT_SEED, Scene, draw_scene
from whybox.errors import WhyboxError
from whybox.files import one_line
from whybox.report.analysis import Measure
from whybox.report.texts import alone
from whybox.runs.analyses.asking import CUT, Answers, Observation, Question, Study
from whybox.runs.statistics import DRAWS, LEVEL

KINDS: Mapping[str, frozenset[str]] = {
    "nouns": frozenset([*CLASSES, *(PLURALS.get(name, name + "s") for name in CLASSES)]),
    "colors": frozenset(COLORS),
    "places": frozenset(where.split()[-1] for where in WHERE.values()),
    "numbers": frozenset(("two", "three", "four", "five", "six", "many")),
    "relations": frozenset(("left", "right", "front", "behind")),
    "function words": frozenset(("a", "an", "the", "and", "of", "in", "on", "at")),
}
"""Words by kind, concrete ones first. Of "in front of" only "front" is a relation: the other two also occur elsewhere."""


def kind_of(word: str) -> str | None:
    """The kind of a word of a scene's caption.

    Args:
        word: In lower case, without punctuation.

    Returns:
        A key of `KINDS`; None for a word that scenes do not use.
    """
    return next((kind for kind, words in KINDS.items() if word in words), None)


def shares(values: Sequence[float]) -> list[float]:
    """Each word's share of a text's weight; negative weights count as 0.

    Args:
        values: The weights of W words.

    Returns:
        W shares, which sum to 1; NaN where no weight is positive.
    """
    positive = [max(value, 0.0) for value in values]
    total = sum(positive)
    return [value / total if total > 0 else np.nan for value in positive]


def left_out(words: Sequence[str]) -> list[str]:
    """A text with each of its words left out in turn.

    Args:
        words: The W words of a text.

    Returns:
        W texts; none for a text of one word.
    """
    return [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))] if len(words) > 1 else []


def ask_scenes(count: int, seed: int) -> Iterator[Question]:
    """One question per scene, about its caption of all objects and its first relation.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes.

    Yields:
        `count` questions.
    """
    for index in range(count):
        yield _question(draw_scene(index, seed=HELD_OUT_SEED + seed))


def _question(scene: Scene) -> Question:
    captions = scene.captions[:2]
    words = [caption.split() for caption in captions]

    def observe(answers: Answers) -> Iterator[Observation]:
        for caption in captions:
            yield Observation(CUT, float(answers.is_cut(caption)))
            if not answers.is_cut(caption):
                yield from _weigh(answers, caption)
                yield from _leave_out(answers, caption)
        for word in dict.fromkeys(alone(word) for caption_words in words for word in caption_words):
            yield Observation(f"peak {kind_of(word)}", answers.peak(word), item=word)

    texts = [
        *captions,
        *(alone(word) for caption_words in words for word in caption_words),
        *(text for caption_words in words for text in left_out(caption_words)),
    ]
    shown = list(dict.fromkeys(alone(word) for word in words[0]))[:5]
    return Question(scene.image, texts, observe, captions[0], [captions[0], *shown], words=True)


def _weigh(answers: Answers, caption: str) -> Iterator[Observation]:
    pairs = answers.words(caption)
    for (word, _), share in zip(pairs, shares([value for _, value in pairs]), strict=True):
        yield Observation(f"share {kind_of(alone(word))}", share, 1 / len(pairs), alone(word))


def _leave_out(answers: Answers, caption: str) -> Iterator[Observation]:
    words = caption.split()
    # Not strict: a text of one word has no shorter one.
    for word, text in zip(words, left_out(words), strict=False):
        drop = answers.score(caption) - answers.score(text)
        yield Observation(f"drop {kind_of(alone(word))}", drop, item=alone(word))


def read_ratings(file: Path) -> dict[str, float]:
    """Read ratings of words, such as concreteness norms.

    Args:
        file: A CSV file with the columns word and rating.

    Returns:
        Ratings by word in lower case.

    Raises:
        WhyboxError: The file cannot be read, lacks the columns, or a rating is not a number.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise WhyboxError(f"--ratings {file}: cannot be read ({one_line(error)})") from error
    if not rows or not {"word", "rating"} <= set(rows[0]):
        raise WhyboxError(f"--ratings {file}: expected a table with the columns word,rating and at least one row")
    try:
        return {row["word"].strip().lower(): float(row["rating"]) for row in rows}
    except (ValueError, TypeError, AttributeError) as error:
        raise WhyboxError(f"--ratings {file}: a rating is not a number ({one_line(error)})") from error


class Rated(NamedTuple):
    """Spearman's correlation with its interval.

    Attributes:
        mean: The correlation, -1 to 1; NaN where it is not defined.
        low: The lower end of its interval.
        high: The upper end.
        words: Number of rated words.
        images: Number of images with a rated word.
    """

    mean: float
    low: float
    high: float
    words: int
    images: int


def rate(values: Sequence[tuple[str, str, float]], ratings: Mapping[str, float], *, seed: int = 0, draws: int = DRAWS) -> Rated:
    """Spearman's correlation of words' mean values with their ratings.

    The interval draws whole images with replacement, as `bootstrap_mean` does.

    Args:
        values: (image, word, value) triples; NaN values and words without a rating are left out.
        ratings: Ratings by word.
        seed: Seed of the draws.
        draws: Number of bootstrap samples.

    Returns:
        The correlation and its interval; NaN for fewer than three rated words.
    """
    # NaN differs from itself.
    known = [(image, word, value) for image, word, value in values if word in ratings and value == value]
    words, images = sorted({word for _, word, _ in known}), sorted({image for image, _, _ in known})
    if len(words) < 3:
        return Rated(np.nan, np.nan, np.nan, len(words), len(images))
    sums, counts = np.zeros((2, len(images), len(words)))
    for image, word, value in known:
        sums[images.index(image), words.index(word)] += value
        counts[images.index(image), words.index(word)] += 1
    rated = np.array([ratings[word] for word in words])
    # How often each image is in each sample; the correlation itself is not a mean, so `bootstrap_mean` cannot be used.
    times = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), draws)
    drawn = [_ranked(sample @ sums, sample @ counts, rated) for sample in times] if len(images) > 1 else [np.nan]
    # A sample without three rated words has no correlation.
    known_draws = [value for value in drawn if value == value] or [np.nan]
    low, high = np.quantile(known_draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Rated(_ranked(sums.sum(0), counts.sum(0), rated), float(low), float(high), len(words), len(images))


def _ranked(sums: NDArray[np.float64], counts: NDArray[np.float64], ratings: NDArray[np.float64]) -> float:
    """Spearman's correlation: Pearson's correlation of the ranks, ties with their mean rank."""
    present = counts > 0
    means, rated = sums[present] / counts[present], ratings[present]
    if len(means) < 3 or np.ptp(means) == 0 or np.ptp(rated) == 0:
        return np.nan
    return float(np.corrcoef(rankdata(means), rankdata(rated))[0, 1])


CONCRETENESS = Study(
    title="Which kinds of words count?",
    lead=(
        "Every word of a caption has a weight in the text's own map, a map when it is asked alone, and a loss of cosine "
        "when it is left out of the caption. Do nouns and colors, which can be seen, count more than words that say how "
        "many, where, or nothing?"
    ),
    remark=(
        "Peak is the largest raw value of the map of the word alone: compare its rows with each other, for its scale "
        "is the model's. Scenes use few words; ratings of your own (--ratings) are correlated over those that occur."
    ),
    measures=(
        *(Measure(f"share {kind}", f"{kind}: share of the text's weight, per word", "") for kind in KINDS),
        *(Measure(f"drop {kind}", f"{kind}: loss of cosine without the word", "") for kind in KINDS),
        *(Measure(f"peak {kind}", f"{kind}: peak of the word alone", "") for kind in KINDS),
        Measure(
            "rated share", "Spearman’s r of a word's share of the weight with its rating", "Over the words that have a rating."
        ),
        Measure("rated drop", "Spearman’s r of a word's loss of cosine with its rating"),
    ),
    questions=ask_scenes,
    needs_words=True,
)
"""The analysis of captions of generated scenes, word by word."""
