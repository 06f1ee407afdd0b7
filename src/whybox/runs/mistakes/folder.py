"""The output folder of `whybox errors`: all errors as JSON, their counts, and a page with heat maps for the top errors."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from whybox import api
from whybox.accuracy.tide import KINDS, MISSED
from whybox.duplicates import map_vectors
from whybox.errors import FATAL, reason_of
from whybox.explanation import Explanation
from whybox.files import new_folder
from whybox.model import Model
from whybox.ops.matching import pairwise_iou
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.report.gallery import Card, Tally, View, make_card, write_gallery
from whybox.rule import Decision, cosine
from whybox.runs.mistakes.mistake import Mistake, choose
from whybox.runs.mistakes.search import Errors, of_image, rounded
from whybox.truth import DataSet
from whybox.types import Detections, Trace

PAGE = "index.html"


def keep_errors(
    model: Model, data: DataSet, errors: Errors, out: Path, *, on_progress: OnProgress = no_progress, on_warning: OnWarning
) -> Errors:
    """Write errors.json, counts.csv and the page into the new folder `out`.

    Args:
        model: The detector.
        data: The data set of `errors`.
        errors: The result of `find_errors`.
        out: A new folder; it is written completely or not at all.
        on_progress: Called with an image's name after each image.
        on_warning: Called with a line for each image that could not be explained.

    Returns:
        The errors, with the images that could not be explained added to `failed`.
    """
    with new_folder(out) as draft:
        chosen = choose(errors.mistakes, errors.search.top)
        cards, failed = _cards(model, data, errors, chosen, on_progress, on_warning)
        known = {name for name, _ in errors.failed}
        errors = replace(errors, failed=errors.failed + tuple((name, reason) for name, reason in failed if name not in known))
        (draft / "errors.json").write_text(json.dumps(errors.as_dict(), indent=1, allow_nan=False), encoding="utf-8")
        _write_counts(draft / "counts.csv", errors)
        (draft / PAGE).write_text(_page(errors, cards, draft), encoding="utf-8")
    return errors


def images_of(mistakes: Sequence[Mistake]) -> dict[int, list[Mistake]]:
    """Group mistakes by image.

    Args:
        mistakes: The mistakes.

    Returns:
        Mistakes by the image's index in the data set.
    """
    groups = defaultdict(list)
    for mistake in mistakes:
        groups[mistake.index].append(mistake)
    return dict(groups)


def _cards(
    model: Model, data: DataSet, errors: Errors, chosen: Sequence[Mistake], on_progress: OnProgress, on_warning: OnWarning
) -> tuple[list[Card], list[tuple[str, str]]]:
    """One card per mistake, in the given order. Images are read and traced again, so that none has to stay in memory."""
    # By identity: `==` of mistakes would compare their tensors, which has no single truth value.
    made: dict[int, Card] = {}
    failed = []
    method = api.make_method(errors.search.method, model, **errors.search.options)
    for index, mistakes in images_of(chosen).items():
        name = mistakes[0].image
        try:
            trace = api.trace(model, data[index].image)
            alike = _cosines(model, trace, mistakes)
            made |= {
                id(mistake): _card(mistake, trace, views, _numbers(mistake, alike.get(id(mistake)), errors.suppression))
                for mistake, views in _explain(model, method, trace, mistakes)
            }
        except FATAL:
            raise
        except Exception as error:
            failed.append((name, reason_of(error)))
            on_warning(of_image(name, reason_of(error)))
        on_progress(name, 1)
    return [made[id(mistake)] for mistake in chosen if id(mistake) in made], failed


def _explain(model: Model, method: Any, trace: Trace, mistakes: Sequence[Mistake]) -> list[tuple[Mistake, list[View]]]:
    """The maps of one image's mistakes, with one call per target."""
    requests = [(mistake, *request) for mistake in mistakes for request in mistake.targets()]
    explained: dict[int, Explanation] = {}
    # One call per target and not per mistake, so that its detections are explained in batches.
    for target in dict.fromkeys(_target(method, wanted) for _, _, wanted, _ in requests):
        rows = [i for i, (_, _, wanted, _) in enumerate(requests) if _target(method, wanted) == target]
        detections = _together([requests[i][1] for i in rows], trace)
        result = api.explain(model, trace, method=method, target=target, detections=detections)
        explained |= {i: result[place] for place, i in enumerate(rows)}
    views = defaultdict(list)
    for i, (mistake, found, wanted, label) in enumerate(requests):
        side = mistake.worst_side[0]
        # The other box of a pair, on the map of each.
        other = None if mistake.rival is None else (mistake.found if found is mistake.rival else mistake.rival).boxes[0]
        views[id(mistake)].append(
            View(_label(label, method, wanted), explained[i].maps, found.boxes[0], side, other, explained[i].detections)
        )
    return [(mistake, views[id(mistake)] or [View("no candidate")]) for mistake in mistakes]


def _cosines(model: Model, trace: Trace, mistakes: Sequence[Mistake]) -> dict[int, float]:
    """The cosine of the maps that ODAM-NMS compares, for each mistake, by its identity, that is about two boxes."""
    pairs = {id(mistake): (mistake.found, mistake.rival) for mistake in mistakes if mistake.rival is not None}
    if not pairs or "features" not in model.gives:
        return {}
    found, rivals = (_together([pair[side] for pair in pairs.values()], trace) for side in (0, 1))
    vectors = [map_vectors(model, trace, detections) for detections in (found, rivals)]
    return dict(zip(pairs, cosine(*vectors).tolist(), strict=True))


def _numbers(mistake: Mistake, alike: float | None, rule: str) -> list[tuple[str, str]]:
    """What a card says about two boxes: their IoU, how alike their maps are, and the rule with its thresholds."""
    if mistake.rival is None:
        return []
    iou = float(pairwise_iou(mistake.found.boxes, mistake.rival.boxes))
    numbers = [("IoU of the two", f"{iou:.2f}")]
    if alike is not None and math.isfinite(alike):
        numbers.append(("cosine of their maps", f"{alike:.2f}"))
    return [*numbers, ("duplicate removal", rule)] if rule else numbers


def _target(method: Any, wanted: str) -> str:
    """The wanted target, or the score if the method cannot explain that target."""
    allowed = method.targets
    return wanted if allowed is None or wanted in allowed else "score"


def _label(label: str, method: Any, wanted: str) -> str:
    return label if _target(method, wanted) == wanted else f"{method.name} explains only the score"


def _together(detections: Sequence[Detections], trace: Trace) -> Detections:
    """Concatenate detections, on the trace's device."""
    device = trace.candidates.scores.device
    columns = ([getattr(part, name) for part in detections] for name in ("boxes", "scores", "labels", "source"))
    return Detections(*(torch.cat(column).to(device) for column in columns))


def _card(mistake: Mistake, trace: Trace, views: Sequence[View], numbers: Sequence[tuple[str, str]]) -> Card:
    return make_card(
        trace.image,
        views,
        None if mistake.object is None else mistake.object.box,
        kind=mistake.kind,
        title=mistake.name,
        score="" if mistake.kind == MISSED else f"{mistake.score:.2f}",
        sentence=mistake.sentence(),
        name=mistake.image,
        note=mistake.note,
        decision="" if mistake.decision is None else _decided(mistake.decision),
        numbers=numbers,
        classes=tuple(dict.fromkeys((mistake.name, *([mistake.object.name] if mistake.object else [])))),
    )


def _decided(decision: Decision) -> str:
    return f"{'Removed' if decision.outcome == 'removed' else 'Kept'}: {decision.why}."


def _page(errors: Errors, cards: Sequence[Card], folder: Path) -> str:
    counts = errors.counts
    tallies = [Tally(kind, meaning, counts[kind], errors.gains[kind]) for kind, meaning in KINDS.items()]
    total = len(errors.mistakes)
    ap = f"AP50 is {100 * errors.ap50:.1f}; AP50 and its gains are over all detections, regardless of score. "
    remarks = [
        f"{_count(errors.correct, 'correct detection')} with a score of at least {errors.search.score_threshold:g}, "
        f"{_count(errors.objects, 'annotated object')}. {ap if math.isfinite(errors.ap50) else ''}Error types: TIDE (ECCV 2020)."
    ]
    if total > len(cards):
        remarks.append(f"{len(cards)} of {total} errors have a card, the highest scores of each type; all are in errors.json.")
    remarks += [f"{note}." for note in errors.notes]
    if errors.failed:
        remarks.append(f"Images that failed: {', '.join(name for name, _ in errors.failed)}.")
    facts = f"{errors.model} · {errors.data} · {_count(errors.images, 'image')} · {errors.search.method}"
    return write_gallery(cards, tallies, title=f"{_count(total, 'error')}", facts=facts, folder=folder, remarks=remarks)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _write_counts(path: Path, errors: Errors) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["kind", "count", "ap50_gain"])
        for kind, count in errors.counts.items():
            table.writerow([kind, count, "" if (gain := rounded(errors.gains[kind])) is None else gain])
