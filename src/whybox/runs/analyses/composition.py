"""The analysis "composition": a caption's map as a combination of its words' maps, and as the sum of its phrases' maps."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from torch import Tensor

from whybox.data.captions import WHERE
from whybox.data.scenes import HELD_OUT_SEED, Scene, draw_scene
from whybox.ops.similarity import pearson
from whybox.report.analysis import Measure
from whybox.report.texts import alone
from whybox.runs.analyses.asking import CUT, Answers, Observation, Question, Study

BETWEEN = re.compile(r", | and | left of | right of | in front of | behind ")
STEPS = (1, 2, 3)
"""Numbers of phrases summed; captions with fewer phrases than the last are left out, so that all steps share captions."""
NEIGHBOURS = 4
"""Number of following scenes from whose captions the control takes its words."""


def phrases_of(caption: str) -> list[str]:
    """Split a scene's caption into phrases.

    Args:
        caption: For example "two people and a red car in a meadow".

    Returns:
        The distinct phrases: "two people", "a red car", "in a meadow".
    """
    # The place first: BETWEEN would not split it off.
    place = next((where for where in WHERE.values() if caption.endswith(f" {where}")), None)
    things = caption if place is None else caption.removesuffix(f" {place}")
    return list(dict.fromkeys([*BETWEEN.split(things), *([] if place is None else [place])]))


def words_of(text: str) -> list[str]:
    """The distinct words of a text.

    Args:
        text: The text.

    Returns:
        Words without punctuation around them, in their order.
    """
    return list(dict.fromkeys(alone(word) for word in text.split()))


def explained_share(parts: ArrayLike, whole: ArrayLike) -> tuple[float, NDArray[np.float64]]:
    """Fit a map by a non-negative combination of other maps.

    R^2 = 1 - |whole - parts^T c|^2 / |whole - mean(whole)|^2, with c by non-negative least squares without a constant term.

    Args:
        parts: K maps, (K,P).
        whole: The map to fit, (P,).

    Returns:
        R^2, 1 for a perfect fit, 0 for a fit no better than a constant map and below 0 for a worse one; and c, (K,). Both are
        NaN for a constant map, and for one without pixels.
    """
    matrix, target = np.asarray(parts, np.float64), np.asarray(whole, np.float64)
    # Not `spread == 0`: the mean of equal numbers is rounded, and leaves them a spread.
    if not target.size or target.min() == target.max():
        return np.nan, np.full(len(matrix), np.nan)
    spread = float(((target - target.mean()) ** 2).sum())
    # scipy's nnls frees memory twice where there is nothing to fit with.
    if not len(matrix):
        return float(1 - (target**2).sum() / spread), np.zeros(0)
    # Raw maps are often 1e-10 and less, which is zero within the tolerance of the solver: scaled to 1 first.
    peaks, unit = np.abs(matrix).max(1), np.abs(target).max()
    peaks = np.where(peaks > 0, peaks, 1)
    coefficients, residual = nnls((matrix / peaks[:, None]).T, target / unit)
    return float(1 - (residual * unit) ** 2 / spread), coefficients * unit / peaks


def correlations_of_sums(parts: Tensor, whole: Tensor) -> list[float]:
    """Pearson's correlation of cumulative sums of maps with another map.

    Args:
        parts: K maps, (K,h,w).
        whole: The map to compare with, (h,w).

    Returns:
        K correlations, of the sums of the first 1, 2 ... K maps.
    """
    return pearson(parts.double().cumsum(0), whole[None].expand_as(parts)).tolist()


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation of two lists of numbers.

    Args:
        a: n numbers.
        b: n numbers.

    Returns:
        -1 to 1; NaN for fewer than three numbers, and where a list is constant.
    """
    if len(a) < 3:
        return np.nan
    return float(pearson(*(torch.tensor([[values]], dtype=torch.float64) for values in (a, b)))[0])


@dataclass(frozen=True)
class Control:
    """Words and phrases of other captions, as a control for those of a caption.

    Attributes:
        words: As many words as the caption has, none of them its own; empty if there are too few.
        phrases: Phrases, likewise.
    """

    words: Sequence[str]
    phrases: Sequence[str]


def borrow(own: Sequence[str], others: Sequence[str], parts: Callable[[str], Sequence[str]]) -> list[str]:
    """Take parts of other captions as a control.

    Args:
        own: The caption's own parts.
        others: Other captions.
        parts: Splits a caption into words or phrases.

    Returns:
        As many distinct parts as `own` has, none of them among `own`; empty if there are too few.
    """
    # R^2 grows with the number of parts, so the control must have exactly as many.
    pool = dict.fromkeys(part for other in others for part in parts(other))
    borrowed = [part for part in pool if part not in own][: len(own)]
    return borrowed if len(borrowed) == len(own) else []


def ask_scenes(count: int, seed: int) -> Iterator[Question]:
    """One question per scene, about its caption of all objects and its first relation.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes.

    Yields:
        `count` questions.
    """
    drawn = (draw_scene(index, seed=HELD_OUT_SEED + seed) for index in range(count + NEIGHBOURS))
    window = list(islice(drawn, NEIGHBOURS))
    for scene in drawn:
        # The scene in question comes first, and those after it lend their words: hence the scenes drawn beyond `count`.
        window.append(scene)
        yield _question(window.pop(0), window)


def _question(scene: Scene, others: Sequence[Scene]) -> Question:
    foreign = [caption for other in others for caption in other.captions]
    captions = {
        caption: Control(borrow(words_of(caption), foreign, words_of), borrow(phrases_of(caption), foreign, phrases_of))
        for caption in scene.captions[:2]
    }
    parts = [[*words_of(own), *phrases_of(own), *control.words, *control.phrases] for own, control in captions.items()]

    def observe(answers: Answers) -> Iterator[Observation]:
        for caption, control in captions.items():
            yield Observation(CUT, float(answers.is_cut(caption)))
            if not answers.is_cut(caption):
                yield from _decompose(answers, caption, control)
                yield from _add_up(answers, caption, control)

    first = scene.captions[0]
    texts = [*captions, *(part for caption_parts in parts for part in caption_parts)]
    return Question(scene.image, texts, observe, first, [first, *phrases_of(first)], words=True)


def _decompose(answers: Answers, caption: str, control: Control) -> Iterator[Observation]:
    """R^2 of each set of parts, and the correlation of the words' coefficients with their weights in the text."""
    whole = answers.cells(caption)
    sets = {"words": words_of(caption), "words_control": control.words}
    sets |= {"phrases": phrases_of(caption), "phrases_control": control.phrases}
    for name, parts in sets.items():
        if parts:
            share, coefficients = explained_share(_flat(answers, parts), whole.flatten())
            yield Observation(name, share)
            if name == "words":
                yield from _against_weights(answers, caption, dict(zip(parts, coefficients.tolist(), strict=True)))


def _against_weights(answers: Answers, caption: str, coefficients: Mapping[str, float]) -> Iterator[Observation]:
    # A word that occurs twice has one map, and the sum of its weights.
    weights = dict.fromkeys(coefficients, 0.0)
    for word, value in answers.words(caption):
        if alone(word) in weights:
            weights[alone(word)] += value
    energy = [coefficient * float(answers.cells(word).sum()) for word, coefficient in coefficients.items()]
    yield Observation("coefficient", correlation(list(coefficients.values()), list(weights.values())))
    yield Observation("part", correlation(energy, list(weights.values())))


def _add_up(answers: Answers, caption: str, control: Control) -> Iterator[Observation]:
    whole, phrases = answers.cells(caption), phrases_of(caption)
    if len(phrases) < max(STEPS):
        return
    correlations = correlations_of_sums(torch.stack([answers.cells(phrase) for phrase in phrases]), whole)
    for step in STEPS:
        yield Observation(f"sum_{step}", correlations[step - 1])
    yield Observation("sum_all", correlations[-1])
    if control.phrases:
        foreign = torch.stack([answers.cells(phrase) for phrase in control.phrases])
        yield Observation("sum_control", correlations_of_sums(foreign, whole)[-1])


def _flat(answers: Answers, texts: Sequence[str]) -> NDArray[np.float64]:
    return torch.stack([answers.cells(text).flatten() for text in texts]).double().numpy()


COMPOSITION = Study(
    title="How a caption's map is made of its words' maps",
    lead=(
        "A caption, each of its phrases and each of its words are matched with the same image. How much of the caption's map "
        "is a non-negative combination of its words' maps, and how much of as many words of other captions? And does the "
        "plain sum of its phrases' maps grow towards it?"
    ),
    remark=(
        "Maps are compared on the method's own grid. A part that explains the caption's map as well as the control's "
        "words do says nothing about these words: all maps of an image have much in common."
    ),
    measures=(
        Measure("words", "R² from the caption's words", "1: the caption's map is a non-negative combination of its words' maps."),
        Measure("words_control", "R² from as many other words", "The control: words of other captions, matched with this image."),
        Measure("phrases", "R² from the caption's phrases"),
        Measure("phrases_control", "R² from as many other phrases"),
        *(
            Measure(f"sum_{step}", f"r of the first {step} phrase{'s' * (step > 1)} with the caption", note)
            for step, note in zip(STEPS, ("Captions with three phrases or more.", "", ""), strict=True)
        ),
        Measure("sum_all", "r of the sum of all phrases with the caption", "The same captions."),
        Measure("sum_control", "r of the sum of as many other phrases"),
        Measure("coefficient", "r of a word's coefficient with its weight in the text", "Over the words of a caption."),
        Measure("part", "r of a word's part of the map with its weight", "Its coefficient times the energy of its map."),
    ),
    questions=ask_scenes,
)
"""The analysis of captions of generated scenes: the maps of words and phrases against the caption's map."""
