"""CrowdHuman's measures on a sample of images, and on resamples of it: every image is matched once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import Flags, Numbers, compare_crowd
from whybox.accuracy.jaccard import THRESHOLDS, agreement
from whybox.accuracy.miss_rate import log_average

CROWDED = 0.5
"""An object is crowded if another one of its class overlaps it by more than this."""
POWER = 2.8
"""A true difference of so many standard errors is found, at the level of .05, in four of five samples (1.96 + .84)."""


class CrowdMeasures(NamedTuple):
    """The measures of a sample, 0 to 1; NaN where nothing counts.

    Attributes:
        ap: As `crowd_ap`.
        miss_rate: As `miss_rate`; lower is better.
        jaccard_index: As `jaccard_index`.
        recall: The share of objects that are found by one detection each.
        crowded_recall: The same of the objects that another one of their class overlaps by more than .5.
    """

    ap: float
    miss_rate: float
    jaccard_index: float
    recall: float
    crowded_recall: float


class PairedDifference(NamedTuple):
    """How two samples of the same images differ in a measure.

    Attributes:
        value: The difference of the measures.
        low: The lower end of its 95 % interval.
        high: The upper end.
        detectable: The smallest true difference that such a sample shows in four of five cases.
    """

    value: float
    low: float
    high: float
    detectable: float


class CrowdSample:
    """Detections of a set of images, matched with what is there."""

    def __init__(self, overlap: float = 0.5) -> None:
        """An empty sample.

        Args:
            overlap: A detection is right if its IoU is above this.
        """
        self.overlap = overlap
        self._image: list[int] = []
        self._scores: list[Numbers] = []
        self._hits: list[Flags] = []
        self._people: list[int] = []
        self._agreements: list[list[float]] = []
        self._crowded: list[tuple[int, int]] = []

    def add(self, image: int, detections: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
        """Add one class of one image; the measures take it for an image of its own, resamples draw whole images.

        Args:
            image: The image's number, from 0.
            detections: boxes (N,4) xyxy in image pixels and scores (N,).
            truth: boxes (M,4), size, the image's (H, W), and, optionally, ignore (M,).

        Raises:
            WhyboxError: An entry is missing or invalid.
        """
        compared = next(iter(compare_crowd([detections], [truth], self.overlap)))
        hits = compared.match_greedily()
        counted = hits | ~compared.excused
        self._image.append(image)
        self._scores.append(compared.scores[counted])
        self._hits.append(hits[counted])
        self._people.append(compared.iou.shape[1])
        self._agreements.append([agreement(compared, threshold) for threshold in THRESHOLDS])
        found = np.zeros(compared.iou.shape[1], dtype=bool)
        found[compared.match_heaviest(len(compared.scores))[1]] = True
        crowded = _crowded(truth)
        self._crowded.append((int((found & crowded).sum()), int(crowded.sum())))

    @property
    def images(self) -> int:
        """The number of images, up to the last one that was added."""
        return max(self._image, default=-1) + 1

    def measures(self, counts: NDArray[np.int64] | None = None) -> CrowdMeasures:
        """The measures of a resample.

        Args:
            counts: (images,) how often each image counts; None: once.

        Returns:
            The measures; on the sample itself those of `crowd_ap`, `miss_rate` and `jaccard_index`.
        """
        weights = np.ones(self.images, dtype=np.int64) if counts is None else counts
        weights = weights[np.array(self._image, dtype=np.int64)]
        if not len(weights):
            return CrowdMeasures(*[float("nan")] * 5)
        scores = np.concatenate(self._scores)
        order = np.argsort(-scores, kind="stable")
        times = np.repeat(weights, [len(each) for each in self._scores])[order]
        hits = np.repeat(np.concatenate(self._hits)[order], times)
        people, total = int((np.array(self._people) * weights).sum()), int(weights.sum())
        recalls = np.cumsum(hits) / (people or np.nan)
        precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        last = float(recalls[-1]) if len(recalls) else 0.0 if people else float("nan")
        found, crowded = (np.array(self._crowded) * weights[:, None]).sum(0)
        return CrowdMeasures(
            float((np.diff(recalls) * (precisions[1:] + precisions[:-1]) / 2).sum()) if people else float("nan"),
            log_average(np.cumsum(~hits) / total, 1 - recalls) if people else float("nan"),
            self._jaccard(weights),
            last,
            float(found / crowded) if crowded else float("nan"),
        )

    def _jaccard(self, weights: NDArray[np.int64]) -> float:
        table = np.array(self._agreements)
        counted = ~np.isnan(table)
        totals = (counted * weights[:, None]).sum(0)
        sums = (np.where(counted, table, 0) * weights[:, None]).sum(0)
        means = np.divide(sums, totals, out=np.full(len(totals), np.nan), where=totals > 0)
        return float("nan") if np.isnan(means).all() else float(np.nanmax(means))


def paired_differences(
    one: CrowdSample | Sequence[CrowdSample], other: CrowdSample | Sequence[CrowdSample], *, draws: int = 1000, seed: int = 0
) -> Mapping[str, PairedDifference]:
    """One sample minus another of the same images, with intervals of a bootstrap that draws images.

    Args:
        one: A sample, or one per training seed, whose measures are averaged; all of the same images.
        other: The same for what it is compared with.
        draws: Resamples.
        seed: Of the draws.

    Returns:
        The difference in each measure, by its name.
    """
    ones, others = ([each] if isinstance(each, CrowdSample) else list(each) for each in (one, other))
    count = max(sample.images for sample in (*ones, *others))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        counts = np.bincount(generator.integers(count, size=count), minlength=count)
        drawn.append(mean_measures(ones, counts) - mean_measures(others, counts))
    table = np.array(drawn)
    whole = mean_measures(ones) - mean_measures(others)
    low, high = np.nanquantile(table, [0.025, 0.975], axis=0)
    spread = POWER * np.nanstd(table, axis=0)
    columns = zip(whole, low, high, spread, strict=True)
    return {name: PairedDifference(*map(float, column)) for name, column in zip(CrowdMeasures._fields, columns, strict=True)}


def mean_measures(samples: Sequence[CrowdSample], counts: NDArray[np.int64] | None = None) -> Numbers:
    """(5,) the means of the samples' measures, in the order of `CrowdMeasures`."""
    means: Numbers = np.mean([sample.measures(counts) for sample in samples], axis=0)
    return means


def _crowded(truth: Mapping[str, Any]) -> Flags:
    """Which of the objects that count another one overlaps, (P,)."""
    boxes = np.asarray(truth["boxes"], dtype=np.float64).reshape(-1, 4)
    if "ignore" in truth:
        boxes = boxes[~np.asarray(truth["ignore"], dtype=bool)]
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    shared, areas = sides.clip(0).prod(2), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = shared / (areas[:, None] + areas - shared).clip(1e-9)
    np.fill_diagonal(iou, 0)
    crowded: Flags = (iou > CROWDED).any(1)
    return crowded
