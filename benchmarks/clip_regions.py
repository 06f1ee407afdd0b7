"""What fine-tuning gave an image-text model and what it cost: several arms, each trained with several seeds, beside a baseline.

    python -m benchmarks.clip_regions --arm NAME=DIR1,DIR2,DIR3 [--arm ...] --baseline NAME_or_DIR --data DATA [--out FILE]

A DIR is a folder that `whybox score-clip --out` wrote, or else a model, which is scored on --data now (in --work, so that a
second run goes on). The runs of an arm are its training seeds, in one order in every arm: run i is compared with run i of the
baseline; where an arm or the baseline has one run, that with each.

Printed as Markdown: the mean over the seeds of every measure, in percent; then for each arm the paired differences from the
baseline with two 95 % intervals. That over images says how sure the difference of these trained models is; that over seeds
(Student's t) whether another training would show it. Beside them the smallest true difference that four of five such studies
would have found, by images and by seeds.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from whybox.errors import WhyboxError
from whybox.files import file_stem, write_whole
from whybox.report.table import markdown_line
from whybox.runs.clip_scores.compare import PairedDifference, compare_scores
from whybox.runs.clip_scores.folder import MARK
from whybox.runs.clip_scores.score import score_clip
from whybox.runs.clip_scores.scores import ClipScores, Values, percent, read_scores

MEASURES = {
    "boxes_top1": "boxes top-1",
    "boxes_top5": "boxes top-5",
    "boxes_macro_top1": "boxes macro",
    "masks_top1": "masks top-1",
    "masks_top5": "masks top-5",
    "masks_macro_top1": "masks macro",
    "masks_things_top1": "masks, things",
    "masks_stuff_top1": "masks, stuff",
    **{f"{way}_r{depth}": f"{way.upper()} R@{depth}" for way in ("t2i", "i2t") for depth in (1, 5, 10)},
    "classification_top1": "classification top-1",
}
"""The columns; those that no run has are left out."""


def read_run(place: str, data: str, limit: int | None, work: Path) -> ClipScores:
    """The scores in a folder, or of a model that is scored now.

    Args:
        place: The folder, or the model's name.
        data: The data set to score a model on.
        limit: Images of it.
        work: Where the scores of models are kept.
    """
    if (Path(place) / MARK).is_file():
        kept = read_scores(place)
        return ClipScores(kept.folder, kept.images[:limit])
    out = work / f"{file_stem(place)[-40:]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    return score_clip(place, data, limit=limit, out=out, on_warning=lambda line: print(line, file=sys.stderr))


def read_arms(texts: Sequence[str]) -> dict[str, list[str]]:
    """The places of each arm's runs, from NAME=DIR1,DIR2."""
    arms = {}
    for text in texts:
        name, equals, places = text.partition("=")
        runs = [place.strip() for place in places.split(",") if place.strip()]
        if not equals or not name.strip() or not runs:
            raise WhyboxError(f"--arm {text!r}: expected NAME=DIR1,DIR2,DIR3")
        if name.strip() in arms:
            raise WhyboxError(f"--arm {name.strip()!r} is given twice")
        arms[name.strip()] = runs
    return arms


def report(arms: Mapping[str, Sequence[ClipScores]], baseline: str) -> str:
    """The tables.

    Args:
        arms: The runs of each arm and of the baseline.
        baseline: Its name among them.

    Returns:
        Markdown.
    """
    compared = {name: compare_scores(runs, arms[baseline]) for name, runs in arms.items() if name != baseline}
    tables = {name: [run.values() for run in runs] for name, runs in arms.items()}
    shown = [key for key in MEASURES if any(key in table for runs in tables.values() for table in runs)]
    first = arms[baseline][0]
    lines = [f"Data: {first.mark['data']}, {len(first.images)} images. Templates: {_templates(first)}.", ""]
    if other := {_templates(run) for runs in arms.values() for run in runs} - {_templates(first)}:
        lines += [f"Some runs have other templates: {' / '.join(sorted(other))}. Differences are of these, too.", ""]
    lines += ["Means over the seeds, in percent.", ""]
    titles = [MEASURES[key] for key in shown]
    lines += [markdown_line(["arm", "seeds", *titles]), markdown_line(["---"] * (len(shown) + 2))]
    for name, runs in tables.items():
        cells = [percent(_mean_of(runs, key)) for key in shown]
        lines.append(markdown_line([name, str(len(runs)), *cells]))
    for name, found in compared.items():
        lines += ["", *_differences(name, baseline, found)]
    return "\n".join(lines) + "\n"


def _mean_of(tables: Sequence[Mapping[str, Values]], key: str) -> float:
    means = [table[key].mean().mean for table in tables if key in table]
    return float(np.mean(means)) if means else math.nan


def _differences(name: str, baseline: str, found: Mapping[str, PairedDifference]) -> Iterator[str]:
    seeds = len(next(iter(found.values())).ones)
    yield f"**{name} - {baseline}**, in points, {seeds} seed{'s' * (seeds != 1)}"
    yield ""
    heads = ["measure", "difference", "95 %, images", "95 %, seeds", "detectable, images", "detectable, seeds", "values"]
    yield markdown_line(heads)
    yield markdown_line(["---"] * len(heads))
    for key, title in MEASURES.items():
        if key in found:
            each = found[key]
            ends = [_ends(each.low, each.high), _ends(each.seeds_low, each.seeds_high)]
            least = [percent(each.detectable), percent(each.seeds_detectable)]
            yield markdown_line([title, f"{100 * each.mean:+.1f}", *ends, *least, str(each.values)])


def _ends(low: float, high: float) -> str:
    """An interval of a difference; bold where it does not hold 0."""
    if not math.isfinite(low):
        return "-"
    text = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"**{text}**" if low > 0 or high < 0 else text


def _templates(run: ClipScores) -> str:
    return "; ".join(f"“{text}”" for text in run.mark["templates"]) or "the model's prompts"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", action="append", required=True, help="NAME=DIR1,DIR2,DIR3; can be repeated")
    parser.add_argument("--baseline", required=True, help="the name of an arm, or a folder or model")
    parser.add_argument("--data", default="scenes:count=200", help="what models are scored on that are no folder of scores")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--work", type=Path, default=Path("clip-regions"), help="where their scores are kept")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        arms = read_arms(arguments.arm)
        baseline = arguments.baseline
        if baseline not in arms:
            arms = {baseline: [baseline], **arms}
        read = {
            name: [read_run(place, arguments.data, arguments.limit, arguments.work) for place in places]
            for name, places in arms.items()
        }
        text = report(read, baseline)
    except WhyboxError as error:
        sys.exit(f"clip_regions: {error}")
    print(text, end="")
    if arguments.out:
        write_whole(arguments.out, text)


if __name__ == "__main__":
    main()
