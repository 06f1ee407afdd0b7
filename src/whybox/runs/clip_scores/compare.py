"""Paired differences of scored models: of one run with another, or pooled over the seeds of a training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from whybox.accuracy.region_classes import mean_over_groups
from whybox.errors import WhyboxError
from whybox.runs.clip_scores.folder import TASKS
from whybox.runs.clip_scores.intervals import bootstrap_groups
from whybox.runs.clip_scores.scores import ClipScores, Values, interval, percent
from whybox.runs.statistics import LEVEL

POWER = 0.8
"""A true difference that is called detectable is found in four of five studies."""
SAME = ("annotations", "classes", "captions_per_image")
"""What must be the same of two runs for their values to be of the same things."""

Item = tuple[str, str]


@dataclass(frozen=True)
class PairedDifference:
    """How a model differs from another in one measure, on what both scored; in parts of 1.

    Attributes:
        title: The measure in words.
        mean: The mean difference.
        low: The lower end of the 95 % interval over images, of these models.
        high: The upper end.
        seeds_low: The lower end of the 95 % interval over training seeds (Student's t); NaN for one seed.
        seeds_high: The upper end.
        detectable: The smallest true difference that images such as these would show in four of five cases.
        seeds_detectable: The same of so many seeds; NaN for one seed.
        ones: The mean of each of the first models.
        others: The mean of each of those that they are compared with.
        values: The number of shared values.
        images: The number of shared images.
    """

    title: str
    mean: float
    low: float
    high: float
    seeds_low: float
    seeds_high: float
    detectable: float
    seeds_detectable: float
    ones: tuple[float, ...]
    others: tuple[float, ...]
    values: int
    images: int


def compare_scores(
    ones: ClipScores | Sequence[ClipScores], others: ClipScores | Sequence[ClipScores], *, seed: int = 0
) -> dict[str, PairedDifference]:
    """One model minus another, or the mean over training seeds, on what all of them scored.

    Source of the interval over seeds: Student's t of the paired differences, one per seed. The interval over images is a
    bootstrap of the differences averaged over the seeds, which draws whole images.

    Args:
        ones: A run, or one per training seed.
        others: The runs that they are compared with, seed by seed. A single run, of either side, is compared with each.
        seed: Of the bootstrap.

    Returns:
        The differences by measure.

    Raises:
        WhyboxError: The runs are of different data, share nothing, or are not as many.
    """
    first, second = ([each] if isinstance(each, ClipScores) else list(each) for each in (ones, others))
    counts = {len(first), len(second)}
    if 0 in counts or len(counts - {1}) > 1:
        raise WhyboxError(f"{len(first)} runs cannot be paired with {len(second)}: give as many, seed by seed, or one")
    _check_same([*first, *second])
    shared = {task: _shared_images([*first, *second], task) for task in TASKS}
    tables = [[run.values(shared) for run in side] for side in (first, second)]
    differences = {}
    for key in tables[0][0]:
        if all(key in table for side in tables for table in side):
            # A single run is paired with each of the others.
            mine, theirs = ([table[key] for table in side] * (max(counts) // len(side)) for side in tables)
            differences[key] = _difference(mine, theirs, seed)
    if not differences:
        raise WhyboxError("these runs share no image of a task: nothing to compare")
    return differences


def _check_same(runs: Sequence[ClipScores]) -> None:
    for run in runs[1:]:
        for term in SAME:
            if run.mark.get(term) != runs[0].mark.get(term):
                places = " and ".join(str(each.folder.path or each.mark.get("model")) for each in (runs[0], run))
                raise WhyboxError(f"{places} scored different data: they differ in {term.replace('_', ' ')}")


def _shared_images(runs: Sequence[ClipScores], task: str) -> list[str]:
    scored = [set(run.scored(task)) for run in runs]
    return [name for name in runs[0].scored(task) if all(name in each for each in scored)]


def _difference(mine: Sequence[Values], theirs: Sequence[Values], seed: int) -> PairedDifference:
    """The difference of the means of the seeds' values; both sides have as many."""
    runs = [*mine, *theirs]
    # A region that one network did not see, because of its preprocessing, has no value there.
    known = set.intersection(*({*_items(values)} for values in runs))
    order = [item for item in _items(mine[0]) if item in known]
    images = [image for image, _ in order]
    groups = [group for item, group in zip(_items(mine[0]), mine[0].groups, strict=True) if item in known]
    tables: list[NDArray[np.float64]] = []
    for side in (mine, theirs):
        rows = []
        for values in side:
            place = {item: row for row, item in enumerate(_items(values))}
            rows.append(values.values[[place[item] for item in order]])
        tables.append(np.stack(rows))
    gains = tables[0] - tables[1]
    whole = bootstrap_groups(gains.mean(0), images, groups, seed=seed)
    means = [[mean_over_groups(row, groups) for row in table] for table in (*tables, gains)]
    low, high, seeds_detectable = _over_seeds(means[2])
    return PairedDifference(
        title=mine[0].title,
        mean=whole.mean,
        low=whole.low,
        high=whole.high,
        seeds_low=low,
        seeds_high=high,
        detectable=_standard_errors(math.inf) * whole.error,
        seeds_detectable=seeds_detectable,
        ones=tuple(means[0]),
        others=tuple(means[1]),
        values=len(order),
        images=len(set(images)),
    )


def _items(values: Values) -> list[Item]:
    return list(zip(values.images, values.ids, strict=True))


def _over_seeds(means: Sequence[float]) -> tuple[float, float, float]:
    """The ends of the interval over seeds, and the smallest detectable difference."""
    count = len(means)
    if count < 2:
        return math.nan, math.nan, math.nan
    error, mean = float(np.std(means, ddof=1)) / math.sqrt(count), float(np.mean(means))
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1)) * error
    return mean - reach, mean + reach, _standard_errors(count - 1) * error


def _standard_errors(freedom: float) -> float:
    """How many standard errors a true difference must have to be found with `POWER`; 2.8 for many."""
    return float(student.ppf((1 + LEVEL) / 2, freedom) + student.ppf(POWER, freedom))


def difference_table(differences: Mapping[str, PairedDifference]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows to print: measure, both means, the difference with its interval over images, what could be seen."""
    rows = [
        [
            found.title,
            percent(float(np.mean(found.ones))),
            percent(float(np.mean(found.others))),
            f"{100 * found.mean:+.1f}",
            interval(found.low, found.high),
            percent(found.detectable),
            str(found.values),
        ]
        for found in differences.values()
    ]
    return ["measure", "%", "against", "difference", "95 % interval", "detectable", "values"], rows


def differences_as_dict(differences: Mapping[str, PairedDifference]) -> dict[str, Any]:
    """The differences as plain values, by measure."""
    return {key: vars(found) for key, found in differences.items()}
