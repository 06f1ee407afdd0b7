"""Which rule of duplicate removal is best in crowds: thresholds chosen on one part of the data, reported on another.

    python -m benchmarks.crowds --model DIR [--model DIR ...] [--images 60] [--data scenes:variant=crowd]

For every model the candidates of all images and their maps are computed once. Every rule is then tried with each of its settings
on the validation part; the setting with the highest AP - MR + JI is taken to the test part. Printed: CrowdHuman's AP, miss rate
(MR), Jaccard index (JI) and recall, also of the objects that another object of their class overlaps by more than .5; and the
differences from greedy NMS with its best threshold, with 95 % intervals of a bootstrap over test images. Each class of an image
counts as an image. Also: how well a pair's IoU, similarity, or both tell duplicates from neighbors (AUROC).
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

import whybox
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.accuracy.jaccard import jaccard_index
from whybox.accuracy.miss_rate import miss_rate
from whybox.duplicates import make_rule, map_vectors
from whybox.rule import Vectors

MEASURES = ("AP", "MR", "JI", "recall", "recall over .5")
MOST = 300
"""Candidates per image, those with the highest scores."""
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "greedy": {"iou_threshold": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)},
    "soft": {"sigma": (0.05, 0.1, 0.2, 0.3, 0.5), "min_score": (0.01,)},
    "odam": {"iou_threshold": (0.4, 0.5, 0.6, 0.7), "low": (0.1, 0.2, 0.3, 0.5, 0.7), "high": (0.7, 0.8, 0.9, 1.5)},
}


@dataclass(frozen=True)
class Case:
    """One image.

    Attributes:
        boxes: (N,4) candidates, best first.
        scores: (N,).
        labels: (N,).
        vectors: (N,D) their maps.
        truth: (G,4) boxes of the objects.
        classes: (G,) their score columns.
        size: (H, W).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    vectors: Tensor
    truth: Tensor
    classes: Tensor
    size: tuple[int, int]


def cases(model: Any, data: Any) -> Iterator[Case]:
    """The candidates and objects of every image."""
    for sample in (data[i] for i in range(len(data))):
        trace = whybox.trace(model, sample.image)
        found = model.unsuppressed(trace)
        found = found[found.scores.argsort(descending=True, stable=True)[:MOST]]
        columns = sample.truth.labels + model.first_column
        vectors = map_vectors(model, trace, found).half()
        yield Case(found.boxes, found.scores, found.labels, vectors, sample.truth.boxes, columns, trace.frame.image)


def outputs(images: Sequence[Case], rule: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the rule keeps and what there is, once per image and class that has objects or detections."""
    pairs = []
    for case in images:
        units = case.vectors.float()
        result = rule(case.boxes, case.scores, case.labels, Vectors(units.__getitem__))
        for label in torch.unique(torch.cat([case.classes, case.labels])).tolist():
            rows = case.labels[result.rows] == label
            kept = {"boxes": case.boxes[result.rows][rows].numpy(), "scores": result.scores[rows].numpy()}
            pairs.append((kept, {"boxes": case.truth[case.classes == label].numpy(), "size": case.size}))
    return pairs


def measured(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    """The measures of many images."""
    kept, truths = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ap = crowd_ap(kept, truths)
    values = (
        ap.ap,
        miss_rate(kept, truths).log_average,
        jaccard_index(kept, truths).index,
        ap.recall,
        _crowded_recall(pairs),
    )
    return dict(zip(MEASURES, values, strict=True))


def _crowded_recall(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> float:
    """The recall of objects that another one of their class overlaps by more than .5, each found by a detection of its own."""
    from scipy.optimize import linear_sum_assignment

    hits = total = 0
    for kept, truth in pairs:
        objects = torch.as_tensor(truth["boxes"])
        crowded = (box_iou(objects, objects) - torch.eye(len(objects)) > 0.5).any(1).numpy()
        iou = box_iou(torch.as_tensor(kept["boxes"]), objects).numpy() if len(objects) else np.zeros((0, 0))
        rows, columns = linear_sum_assignment(-np.where(iou > 0.5, iou, 0))
        hits += sum(crowded[column] and iou[row, column] > 0.5 for row, column in zip(rows, columns, strict=True))
        total += int(crowded.sum())
    return hits / total if total else float("nan")


def merit(values: Mapping[str, float]) -> float:
    """What settings are chosen by."""
    return values["AP"] - values["MR"] + values["JI"]


def best_setting(name: str, images: Sequence[Case]) -> Any:
    """The rule with its best setting on the validation part."""
    grid = GRIDS[name]
    rules = [
        make_rule(name, **dict(zip(grid, values, strict=True)))
        for values in product(*grid.values())
        if _valid(name, grid, values)
    ]
    return max(rules, key=lambda rule: merit(measured(outputs(images, rule))))


def _valid(name: str, grid: Mapping[str, Any], values: Sequence[Any]) -> bool:
    options = dict(zip(grid, values, strict=True))
    return name != "odam" or options["low"] <= options["high"]


def differences(pairs: Any, others: Any, draws: int = 300) -> dict[str, tuple[float, float, float]]:
    """Rule minus reference: the difference of each measure, and its 95 % interval from a bootstrap over image-class pairs."""
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(draws):
        drawn = generator.integers(len(pairs), size=len(pairs))
        one, other = (measured([each[i] for i in drawn]) for each in (pairs, others))
        samples.append([one[name] - other[name] for name in MEASURES])
    whole, reference = measured(pairs), measured(others)
    low, high = np.nanquantile(np.array(samples), [0.025, 0.975], axis=0)
    return {name: (whole[name] - reference[name], low[i], high[i]) for i, name in enumerate(MEASURES)}


def pair_features(images: Sequence[Case], least: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """IoU and map similarity of pairs of candidates that overlap by more than `least`, and whether both found the same object."""
    rows, same = [], []
    for case in images:
        iou = box_iou(case.boxes, case.boxes)
        units = torch.nn.functional.normalize(case.vectors.float(), dim=1)
        alike = units @ units.T
        truth = box_iou(case.boxes, case.truth) * (case.labels[:, None] == case.classes)
        best, owner = truth.max(1) if case.truth.numel() else (torch.zeros(len(iou)), torch.zeros(len(iou), dtype=torch.long))
        sure = (best > 0.5) & (case.scores > 0.1)
        pair = (iou > least) & sure[:, None] & sure & (case.labels[:, None] == case.labels)
        i, j = pair.triu(1).nonzero().unbind(1)
        rows.append(torch.stack([iou[i, j], alike[i, j]], 1))
        same.append(owner[i] == owner[j])
    return torch.cat(rows).numpy(), torch.cat(same).numpy()


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive has a higher value than a negative."""
    from scipy.stats import rankdata

    ranks, count = rankdata(values), int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def logistic(features: np.ndarray, positive: np.ndarray, steps: int = 200) -> np.ndarray:
    """Weights of a logistic regression with a constant, by Newton's method."""
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(x @ weights)))
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(weights)), x.T @ (positive - p))
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def report(name: str, model: Any, validation: Any, test: Any) -> None:
    """Print the tables of one model."""
    chosen_on, reported_on = list(cases(model, validation)), list(cases(model, test))
    features, same = pair_features(chosen_on)
    weights = logistic(features, same)
    later, later_same = pair_features(reported_on)
    scores = {"IoU": later[:, 0], "similarity": later[:, 1], "both": later @ weights[:2]}
    for title, rows in (("all", later[:, 0] > 0), ("IoU > .5", later[:, 0] > 0.5)):
        told = ", ".join(f"{key} {auroc(values[rows], later_same[rows]):.3f}" for key, values in scores.items())
        print(f"{name}: AUROC of duplicates, {title} ({int(rows.sum())} pairs, {later_same[rows].mean():.0%} duplicates): {told}")
    reference = best_setting("greedy", chosen_on)
    base = outputs(reported_on, reference)
    for rule in (
        make_rule("greedy"),
        reference,
        best_setting("soft", chosen_on),
        make_rule("odam"),
        best_setting("odam", chosen_on),
    ):
        pairs = outputs(reported_on, rule)
        values = "  ".join(f"{key} {100 * value:.1f}" for key, value in measured(pairs).items())
        print(f"{name}: {rule}: {values}")
        if rule is not reference:
            gains = differences(pairs, base)
            print(
                "    "
                + "  ".join(
                    f"{key} {100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for key, (d, low, high) in gains.items()
                )
            )


def main() -> None:
    """Print the tables of all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--data", default="scenes:variant=crowd")
    parser.add_argument("--images", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    validation, test = (whybox.open_data(f"{arguments.data}:count={arguments.images}:seed={seed}") for seed in (501, 502))
    for name in arguments.model:
        report(name, whybox.load(name), validation, test)


if __name__ == "__main__":
    main()
