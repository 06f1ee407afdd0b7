"""Which rule of duplicate removal is best in crowds: settings chosen on one part of the images, reported on another.

    python -m benchmarks.crowds --group NAME=DETECTOR@DATA[+DETECTOR@DATA ...][,... ...] [--validation 60] [--out FILE]

A group is one recipe. Detectors joined by "," are its training seeds: all see the same images, and their measures are averaged.
Detectors joined by "+" are its folds: each sees images of its own, and what they find is pooled. Of every detector's images the
first `--validation` choose each rule's settings, by AP - MR + JI, and fit the fitted rules; the others are reported on.

Printed, per group: how well IoU, cosine of the maps, and fitted combinations tell an object's other candidates from its
neighbors (AUROC, pairs weighted by the other candidate's score); CrowdHuman's AP, miss rate (MR), Jaccard index (JI) and recall,
also of the objects that another one overlaps by more than .5; the differences from greedy NMS with its best threshold, with 95 %
intervals of a bootstrap over images, and the smallest difference that would be seen in four of five such samples.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import whybox
from whybox.accuracy.crowd_sample import CrowdMeasures, CrowdSample, mean_measures, paired_differences
from whybox.duplicates import make_rule
from whybox.report.table import markdown_line
from whybox.rule import Rule
from whybox.runs.crowds.candidates import ImageCandidates, collect_candidates
from whybox.runs.crowds.comparison import by_class, choose, settings_of
from whybox.runs.crowds.fitting import Pairs, collect_pairs, fit_boxes, fit_rule, weighted_auroc
from whybox.suppression.fitted import Fitted, logistic

BEST = "greedy, best threshold"
MOST = 300
"""Candidates per image, those with the highest scores."""
STEEP = 1e6
TITLES = ("AP", "MR", "JI", "recall", "recall, crowded")


def rules_of(images: Sequence[ImageCandidates]) -> dict[str, Rule]:
    """The compared rules, with what was chosen and fitted on these images."""
    greedy: Any = choose(images, settings_of("greedy"))
    rules: dict[str, Rule] = {"greedy, .5": make_rule("greedy"), BEST: greedy}
    rules["soft, best"] = choose(images, settings_of("soft"))
    if images[0].embeddings is not None:
        rules |= {"feature, paper": make_rule("feature"), "feature, best": choose(images, settings_of("feature"))}
    rules |= {"odam, paper": make_rule("odam"), "odam, best": choose(images, settings_of("odam"))}
    # A step at the best threshold is greedy NMS; its kept boxes then get the second regression's scores.
    step = Fitted(pair=(STEEP, 0, 0, 0, 0, -STEEP * greedy.iou_threshold))
    rules["greedy, best, scores fitted"] = replace(step, box=fit_boxes(images, step))
    for maps in (False, True):
        fitted = fit_rule(images, maps=maps).rule
        rules |= {f"{fitted.name}, decay alone": replace(fitted, box=()), fitted.name: fitted}
    return rules


def read(name: str, validation: int) -> tuple[list[ImageCandidates], list[ImageCandidates]]:
    """The images to choose on and to report on: "DETECTOR@DATA"."""
    model, _, data = name.partition("@")
    network = whybox.load(model)
    opened = whybox.open_data(data)
    images = list(collect_candidates(network, opened, maps=True, most=MOST, on_warning=lambda line: print(line, file=sys.stderr)))
    return images[:validation], images[validation:]


def auroc(found: Mapping[str, tuple[Pairs, Pairs]], rules: Mapping[str, Rule]) -> Iterator[str]:
    """Lines of the table of AUROC, pairs of all overlaps and those over .5."""
    (pairs, with_maps) = found["test"]
    columns = {
        "IoU": pairs.features[:, 0],
        "cosine of the maps": with_maps.features[:, 5],
        "IoU and scores (`fitted`)": logistic(pairs.features, rules["fitted"].pair),  # type: ignore[attr-defined]
        "IoU, scores and cosine (`fitted_odam`)": logistic(with_maps.features, rules["fitted_odam"].pair),  # type: ignore[attr-defined]
    }
    for title, values in columns.items():
        cells = [f"{weighted_auroc(values[rows], pairs.same[rows], pairs.scores[rows]):.3f}" for rows in _overlaps(pairs)]
        yield markdown_line([title, *cells])


def _overlaps(pairs: Pairs) -> list[Any]:
    return [pairs.features[:, 0] > least for least in (0, 0.3, 0.5)]


def report(name: str, members: Sequence[str], validation: int) -> str:
    """The tables of one group; members: seeds, each "DETECTOR@DATA+DETECTOR@DATA"."""
    samples: dict[str, list[CrowdSample]] = {}
    chosen: dict[str, list[str]] = {}
    told = []
    for seed, member in enumerate(members):
        start = 0
        for fold in member.split("+"):
            images, others = read(fold, validation)
            rules = rules_of(images)
            for title, rule in rules.items():
                mine = samples.setdefault(title, [])
                if len(mine) == seed:
                    mine.append(CrowdSample())
                for number, image in enumerate(others):
                    for detections, truth in by_class(image, image.apply(rule)):
                        mine[seed].add(start + number, detections, truth)
                chosen.setdefault(title, []).append(_settings(rule))
            start += len(others)
            found = {"test": (collect_pairs(others, maps=False), collect_pairs(others, maps=True))}
            pairs = found["test"][0]
            counts = ", ".join(f"{int((pairs.same[rows] == 0).sum())} of {int(rows.sum())}" for rows in _overlaps(pairs))
            told += [f"\n{fold}: pairs of two objects, of all, IoU over .3, IoU over .5: {counts}\n"]
            told += [markdown_line(["AUROC of duplicates", "all", "IoU over .3", "IoU over .5"]), markdown_line(["---"] * 4)]
            told += auroc(found, rules)
    lines = [f"\n## {name}: seeds {len(members)}, images to report on {start}", *told, ""]
    lines += [markdown_line(["rule", *TITLES]), markdown_line(["---"] * 6)]
    for title, mine in samples.items():
        gains = {} if title == BEST else paired_differences(mine, samples[BEST])
        cells = []
        for field, value in zip(CrowdMeasures._fields, mean_measures(mine), strict=True):
            more = ""
            if field in gains and np.isfinite(value):
                gain = gains[field]
                more = f" ({100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}])"
            cells.append(f"{100 * value:.1f}{more}" if np.isfinite(value) else "none")
        lines.append(markdown_line([title, *cells]))
    for one, other in (("fitted_odam", "fitted"), ("fitted", BEST), ("odam, best", BEST)):
        gains = paired_differences(samples[one], samples[other])
        words = [
            f"{title} {100 * gain.value:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}], seen: {100 * gain.detectable:.1f}"
            for title, gain in zip(TITLES, gains.values(), strict=True)
        ]
        lines.append(f"\n{one} - {other}: {'; '.join(words)}")
    lines += ["", *(f"{title}: {'; '.join(settings)}" for title, settings in chosen.items())]
    return "\n".join(lines)


def _settings(rule: Rule) -> str:
    names = {"greedy": ("iou_threshold",), "soft": ("sigma",), "odam": ("iou_threshold", "high", "low")}
    names |= {"feature": ("low", "high", "distance")}
    return ", ".join(f"{name} {getattr(rule, name):g}" for name in names.get(rule.name, ("power",)))


def main() -> None:
    """Print the tables of all groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", action="append", required=True)
    parser.add_argument("--validation", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(divide="ignore", invalid="ignore")
    texts = []
    for group in arguments.group:
        name, _, members = group.partition("=")
        texts.append(report(name, members.split(","), arguments.validation))
        print(texts[-1], flush=True)
        if arguments.out:
            arguments.out.write_text("\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
