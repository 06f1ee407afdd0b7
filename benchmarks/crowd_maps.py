"""Which maps tell an object's other candidates from its neighbors, beside IoU and scores.

    python -m benchmarks.crowd_maps DETECTOR@DATA [--validation 60]

Of the candidates of every image, pairs as `whybox fit-nms` learns from: the best candidate of an object with its others, and
with the best ones of objects that overlap it. A logistic regression of IoU and both scores is fitted on the first `--validation`
images, alone and with the similarity of each kind of map; printed is the AUROC on the other images, pairs weighted by the other
candidate's score, for pairs of all overlaps, over .3, and over .5.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

import whybox
from whybox.methods import Odam
from whybox.report.table import markdown_line
from whybox.runs.crowds.candidates import ImageCandidates, collect_candidates
from whybox.runs.crowds.fitting import Pairs, collect_pairs, fit_logistic, weighted_auroc
from whybox.suppression.fitted import logistic
from whybox.suppression.odam import unit_rows
from whybox.targets import find_target
from whybox.types import Detections, HeatMaps

SIDES = ("x1", "y1", "x2", "y2")


def odam_maps(model: Any, trace: Any, found: Detections, target: str) -> HeatMaps:
    """ODAM's maps of a target; of R-CNNs at the pooled features."""
    method = Odam(layer="roi") if "roi" in model.gives else Odam()
    maps: HeatMaps = method(model, trace, found, [find_target(target, model.classes)])[0]
    return maps


def vectors_of(maps: HeatMaps, stride: int) -> Tensor:
    """Maps on a grid of so many network pixels per cell, as vectors of length 1."""
    height, width = maps.frame.network
    return unit_rows(maps.resized((ceil(height / stride), ceil(width / stride))).detach().flatten(1))


def channels_of(model: Any, trace: Any, found: Detections) -> Tensor:
    """(n,C) the products of features and gradient, summed over the grid instead of the channels."""
    rows, layer = [], "roi" if "roi" in model.gives else None
    target = find_target("logit", model.classes)
    for pullback in model.pullbacks(trace, found, layer, "auto"):
        for positions, part in pullback.gradients(target):
            products = (part.clipped().activation() * part.clipped().gradient).sum((-2, -1))
            rows += list(zip(pullback.rows[positions].tolist(), products.detach(), strict=True))
    return unit_rows(torch.stack([vector for _, vector in sorted(rows, key=lambda row: row[0])]))


def kinds(model: Any, trace: Any, found: Detections) -> dict[str, Tensor]:
    """Vectors of every kind; their products are compared."""
    logit = odam_maps(model, trace, found, "logit")
    sides = [vectors_of(odam_maps(model, trace, found, side), 16) for side in SIDES]
    return {
        "class maps, 16 pixels per cell": vectors_of(logit, 16),
        "class maps, 8 pixels per cell": vectors_of(logit, 8),
        # Their product is the mean of the four cosines.
        "maps of the four sides": torch.cat(sides, 1) / 2,
        "feature x gradient, pooled over the grid": channels_of(model, trace, found),
    }


def images_of(name: str) -> Iterator[tuple[ImageCandidates, dict[str, Tensor]]]:
    """The candidates of every image and their vectors."""
    model_name, _, data_name = name.partition("@")
    model, data = whybox.load(model_name), whybox.open_data(data_name)
    found = collect_candidates(model, data, maps=False, most=300, on_warning=print)
    for image, sample in zip(found, (data[index] for index in range(len(data))), strict=True):
        trace = whybox.trace(model, sample.image)
        rows = model.unsuppressed(trace)
        rows = rows[rows.scores.argsort(descending=True, stable=True)[:300]]
        yield image, kinds(model, trace, rows)


def pairs_with(images: Sequence[tuple[ImageCandidates, dict[str, Tensor]]], kind: str | None) -> Pairs:
    """The pairs of these images, with the cosine of one kind of vectors or without."""
    if kind is None:
        return collect_pairs([image for image, _ in images], maps=False)
    return collect_pairs([replace(image, maps=vectors[kind]) for image, vectors in images], maps=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector")
    parser.add_argument("--validation", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = list(images_of(arguments.detector))
    first, others = images[: arguments.validation], images[arguments.validation :]
    print(markdown_line(["IoU, both scores, and", "all", "IoU over .3", "IoU over .5"]))
    print(markdown_line(["---"] * 4))
    for kind in (None, *images[0][1]):
        learned, told = pairs_with(first, kind), pairs_with(others, kind)
        values = logistic(told.features, fit_logistic(learned.features, learned.same, learned.scores))
        chosen = [told.features[:, 0] > least for least in (0, 0.3, 0.5)]
        cells = [f"{weighted_auroc(values[rows], told.same[rows], told.scores[rows]):.4f}" for rows in chosen]
        print(markdown_line([kind or "nothing else", *cells]))


if __name__ == "__main__":
    main()
