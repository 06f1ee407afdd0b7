"""Zero-shot classification of regions: top-1 and top-5, over all regions and as the mean over classes, things and stuff apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from whybox.accuracy._places import Places, find_places

__all__ = ["DEPTHS", "ClassAccuracy", "Places", "class_accuracy", "mean_over_groups", "rank_classes", "region_accuracy"]

DEPTHS = (1, 5)
"""The published ones."""


@dataclass(frozen=True)
class ClassAccuracy:
    """The accuracy of R regions, 0 to 1; NaN without regions.

    Attributes:
        top1: Share of the regions whose class is the most similar one.
        top5: Share of those whose class is among the five most similar ones.
        macro_top1: Mean over the classes of each class's top-1.
        macro_top5: The same of top-5.
        regions: R.
        classes: The number of classes that have a region.
    """

    top1: float
    top5: float
    macro_top1: float
    macro_top5: float
    regions: int
    classes: int


def rank_classes(similarity: ArrayLike, labels: ArrayLike) -> Places:
    """The place of each region's own class.

    Args:
        similarity: (R,K) of regions and classes.
        labels: (R,) the regions' classes, 0 for the first column.

    Returns:
        R places; equal similarities count as chances.

    Raises:
        ValueError: The shapes do not fit, a label has no column, or a similarity is not finite.
    """
    values, own = np.asarray(similarity), np.asarray(labels, dtype=np.int64)
    if values.ndim != 2 or own.shape != values.shape[:1]:
        raise ValueError(f"expected similarity (R, K) and labels (R,), got {values.shape} and {own.shape}")
    return find_places(values, own[:, None] == np.arange(values.shape[1]))


def mean_over_groups(values: ArrayLike, groups: ArrayLike) -> float:
    """The mean over groups of each group's mean.

    Args:
        values: (n,).
        groups: (n,) by name or number.

    Returns:
        The mean; NaN without values.
    """
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    if not len(numbers):
        return float("nan")
    sums = np.bincount(numbers, np.asarray(values, dtype=np.float64))
    return float((sums / np.bincount(numbers)).mean())


def class_accuracy(places: Places, labels: ArrayLike) -> ClassAccuracy:
    """The accuracy over all regions, and as the mean over classes.

    Args:
        places: Of R regions.
        labels: (R,) their classes.

    Returns:
        The accuracy.
    """
    own = np.asarray(labels, dtype=np.int64)
    first, fifth = (places.hits(depth) for depth in DEPTHS)
    everything = np.zeros(len(own), dtype=np.int64)
    return ClassAccuracy(
        top1=mean_over_groups(first, everything),
        top5=mean_over_groups(fifth, everything),
        macro_top1=mean_over_groups(first, own),
        macro_top5=mean_over_groups(fifth, own),
        regions=len(own),
        classes=len(np.unique(own)),
    )


def region_accuracy(similarity: ArrayLike, labels: ArrayLike, stuff: ArrayLike | None = None) -> dict[str, ClassAccuracy]:
    """The accuracy of all regions, of things and of stuff; all are ranked among all classes.

    Source: the published evaluation code of Wu et al., CLIPSelf, ICLR 2024: the mean over classes, things and stuff apart.

    Args:
        similarity: (R,K) of regions and classes.
        labels: (R,) the regions' classes, 0 for the first column.
        stuff: (K,) bool, which classes are stuff (sky, grass) and no things; None: none.

    Returns:
        By "all", "things" and "stuff".

    Raises:
        ValueError: As for `rank_classes`.
    """
    own = np.asarray(labels, dtype=np.int64)
    places = rank_classes(similarity, own)
    is_stuff = np.zeros(len(own), dtype=bool) if stuff is None else np.asarray(stuff, dtype=bool)[own]
    kinds = {"all": np.ones(len(own), dtype=bool), "things": ~is_stuff, "stuff": is_stuff}
    return {
        kind: class_accuracy(Places(places.above[rows], places.tied[rows], places.own[rows]), own[rows])
        for kind, rows in kinds.items()
    }
