"""The agreement between people who looked at the same object: the ceiling of a method's agreement with them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whybox.frame import Frame, Size
from whybox.metrics._fixations import DEGREE_PIXELS, fixation_map
from whybox.truth import DataSet, Metric, MetricInput, Truth
from whybox.types import Detections

PEOPLE: Mapping[str, str] = {"leave_one_out": "People: the others, for one", "halves": "People: half, for the other half"}
"""The ways to compare people, with their titles. A map is drawn of the first, and judged by the fixations of the second."""
HALVES = 10
"""Random splits into halves, each judged in both directions."""
CHUNK = 16
"""Maps at image resolution in memory at once."""

Floats = NDArray[np.float64]
Split = tuple[Tensor, Tensor]
"""Which fixations the map is drawn of, and which judge it: bool (F,) each."""


def compares_people(metric: Metric) -> bool:
    """Whether a metric compares a map with fixations alone, so that a map of other people's fixations can be judged by it."""
    return metric.needs == frozenset({"fixations"})


def people_values(
    images: DataSet, objects: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], *, how: str, seed: int = 0
) -> dict[str, Floats]:
    """The agreement between people on each of N objects, by the metrics that judge maps.

    Args:
        images: The data set.
        objects: N objects of an evaluation: "index" of the image, and "annotation".
        metrics: By spec; those that need more than fixations are left out.
        how: A key of `PEOPLE`.
        seed: Of the splits into halves.

    Returns:
        By spec, (N,): NaN for an object that fewer than two people looked at.
    """
    values = {spec: np.full(len(objects), np.nan) for spec, metric in metrics.items() if compares_people(metric)}
    by_image: dict[int, list[int]] = {}
    for row, entry in enumerate(objects):
        by_image.setdefault(int(entry["index"]), []).append(row)
    for index, rows in by_image.items():
        sample = images[index]
        truth, size = sample.truth, (sample.image.height, sample.image.width)
        place = {name: i for i, name in enumerate(truth.ids)}
        for row in rows:
            at = place.get(objects[row]["annotation"])
            points = truth.fixations[at] if at is not None and truth.fixations else None
            names = truth.viewers[at] if at is not None and truth.viewers else None
            if points is None or names is None:
                continue
            splits = list(SPLITS[how](names, _seed(seed, sample.name, truth.ids[at or 0])))
            for spec, of_metric in values.items():
                of_metric[row] = agreement(points, splits, size, metrics[spec])
    return values


def agreement(points: Tensor, splits: Sequence[Split], size: Size, metric: Metric) -> float:
    """The mean agreement of the map of some people with the fixations of others.

    Args:
        points: (F,3) x, y in image pixels and the duration, of all people.
        splits: Whose map is judged by whose fixations.
        size: Of the image, (H, W).
        metric: Judges the maps. Its `sigma_pixels`, if it has one, is the width of the Gaussians of both sides.

    Returns:
        The mean over the splits, NaN without one.
    """
    sigma = float(getattr(metric, "sigma_pixels", DEGREE_PIXELS))
    found = []
    for start in range(0, len(splits), CHUNK):
        part = splits[start : start + CHUNK]
        maps = torch.stack([fixation_map(points[drawn].double(), size, sigma) for drawn, _ in part])
        found.append(metric(maps, _judged([points[judging] for _, judging in part], size)).values.double())
    values = torch.cat(found).numpy() if found else np.empty(0)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _judged(fixations: Sequence[Tensor], size: Size) -> MetricInput:
    """The input of a metric for one map per entry of fixations."""
    count = len(fixations)
    boxes = torch.tensor([[0.0, 0.0, size[1], size[0]]]).expand(count, 4)
    none = torch.zeros(count, dtype=torch.long)
    names = tuple(map(str, range(count)))
    truth = Truth(boxes, none, names, torch.zeros(count, dtype=torch.bool), fixations=tuple(fixations))
    # Metrics that need fixations alone do not look at the image.
    image = torch.zeros((3, 1, 1)).expand(3, *size)
    return MetricInput(
        image, Frame.same(size), Detections(boxes, torch.ones(count), none, none), truth, torch.arange(count), none
    )


def _leave_one_out(names: Sequence[str], seed: int) -> Iterator[Split]:
    """Everybody once: the map of all others, judged by one person."""
    people = dict.fromkeys(names)
    for person in people if len(people) > 1 else ():
        judging = torch.tensor([name == person for name in names])
        yield ~judging, judging


def _halves(names: Sequence[str], seed: int) -> Iterator[Split]:
    """Random halves, both ways; of an odd number, one has a person more."""
    people = list(dict.fromkeys(names))
    if len(people) < 2:
        return
    rng = np.random.default_rng(seed)
    for _ in range(HALVES):
        half = {people[i] for i in rng.permutation(len(people))[: len(people) // 2]}
        first = torch.tensor([name in half for name in names])
        yield first, ~first
        yield ~first, first


SPLITS: Mapping[str, Callable[[Sequence[str], int], Iterator[Split]]] = {"leave_one_out": _leave_one_out, "halves": _halves}


def _seed(seed: int, image: str, annotation: str) -> int:
    """A seed that depends on the object alone, and not on which others are there."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image}/{annotation}".encode()).digest()[:7], "big")
