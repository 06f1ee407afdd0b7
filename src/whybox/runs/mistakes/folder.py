"""The folder of a detector's mistakes: all as JSON, their counts, and a page with the heat maps that explain the surest."""

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
from whybox.errors import FATAL, reason_of
from whybox.files import new_folder
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.report.gallery import Card, Tally, View, make_card, write_gallery
from whybox.runs.mistakes.mistake import Mistake, choose
from whybox.runs.mistakes.search import Errors, Search, of_image, rounded
from whybox.truth import DataSet
from whybox.types import Detections, HeatMaps, Trace

PAGE = "index.html"


def keep_errors(
    model: Model, data: DataSet, errors: Errors, out: Path, *, on_progress: OnProgress = no_progress, on_warning: OnWarning
) -> Errors:
    """Write errors.json, counts.csv and the page into the new folder `out`; the errors, with the images that could not
    be explained among `failed`."""
    with new_folder(out) as draft:
        chosen = choose(errors.mistakes, errors.search.top)
        cards, failed = _cards(model, data, errors.search, chosen, on_progress, on_warning)
        known = {name for name, _ in errors.failed}
        errors = replace(errors, failed=errors.failed + tuple(one for one in failed if one[0] not in known))
        (draft / "errors.json").write_text(json.dumps(errors.as_dict(), indent=1, allow_nan=False), encoding="utf-8")
        _write_counts(draft / "counts.csv", errors)
        (draft / PAGE).write_text(_page(errors, cards), encoding="utf-8")
    return errors


def images_of(mistakes: Sequence[Mistake]) -> dict[int, list[Mistake]]:
    """The mistakes by image."""
    groups = defaultdict(list)
    for one in mistakes:
        groups[one.index].append(one)
    return dict(groups)


def _cards(
    model: Model, data: DataSet, search: Search, chosen: Sequence[Mistake], on_progress: OnProgress, on_warning: OnWarning
) -> tuple[list[Card], list[tuple[str, str]]]:
    """A card for each mistake in the order given; its image is read and traced again, so that none has to stay in memory."""
    made: dict[int, Card] = {}
    failed = []
    method = api.make_method(search.method, model, **search.options)
    for index, mistakes in images_of(chosen).items():
        name = mistakes[0].image
        try:
            passed = api.trace(model, data[index].image)
            made |= {id(one): _card(one, passed, views) for one, views in _explain(model, method, passed, mistakes)}
        except FATAL:
            raise
        except Exception as error:
            failed.append((name, reason_of(error)))
            on_warning(of_image(name, reason_of(error)))
        on_progress(name, 1)
    return [made[id(one)] for one in chosen if id(one) in made], failed


def _explain(model: Model, method: Any, passed: Trace, mistakes: Sequence[Mistake]) -> list[tuple[Mistake, list[View]]]:
    """The maps of one image's mistakes: one call for each target that they need."""
    asked = [(one, *ask) for one in mistakes for ask in one.targets()]
    maps: dict[int, HeatMaps] = {}
    for target in dict.fromkeys(_target(method, wanted) for _, _, wanted, _ in asked):
        rows = [i for i, (_, _, wanted, _) in enumerate(asked) if _target(method, wanted) == target]
        found = _together([asked[i][1] for i in rows], passed)
        explained = api.explain(model, passed, method=method, target=target, detections=found)
        maps |= {i: explained.maps[place] for place, i in enumerate(rows)}
    views = defaultdict(list)
    for i, (one, found, wanted, label) in enumerate(asked):
        side = one.worst_side[0]
        views[id(one)].append(View(_label(label, method, wanted), maps[i], found.boxes[0], side))
    return [(one, views[id(one)] or [View("no candidate")]) for one in mistakes]


def _target(method: Any, wanted: str) -> str:
    """What the method can explain: the score, where it cannot explain what is wanted."""
    allowed = method.targets
    return wanted if allowed is None or wanted in allowed else "score"


def _label(label: str, method: Any, wanted: str) -> str:
    return label if _target(method, wanted) == wanted else f"{method.name} explains the score alone"


def _together(found: Sequence[Detections], passed: Trace) -> Detections:
    """Detections as one, on the trace's device."""
    device = passed.candidates.scores.device
    columns = ([getattr(one, name) for one in found] for name in ("boxes", "scores", "labels", "source"))
    return Detections(*(torch.cat(column).to(device) for column in columns))


def _card(one: Mistake, passed: Trace, views: Sequence[View]) -> Card:
    return make_card(
        passed.image,
        views,
        None if one.object is None else one.object.box,
        kind=one.kind,
        title=one.name,
        score="" if one.kind == MISSED else f"{one.score:.2f}",
        sentence=one.sentence(),
        name=one.image,
        note=one.note,
        classes=tuple(dict.fromkeys((one.name, *([one.object.name] if one.object else [])))),
    )


def _page(errors: Errors, cards: Sequence[Card]) -> str:
    counts = errors.counts
    tallies = [Tally(kind, meaning, counts[kind], errors.gains[kind]) for kind, meaning in KINDS.items()]
    total = len(errors.mistakes)
    ap = f"AP50 is {100 * errors.ap50:.1f}; it and what it gains are over all detections, whatever their score. "
    remarks = [
        f"{_count(errors.correct, 'detection')} of score {errors.search.score_threshold:g} or more found their object, "
        f"of {errors.objects} annotated. {ap if math.isfinite(errors.ap50) else ''}Kinds of error after TIDE (ECCV 2020)."
    ]
    if total > len(cards):
        remarks.append(f"{len(cards)} of {total} errors have a card, the surest of each kind; all are in errors.json.")
    if errors.failed:
        remarks.append(f"Not looked at: {', '.join(name for name, _ in errors.failed)}.")
    facts = f"{errors.model} · {errors.data} · {_count(errors.images, 'image')} · {errors.search.method}"
    return write_gallery(cards, tallies, title=f"{_count(total, 'error')}", facts=facts, remarks=remarks)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _write_counts(path: Path, errors: Errors) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["kind", "count", "ap50_gain"])
        for kind, count in errors.counts.items():
            table.writerow([kind, count, "" if (gain := rounded(errors.gains[kind])) is None else gain])
