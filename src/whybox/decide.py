"""Explain a duplicate removal: `explain_nms`, and how a removal becomes decisions about pairs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whybox import api
from whybox.data.images import ImageSource
from whybox.decisions import MOST_PAIRS, Decisions, greedy_iou_of
from whybox.duplicates import Removal, WithNms, as_vectors, logit_maps, remove_duplicates, with_nms
from whybox.explained import class_name
from whybox.model import Model
from whybox.network_state import exclusive
from whybox.ops.matching import pairwise_iou
from whybox.prompting import TextPrompt, prompted
from whybox.rule import Decision, Rule, cosine
from whybox.selection import MOST_DETECTIONS, best, check_selection
from whybox.suppression.greedy import Greedy
from whybox.targets import class_index
from whybox.types import Detections, Trace

SHAPES = frozenset({"masks", "keypoints", "corners"})
"""What a model may give of its detections beside boxes."""


def explain_nms(
    model: Any,
    image: ImageSource | Trace,
    nms: str | Rule | None = None,
    *,
    text: TextPrompt | None = None,
    score_threshold: float = 0.3,
    top: int | None = MOST_DETECTIONS,
    classes: Sequence[str | int] = (),
    pairs: int = MOST_PAIRS,
    name: str = "",
) -> Decisions:
    """Ask a rule of duplicate removal why it kept and removed what it did.

    Args:
        model: A name, a module, or a loaded model.
        image: A path, PIL image, numpy (H,W,3) uint8, torch (3,H,W) in 0..1; or a Trace, whose image is traced again.
        nms: A rule ("odam", "greedy:iou_threshold=0.6", a rule object). None: that of a model of `with_nms`, else "odam".
        text: For models that take texts: as for `explain`.
        score_threshold: The lowest score, of what is kept and of the candidates whose removal is told.
        top: The largest number of kept detections that are told of, those with the highest scores. None: 100.
        classes: Names or columns of the classes that are told of; (): all.
        pairs: How many pairs have their maps drawn, the most telling ones.
        name: The image's name, for the page; default: the file's.

    Returns:
        The decisions; `save(folder)` writes the page.

    Raises:
        WhyboxError: The model predicts for the whole image, the rule is unknown, or the model lacks what the rule compares.
    """
    check_selection(score_threshold, top)
    model = api.load(model)
    if nms is not None or not isinstance(model, WithNms):
        model = with_nms(model, "odam" if nms is None else nms)
    model = prompted(model, text)
    given = image.image if isinstance(image, Trace) else image
    title = name or (Path(given).name if isinstance(given, str | Path) else "image")
    columns = [class_index(value, model.classes) for value in classes]
    with exclusive(model.network):
        trace = api.trace(model.inner, given)
        removal = remove_duplicates(model.inner, trace, model.rule, score_threshold)
        told = decisions_of(model, trace, removal, title, score_threshold, MOST_DETECTIONS if top is None else top, columns)
        return _with_shapes(model.inner, trace, _drawn(model.inner, trace, told, pairs))


def decisions_of(
    model: WithNms, trace: Trace, removal: Removal, name: str, score_threshold: float, top: int, classes: Sequence[int] = ()
) -> Decisions:
    """Decisions without maps, from what a rule made of a trace.

    Args:
        model: A model with a rule.
        trace: A trace of its inner model.
        removal: What the rule made of it.
        name: The image's name.
        score_threshold: As for `explain_nms`.
        top: As for `explain_nms`.
        classes: Columns; (): all.

    Returns:
        The decisions.
    """
    rule, found, result = model.rule, removal.found, removal.result
    greedy_iou = greedy_iou_of(rule)
    wanted = torch.ones_like(found.labels, dtype=torch.bool)
    if classes:
        wanted = torch.isin(found.labels, torch.tensor(list(classes), device=found.labels.device))
    rows, scores = result.rows[: len(removal.kept)], removal.kept.scores
    rows, scores = rows[wanted[rows]], scores[wanted[rows]]
    chosen = best(Detections(found.boxes[rows], scores, found.labels[rows], rows), score_threshold, top)
    # Of each candidate, whether it is told of: greedy NMS is given the same ones.
    told = wanted & (found.scores >= score_threshold)
    plain = Greedy(greedy_iou)(found.boxes[told], found.scores[told], found.labels[told]).rows
    kept = chosen.source
    lost = (
        _lowered(removal, rule, kept, told, score_threshold, greedy_iou)
        if rule.rescores
        else _removed(removal, rule, kept, told, greedy_iou)
    )
    pairs = [*lost, *_kept(removal, rule, kept, greedy_iou)]
    return Decisions(
        image=trace.image,
        name=name,
        model=model.name,
        rule=rule,
        found=found,
        names=[class_name(label, model.classes) for label in found.labels.tolist()],
        kept=kept,
        scores=chosen.scores,
        pairs=tuple(telling_first(pairs, found.scores.tolist())),
        score_threshold=score_threshold,
        greedy_iou=greedy_iou,
        greedy_kept=min(len(plain), top),
    )


def _removed(removal: Removal, rule: Rule, kept: Tensor, told: Tensor, greedy_iou: float) -> list[Decision]:
    """The candidates that the rule says were removed by one of `kept`."""
    result = removal.result
    rows = (told & torch.isin(result.by, kept)).nonzero()[:, 0]
    columns = (values[rows].tolist() for values in (result.by, result.iou, result.similarity))
    return [
        Decision(by, row, "removed", iou, similarity, iou > greedy_iou, rule.why(True, iou, similarity))
        for row, by, iou, similarity in zip(rows.tolist(), *columns, strict=True)
    ]


def _kept(removal: Removal, rule: Rule, kept: Tensor, greedy_iou: float) -> list[Decision]:
    """Pairs of kept candidates of a class that greedy NMS would take for one object."""
    first, second, iou = overlapping(removal.found, kept, kept, greedy_iou)
    # Each pair once; the better one, which was kept first, comes first among the candidates.
    once = first < second
    first, second, iou = first[once], second[once], iou[once]
    alike = _similarities(removal, rule, first, second)
    columns = (values.tolist() for values in (first, second, iou, alike))
    return [Decision(a, b, "kept", o, s, True, rule.why(False, o, s)) for a, b, o, s in zip(*columns, strict=True)]


def _lowered(
    removal: Removal, rule: Rule, kept: Tensor, told: Tensor, score_threshold: float, greedy_iou: float
) -> list[Decision]:
    """Candidates whose scores fell under the threshold, each with the better one of `kept` that overlaps it most."""
    found, result = removal.found, removal.result
    after = torch.zeros_like(found.scores)
    after[result.rows] = result.scores.to(after)
    rows = (told & (after < score_threshold)).nonzero()[:, 0]
    iou = pairwise_iou(found.boxes[rows].float(), found.boxes[kept].float())
    iou = iou.masked_fill((found.labels[rows][:, None] != found.labels[kept]) | (rows[:, None] <= kept), 0)
    most, column = iou.max(1) if len(kept) else (iou.sum(1), torch.zeros_like(rows))
    rows, most, column = rows[most > 0], most[most > 0], column[most > 0]
    pairs = []
    for row, by, overlap in zip(rows.tolist(), kept[column].tolist(), most.tolist(), strict=True):
        removed = int(result.by[row]) >= 0
        before, now = (float(values[row]) for values in (found.scores, after))
        fell = (
            "" if removed else f"; all together, it fell from {before:.2f} to {now:.2g}, under the threshold {score_threshold:g}"
        )
        why = f"{rule.why(removed, overlap, math.nan)}{fell}"
        pairs.append(Decision(by, row, "removed" if removed else "lowered", overlap, math.nan, overlap > greedy_iou, why))
    return pairs


def overlapping(found: Detections, rows: Tensor, others: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of one class whose IoU is over a threshold.

    Args:
        found: N candidates.
        rows: (a,) of them.
        others: (b,) of them.
        least: The threshold.

    Returns:
        (p,) of `rows`, (p,) of `others`, and (p,) their IoUs.
    """
    iou = pairwise_iou(found.boxes[rows].float(), found.boxes[others].float())
    hits = ((iou > least) & (found.labels[rows][:, None] == found.labels[others])).nonzero()
    return rows[hits[:, 0]], others[hits[:, 1]], iou[hits[:, 0], hits[:, 1]]


def _similarities(removal: Removal, rule: Rule, first: Tensor, second: Tensor) -> Tensor:
    """What the rule compared of pairs that it kept apart, (p,)."""
    if removal.vectors is None or not len(first):
        return torch.full((len(first),), torch.nan)
    rows, place = torch.unique(torch.cat([first, second]), return_inverse=True)
    vectors = removal.vectors.of(rows)
    return rule.similarity(vectors[place[: len(first)]], vectors[place[len(first) :]])


def telling_first(pairs: Sequence[Decision], scores: Sequence[float]) -> list[Decision]:
    """Order pairs: those that greedy NMS decides otherwise; then the best candidate of each kept one, then its second ...

    Args:
        pairs: The pairs.
        scores: Of every candidate.

    Returns:
        The pairs in the order in which they are shown.
    """
    ordered = sorted(pairs, key=lambda pair: (-scores[pair.other], pair.kept))
    seen: Counter[int] = Counter()
    ranks = []
    for pair in ordered:
        ranks.append((not pair.differs, 0 if pair.differs else seen[pair.kept]))
        seen[pair.kept] += not pair.differs
    return [pair for _, pair in sorted(zip(ranks, ordered, strict=True), key=lambda entry: entry[0])]


def _drawn(model: Model, trace: Trace, told: Decisions, pairs: int) -> Decisions:
    """The decisions with the maps of the first pairs."""
    first = told.pairs[:pairs]
    if not first or "features" not in model.gives:
        return told
    rows = sorted({row for pair in first for row in (pair.kept, pair.other)})
    device = told.found.labels.device
    with torch.inference_mode(False):
        maps = logit_maps(model, trace, told.found[torch.tensor(rows, device=device)])
    vectors = as_vectors(maps)
    place = {row: index for index, row in enumerate(rows)}
    mine, theirs = torch.tensor([(place[pair.kept], place[pair.other]) for pair in first]).T
    cosines = cosine(vectors[mine], vectors[theirs]).tolist()
    return replace(told, map_rows=torch.tensor(rows), maps=maps, cosines=tuple(cosines))


def _with_shapes(model: Model, trace: Trace, told: Decisions) -> Decisions:
    """The decisions with the masks, keypoints or corners of what the page shows."""
    if not model.gives & SHAPES:
        return told
    rows = torch.tensor(told.page_rows, dtype=torch.long, device=told.found.labels.device)
    return replace(told, shapes=model.complete(trace, told.found[rows]))
