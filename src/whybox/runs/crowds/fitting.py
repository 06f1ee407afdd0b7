"""Fit the weights of the rules `fitted` and `fitted_odam` to annotated images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from whybox.errors import WhyboxError
from whybox.ops.matching import pairwise_iou
from whybox.runs.crowds.candidates import ImageCandidates
from whybox.runs.crowds.comparison import measure_rules, merit
from whybox.suppression.fitted import NEAR, SUPPORTS, Fitted, Floats, box_features, logistic, pair_features
from whybox.suppression.fitted_odam import FittedOdam
from whybox.suppression.odam import unit_rows

POWERS = (0.5, 0.7, 1.0, 1.5, 2.0)
RIDGE = 0.01
"""Of the squared weights of standardized features: a little, so that separable data has a solution."""


@dataclass(frozen=True)
class Pairs:
    """P pairs of the best candidate of an object and another candidate, of its own or of another object.

    Attributes:
        features: (P,F), as `pair_features`.
        same: (P,) 1 where both found the same object.
        scores: (P,) of the other candidate.
    """

    features: Floats
    same: Floats
    scores: Floats


@dataclass(frozen=True)
class Fit:
    """A fitted rule and how well it tells duplicates from neighbors on the images that it was fitted to.

    Attributes:
        rule: The rule.
        pairs: Number of pairs.
        neighbors: How many of them are of two objects.
        auroc: Of the probability of a duplicate, pairs weighted by the other candidate's score.
        iou_auroc: The same of the IoU alone.
        merit: AP - MR + JI on the images.
    """

    rule: Fitted
    pairs: int
    neighbors: int
    auroc: float
    iou_auroc: float
    merit: float


def fit_rule(images: Sequence[ImageCandidates], *, maps: bool = False) -> Fit:
    """Fit a rule to annotated images.

    The first candidate of each object, by score, is what should be kept; its pairs with the object's other candidates are
    duplicates, those with the first candidates of other objects near it are not. A logistic regression learns this, once with
    both kinds of pairs weighing alike and once as they come; of both, and of `POWERS`, those with the highest AP - MR + JI on
    these images are taken. A second regression turns the kept boxes' scores into the probability that they are right.

    Args:
        images: The images; with maps for a rule that compares them.
        maps: Whether the rule compares maps.

    Returns:
        The rule.

    Raises:
        WhyboxError: There is no pair of candidates of one object, or none of two objects that overlap.
    """
    pairs = collect_pairs(images, maps=maps)
    neighbors = int((pairs.same == 0).sum())
    if not neighbors or neighbors == len(pairs.same):
        what = "two overlapping objects of one class that are both found" if not neighbors else "an object with two candidates"
        raise WhyboxError(f"nothing to fit a rule to: none of {len(images)} images has {what}; use more images, or crowds")
    kind = FittedOdam if maps else Fitted
    weights = [_pair_weights(pairs, balanced) for balanced in (True, False)]
    tried: list[Fitted] = [kind(pair=each, power=power) for each in weights for power in POWERS]
    tried = [replace(rule, box=fit_boxes(images, rule)) for rule in tried]
    merits = [merit(sample.measures()) for sample in measure_rules(images, tried)]
    best = int(np.nanargmax(merits))
    values = logistic(pairs.features, tried[best].pair)
    return Fit(
        tried[best],
        len(pairs.same),
        neighbors,
        weighted_auroc(values, pairs.same, pairs.scores),
        weighted_auroc(pairs.features[:, 0], pairs.same, pairs.scores),
        merits[best],
    )


def collect_pairs(images: Sequence[ImageCandidates], *, maps: bool) -> Pairs:
    """The pairs of all images; see `fit_rule`."""
    parts = [part for image in images for part in _pairs(image, maps=maps)]
    if not parts:
        raise WhyboxError(f"nothing to fit a rule to: in none of {len(images)} images a candidate found an object")
    features, same, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Pairs(features, same, scores)


def _pairs(image: ImageCandidates, *, maps: bool) -> Iterator[tuple[Floats, Floats, Floats]]:
    owner = image.owners().numpy()
    found = np.flatnonzero(owner >= 0)
    if not len(found):
        return
    objects, places = np.unique(owner[found], return_index=True)
    # Candidates come with the highest scores first.
    first = dict(zip(objects.tolist(), found[places].tolist(), strict=True))
    firsts = np.array(sorted(first.values()))
    scores, iou = image.scores.double().numpy(), pairwise_iou(image.boxes, image.boxes).double().numpy()
    units = unit_rows(image.maps.float()) if maps and image.maps is not None else None
    for mine, best in first.items():
        twins = np.flatnonzero(owner == mine)
        later = firsts[(firsts > best) & (image.labels[firsts] == image.labels[best]).numpy() & (iou[best, firsts] > NEAR)]
        others = np.concatenate([twins[twins != best], later])
        if not len(others):
            continue
        cosine = None
        if units is not None:
            known = units[torch.as_tensor(others)].ne(0).any(1) & units[best].ne(0).any()
            cosine = (units[torch.as_tensor(others)] @ units[best]).masked_fill(~known, torch.nan).double().numpy()
        features = pair_features(iou[best, others], scores[best], scores[others], cosine)
        yield features, (owner[others] == mine).astype(np.float64), scores[others]


def _pair_weights(pairs: Pairs, balanced: bool) -> tuple[float, ...]:
    # Weighted by the score that is at stake.
    weights = pairs.scores.copy()
    if balanced:
        duplicates = pairs.same == 1
        weights[duplicates] *= weights[~duplicates].sum() / max(weights[duplicates].sum(), 1e-12)
    return fit_logistic(pairs.features, pairs.same, weights)


def fit_boxes(images: Sequence[ImageCandidates], rule: Fitted) -> tuple[float, ...]:
    """Weights of the final score of what a rule without them keeps: whether it is right, as the crowd measures match."""
    rows, right = [], []
    for image in images:
        result = image.apply(replace(rule, box=()))
        features = box_features(*_kept(image, result.rows.numpy(), result.scores.double().numpy()))
        counted = ~image.excused()[result.rows].numpy()
        hits = _hits(image, result.rows.numpy())
        rows.append(features[counted | hits])
        right.append(hits[counted | hits])
    features, targets = np.concatenate(rows), np.concatenate(right).astype(np.float64)
    return fit_logistic(features, targets, np.ones(len(targets)))


def _kept(image: ImageCandidates, rows: NDArray[np.int64], lowered: Floats) -> tuple[Floats, Floats, Floats]:
    """Lowered scores, scores and supports of kept rows."""
    mine = image.labels[rows][:, None] == image.labels
    iou = (pairwise_iou(image.boxes[rows], image.boxes) * mine).double().numpy()
    scores = image.scores.double().numpy()
    supports = np.stack([(iou > least) @ scores for least in SUPPORTS], 1)
    return lowered, scores[rows], supports


def _hits(image: ImageCandidates, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each kept row, highest scores first, is the first that finds its object."""
    iou = image.overlaps()[rows].numpy()
    hits, taken = np.zeros(len(rows), dtype=bool), np.zeros(iou.shape[1], dtype=bool)
    for place in range(len(rows)):
        free = np.where(taken, 0, iou[place])
        if free.size and free.max() > 0.5:
            hits[place], taken[free.argmax()] = True, True
    return hits


def fit_logistic(features: Floats, targets: Floats, weights: Floats, steps: int = 100) -> tuple[float, ...]:
    """Weighted logistic regression by Newton's method, with a small ridge on the standardized features.

    Args:
        features: (n,F); the last column is the constant 1.
        targets: (n,) 0 or 1.
        weights: (n,) of the rows.
        steps: The largest number of steps.

    Returns:
        F weights of the features as they are.
    """
    mean, spread = features[:, :-1].mean(0), features[:, :-1].std(0)
    spread = np.where(spread > 0, spread, 1)
    x = np.concatenate([(features[:, :-1] - mean) / spread, features[:, -1:]], 1)
    row = weights / weights.sum() * len(weights)
    found = np.zeros(x.shape[1])
    for _ in range(steps):
        p = logistic(x, found)
        slope = x.T @ (row * (targets - p)) - RIDGE * found
        curvature = (x * (row * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(found))
        step = np.linalg.solve(curvature, slope)
        # Far from the solution a whole step may overshoot.
        found += step / max(1, np.abs(step).max() / 2)
        if np.abs(step).max() < 1e-9:
            break
    plain = found[:-1] / spread
    return (*map(float, plain), float(found[-1] - plain @ mean))


def weighted_auroc(values: Floats, positive: Floats, weights: Floats) -> float:
    """The probability that a positive has a higher value than a negative, drawn by their weights; ties count half."""
    ranks = rankdata(values, method="dense").astype(np.int64) - 1
    up, down = (np.bincount(ranks, weights * kind, minlength=ranks.max() + 1) for kind in (positive, 1 - positive))
    below = np.cumsum(down) - down / 2
    total = up.sum() * down.sum()
    return float((up * below).sum() / total) if total else float("nan")
