"""Does distillation help? COCO's measures of detectors that were trained in several ways with the same seeds.

    python -m benchmarks.distillation --arm "student alone=DIR1,DIR2,..." --arm "fgd=DIR1,DIR2,..." --data scenes:count=400
        [--baseline "student alone"] [--against NAME ...] [--areas 2000 3300] [--out FILE]

An arm is one recipe: folders that `whybox train` or `whybox distill` wrote, one per seed, the seeds in the same order in every
arm. An arm of a single folder among longer ones, as a teacher, is listed and not compared. The data must be images that none of
them was trained on: "scenes:..." draws scenes that training never uses.

COCO calls an object small below 32 x 32 pixels and large from 96 x 96 on, which are the default. Of the objects in scenes of
320x240 these limits call 5 % small and 4 % large; `--areas 2000 3300`, in square pixels, parts them into thirds. An object's area
is that of its box. The output says the limits and how many objects each size has.

Printed, in points: each arm's mean over the seeds and their standard deviation; then, for the baseline and each `--against`, the
other arms' differences from it over the seeds, with the 95 % interval of the paired t-test, and the smallest true difference that
such a study would see in four of five repetitions. Intervals are not corrected for their number.

With `--out` the tables are written to FILE, and each detector's measures to FILE.scores.json: a rerun evaluates only what is new.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import whybox
from whybox import zoo
from whybox.accuracy.coco import AREAS
from whybox.errors import WhyboxError
from whybox.files import json_text, write_whole
from whybox.report.table import markdown_line
from whybox.runs.statistics import SeedDifference, seed_difference
from whybox.training.detector_scores import evaluate
from whybox.training.examples import Example, examples_of

MEASURES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP small": "ap_small",
    "AP medium": "ap_medium",
    "AP large": "ap_large",
    "AR100": "recall",
}
"""Titles of the columns, and the fields of `CocoAP` that they show."""
Scores = Mapping[str, float | None]
Arms = Mapping[str, Sequence[Scores]]
NONE = "none"


def parse_arms(texts: Sequence[str]) -> dict[str, list[str]]:
    """The folders of each arm, from texts "NAME=DIR1,DIR2"."""
    arms: dict[str, list[str]] = {}
    for text in texts:
        name, equals, folders = text.partition("=")
        found = [folder.strip() for folder in folders.split(",") if folder.strip()]
        if not equals or not name or not found:
            raise WhyboxError(f"--arm takes NAME=DIR1,DIR2,..., got {text!r}")
        if name in arms:
            raise WhyboxError(f"--arm {name!r} is given twice")
        arms[name] = found
    seeds = max(map(len, arms.values()))
    for name, members in arms.items():
        if len(members) not in (1, seeds):
            raise WhyboxError(f"--arm {name!r} has {len(members)} folders; expected {seeds}, one per seed, or a single one")
    return arms


def compared_with(arms: Mapping[str, Sequence[Any]], baseline: str | None, against: Sequence[str]) -> list[str]:
    """The arms that others are compared with, each once; without a baseline the first one."""
    names = list(dict.fromkeys([baseline or next(iter(arms)), *against]))
    seeds = max(map(len, arms.values()))
    for name in names:
        if name not in arms:
            raise WhyboxError(f"no arm is called {name!r}; there are {', '.join(arms)}")
        if len(arms[name]) != seeds:
            raise WhyboxError(f"arm {name!r} has one folder and others {seeds}: they cannot be paired")
    return names


def score(folder: str, data: Any, examples: Sequence[Example], areas: tuple[float, float]) -> dict[str, float | None]:
    """The measures of one detector, 0 to 1; None where there is nothing to find."""
    loaded = zoo.load(folder)
    if loaded.classes != tuple(data.classes):
        theirs, ours = ", ".join(loaded.classes), ", ".join(data.classes)
        raise WhyboxError(f"{folder} detects {theirs}; the data's classes are {ours}: both must be the same")
    found = evaluate(loaded.network, examples, data.classes, areas=areas)
    values = {field: getattr(found, field) for field in MEASURES.values()}
    return {field: value if math.isfinite(value) else None for field, value in values.items()}


def score_all(folders: Sequence[str], data: Any, areas: tuple[float, float], file: Path | None) -> dict[str, Scores]:
    """The measures by folder; those that the file has already, of the same network, data and areas, are not computed again."""
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    examples = examples_of(data, range(len(data)))
    scores: dict[str, Scores] = {}
    for place, folder in enumerate(folders, start=1):
        about = {"network": _digest(Path(folder)), "data": data.name, "digest": getattr(data, "digest", ""), "areas": list(areas)}
        earlier = kept.get(folder, {})
        if {name: earlier.get(name) for name in about} != about:
            print(f"{place} of {len(folders)}: {folder}", file=sys.stderr, flush=True)
            kept[folder] = {**about, "scores": score(folder, data, examples, areas)}
            if file:
                write_whole(file, (json_text(kept) + "\n").encode())
        scores[folder] = kept[folder]["scores"]
    return scores


def _digest(folder: Path) -> str:
    """A text that changes with the weights and with what is built around them."""
    weights, card = folder / "model.safetensors", folder / "card.json"
    # The card is written last.
    if not (weights.is_file() and card.is_file()):
        raise WhyboxError(f"{folder} holds no trained detector: give folders of finished `whybox train` or `whybox distill`")
    arguments = json.dumps(json.loads(card.read_text(encoding="utf-8"))["arguments"], sort_keys=True)
    return hashlib.sha256(weights.read_bytes() + arguments.encode()).hexdigest()


def means(arms: Arms) -> str:
    """The table of every arm's mean and standard deviation over the seeds, in points."""
    lines = [markdown_line(["arm", "seeds", *MEASURES]), markdown_line(["---"] * (2 + len(MEASURES)))]
    for name, seeds in arms.items():
        lines.append(markdown_line([name, str(len(seeds)), *(_mean(_column(seeds, field)) for field in MEASURES.values())]))
    return "\n".join(lines)


def differences(arms: Arms, reference: str) -> str:
    """The table of the other arms' paired differences from one of them, in points."""
    head = [f"minus {reference}", *MEASURES]
    lines = [markdown_line(head), markdown_line(["---"] * len(head))]
    for name, seeds in arms.items():
        if name != reference and len(seeds) == len(arms[reference]):
            pairs = ((_column(seeds, field), _column(arms[reference], field)) for field in MEASURES.values())
            lines.append(markdown_line([name, *(_difference(seed_difference(*pair)) for pair in pairs)]))
    return "\n".join(lines)


def _column(seeds: Sequence[Scores], field: str) -> Any:
    """One measure of every seed, in points; NaN where there is nothing to find."""
    return 100 * np.array([seed[field] for seed in seeds], dtype=np.float64)


def _mean(values: Any) -> str:
    if np.isnan(values).all():
        return NONE
    known = values[~np.isnan(values)]
    return f"{known.mean():.1f} ± {known.std(ddof=1):.1f}" if len(known) > 1 else f"{known.mean():.1f}"


def _difference(found: SeedDifference) -> str:
    if math.isnan(found.mean):
        return NONE
    if math.isnan(found.low):
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], seen: {found.detectable:.2f}"


def tables(arms: Arms, references: Sequence[str]) -> str:
    """All tables as Markdown."""
    return "\n\n".join([means(arms), *(differences(arms, name) for name in references)])


def sizes(examples: Sequence[Example], areas: tuple[float, float]) -> str:
    """A line on how many objects are small, medium and large."""
    sides = np.concatenate([(item.boxes[:, 2:] - item.boxes[:, :2])[~item.iscrowd] for item in examples])
    counts = np.histogram(sides.prod(1), [0, *areas, np.inf])[0]
    kinds = ", ".join(f"{count} {kind}" for count, kind in zip(counts, ("small", "medium", "large"), strict=True))
    return f"{len(examples)} images; objects: {kinds} (limits {areas[0]:g} and {areas[1]:g} square pixels)"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", action="append", required=True, metavar="NAME=DIR1,DIR2,...")
    parser.add_argument("--data", required=True, help="scenes:..., coco:FOLDER:split=val, or another data set")
    parser.add_argument("--baseline", help="the arm that all are compared with; default: the first one")
    parser.add_argument("--against", action="append", default=[], help="a further arm that the others are compared with")
    parser.add_argument("--areas", nargs=2, type=float, default=AREAS, metavar=("SMALL", "LARGE"), help="square pixels")
    parser.add_argument("--out", type=Path, help="the file for the tables")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        folders = parse_arms(options.arm)
        references = compared_with(folders, options.baseline, options.against)
        small, large = options.areas
        data, areas = whybox.open_data(options.data), (small, large)
        file = options.out and options.out.with_name(f"{options.out.name}.scores.json")
        scores = score_all([folder for seeds in folders.values() for folder in seeds], data, areas, file)
        text = tables({name: [scores[folder] for folder in seeds] for name, seeds in folders.items()}, references)
        text = f"{options.data}: {sizes(examples_of(data, range(len(data))), areas)}\n\n{text}\n"
    except WhyboxError as error:
        sys.exit(f"benchmarks.distillation: {error}")
    print(text)
    if options.out:
        write_whole(options.out, text.encode())


if __name__ == "__main__":
    main()
