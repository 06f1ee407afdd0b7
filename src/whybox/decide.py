"""What a rule of duplicate removal decided in an image, pair by pair, with the numbers and the maps behind it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox import api
from whybox.data.images import ImageSource
from whybox.duplicates import Removal, WithNms, as_vectors, drawn_vectors, logit_maps, remove_duplicates, with_nms
from whybox.explained import class_name
from whybox.files import json_text, new_folder
from whybox.model import Model
from whybox.network_state import exclusive
from whybox.prompting import TextPrompt, prompted
from whybox.report.decisions import Crowd, CrowdSheet, make_crowd_sheet, write_decisions
from whybox.rule import Decision, Rule, cosine
from whybox.selection import MOST_DETECTIONS, best, check_selection
from whybox.specs import format_spec
from whybox.suppression.greedy import Greedy
from whybox.targets import class_index
from whybox.types import Detections, HeatMaps, Trace

MOST_PAIRS = 60
"""Pairs of an image that have maps: about a megabyte on the page."""
GREEDY_IOU = 0.5
"""The threshold of the greedy NMS that a rule without one is compared with."""
PAGE = "index.html"
DATA = "decisions.json"


@dataclass(frozen=True, eq=False)
class Decisions:
    """What a rule of duplicate removal decided in an image.

    Attributes:
        image: (3,H,W) in 0..1.
        name: The image's name.
        model: The model's name.
        rule: The rule.
        found: N candidates that the rule got, highest scores first.
        names: N class names.
        kept: (K,) rows of `found`: those that the rule kept and the user's threshold, classes and `top` select.
        scores: (K,) their scores afterwards; a rule may have lowered them.
        pairs: One decision for each candidate that a kept one removed, and for each two kept ones that greedy NMS would take for
            one object. The most telling first: those that greedy NMS decides otherwise, then the best one that each kept box
            removed, then the second ones.
        score_threshold: The user's.
        greedy_iou: The IoU threshold of the greedy NMS that the rule is compared with.
        greedy_kept: How many of the candidates it would keep.
        map_rows: (m,) rows of `found` that have a map: those of the first pairs.
        maps: m ODAM maps of the class logits, which ODAM-NMS compares; for other rules they illustrate. None: no map was drawn.
        cosines: The cosine of the maps of each of the first pairs.
    """

    image: Tensor
    name: str
    model: str
    rule: Rule
    found: Detections
    names: Sequence[str]
    kept: Tensor
    scores: Tensor
    pairs: tuple[Decision, ...]
    score_threshold: float
    greedy_iou: float
    greedy_kept: int
    map_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    maps: HeatMaps | None = None
    cosines: tuple[float, ...] = ()

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(pair.outcome for pair in self.pairs).items())
        return f"<{self.rule.title or self.rule.name}: {len(self.kept)} detections kept; pairs: {counts or 'none'}>"

    @property
    def detections(self) -> Detections:
        """The K detections that are left, with their scores afterwards."""
        chosen = self.found[self.kept]
        return Detections(chosen.boxes, self.scores, chosen.labels, chosen.source)

    def to_dict(self) -> dict[str, Any]:
        """The decisions as plain numbers and text.

        Returns:
            A dict ready for JSON. The kept detection of a pair is an index of "detections".
        """
        place = {row: index for index, row in enumerate(self.kept.tolist())}
        return {
            "image": self.name,
            "model": self.model,
            "rule": self.spec,
            "score_threshold": self.score_threshold,
            "greedy_iou": self.greedy_iou,
            "greedy_keeps": self.greedy_kept,
            "detections": [self._row(row) | {"score": score} for row, score in zip(place, self.scores.tolist(), strict=True)],
            "pairs": [
                {
                    "outcome": pair.outcome,
                    "kept": place[pair.kept],
                    **self._row(pair.other),
                    "iou": pair.iou,
                    "similarity": _finite(pair.similarity),
                    "map_cosine": _finite(self.cosines[index]) if index < len(self.cosines) else None,
                    "greedy_removes": pair.greedy,
                    "why": pair.why,
                }
                for index, pair in enumerate(self.pairs)
            ],
        }

    @property
    def spec(self) -> str:
        """The rule with its settings, as it is written: "odam:iou_threshold=0.5:high=0.8:low=0.2"."""
        return format_spec(self.rule.name, _settings(self.rule))

    def _row(self, row: int) -> dict[str, Any]:
        found = self.found[row]
        return {
            "name": self.names[row],
            "label": int(found.labels),
            "score": float(found.scores),
            "box": found.boxes.reshape(4).tolist(),
            "source": int(found.source),
        }

    def sheet(self) -> CrowdSheet:
        """The image made ready for the page, without its tensors."""
        return make_crowd_sheet(self._crowd())

    def save(self, directory: str | Path) -> Path:
        """Write the page and the numbers into a new folder.

        Args:
            directory: A folder that does not exist, or is empty.

        Returns:
            The page.

        Raises:
            WhyboxError: The folder holds something already.
        """
        return save_decisions([self.sheet()], [self.to_dict()], Path(directory))

    def _crowd(self) -> Crowd:
        return Crowd(
            name=self.name,
            image=self.image,
            model=self.model,
            title=self.rule.title or self.rule.name,
            compared=self.rule.compared if self.rule.needs else "",
            settings=[
                (name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in _settings(self.rule).items()
            ],
            found=self.found,
            names=self.names,
            kept=self.kept.tolist(),
            scores=self.scores.tolist(),
            pairs=self.pairs[: len(self.cosines)] if self.maps is not None else self.pairs[:MOST_PAIRS],
            pair_count=len(self.pairs),
            differ_count=sum(pair.differs for pair in self.pairs),
            map_rows=self.map_rows.tolist(),
            maps=self.maps,
            cosines=self.cosines,
            greedy_iou=self.greedy_iou,
            greedy_kept=self.greedy_kept,
        )


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
        return _drawn(model.inner, trace, told, pairs)


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
    greedy_iou = _greedy_iou(rule)
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


def _greedy_iou(rule: Rule) -> float:
    # Soft-NMS has a threshold that its Gaussian form does not use.
    return float(getattr(rule, "iou_threshold", GREEDY_IOU)) if not rule.rescores else GREEDY_IOU


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
    iou = box_iou(found.boxes[rows].float(), found.boxes[kept].float())
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
    iou = box_iou(found.boxes[rows].float(), found.boxes[others].float())
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


def save_decisions(sheets: Sequence[CrowdSheet], told: Sequence[Mapping[str, Any]], directory: Path, *, remark: str = "") -> Path:
    """Write one page for several images, and their numbers, into a new folder.

    Args:
        sheets: The images on the page.
        told: `to_dict` of every image.
        directory: A folder that does not exist, or is empty.
        remark: A line above the first image.

    Returns:
        The page.

    Raises:
        WhyboxError: The folder holds something already.
    """
    with new_folder(directory) as draft:
        (draft / PAGE).write_text(write_decisions(sheets, remark=remark), encoding="utf-8")
        (draft / DATA).write_text(json_text({"images": list(told)}), encoding="utf-8")
    return directory / PAGE


def _settings(rule: Rule) -> dict[str, Any]:
    settings: dict[str, Any] = asdict(rule)
    return settings


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe_rule(rule: Rule) -> str:
    """A rule with its settings, in words: "ODAM-NMS, iou threshold 0.5, high 0.8, low 0.2"."""
    settings = (f"{name.replace('_', ' ')} {_as_text(value)}" for name, value in _settings(rule).items())
    return ", ".join([rule.title or rule.name, *settings])


def own_rule(model: Model) -> Rule | None:
    """The rule by which a model removes duplicates.

    Args:
        model: A detector.

    Returns:
        The rule of a model of `with_nms`; greedy NMS with the model's own threshold where it is known; else None.
    """
    if isinstance(model, WithNms):
        return model.rule
    network = model.network
    # torchvision's detectors hold it in the network or its heads, the family for plain modules in its options.
    heads, suppression = getattr(network, "roi_heads", None), getattr(model, "suppression", None)
    for holder, name in ((network, "nms_thresh"), (heads, "nms_thresh"), (suppression, "nms_iou")):
        value = getattr(holder, name, None)
        if isinstance(value, int | float) and 0 <= value <= 1:
            return Greedy(float(value))
    return None


def judge(model: Model, trace: Trace, kept: Detections, other: Detections) -> Decision | None:
    """What a model's rule of duplicate removal says about two boxes of a class that it both kept.

    Args:
        model: A detector.
        trace: A trace of it.
        kept: One detection.
        other: Another, with a lower score.

    Returns:
        The decision, with the rows 0 and 1; None where the model's rule is not known.
    """
    rule = own_rule(model)
    if rule is None:
        return None
    both = _joined(_joined(kept, other), trace.detections[:0])
    iou = float(box_iou(both.boxes[:1].float(), both.boxes[1:].float()))
    vectors = drawn_vectors(_inner(model), trace, both, rule)
    alike = math.nan if vectors is None else _similarity(rule, vectors.of(torch.arange(2, device=both.boxes.device)))
    return Decision(0, 1, "kept", iou, alike, iou > _greedy_iou(rule), rule.why(False, iou, alike))


def suppressor(model: Model, trace: Trace, candidate: Detections) -> tuple[int, Decision] | None:
    """The detection that removed a candidate as its duplicate.

    Args:
        model: A detector.
        trace: A trace of it.
        candidate: A candidate that is not among the trace's detections.

    Returns:
        The row of the trace's detections, and the decision, with the rows 0 and 1; None where no detection removed it, where its
        score was too low to be compared, or where the model's rule is not known, or lowers scores instead.
    """
    rule, found = own_rule(model), trace.detections
    candidate = _joined(candidate, found[:0])
    # Better ones of the class, the best first: all of them are kept, so that they do not remove one another.
    better = ((found.labels == candidate.labels) & (found.scores >= candidate.scores)).nonzero()[:, 0]
    if rule is None or rule.rescores or not len(better):
        return None
    # One under the model's own threshold came to no comparison.
    came = _inner(model).unsuppressed(trace)
    if not ((came.source == candidate.source) & (came.labels == candidate.labels)).any():
        return None
    better = better[found.scores[better].argsort(descending=True, stable=True)]
    every = _joined(found[better], candidate)
    result = rule(every.boxes, every.scores, every.labels, drawn_vectors(_inner(model), trace, every, rule))
    by, iou, alike = int(result.by[-1]), float(result.iou[-1]), float(result.similarity[-1])
    if by < 0:
        return None
    return int(better[by]), Decision(0, 1, "removed", iou, alike, iou > _greedy_iou(rule), rule.why(True, iou, alike))


def _inner(model: Model) -> Model:
    return model.inner if isinstance(model, WithNms) else model


def _similarity(rule: Rule, vectors: Tensor) -> float:
    return float(rule.similarity(vectors[:1], vectors[1:]))


def _joined(first: Detections, second: Detections) -> Detections:
    """Two sets of detections, on the device of the second."""
    names = ("boxes", "scores", "labels", "source")
    pairs = ((getattr(first, name), getattr(second, name)) for name in names)
    return Detections(*(torch.cat([a.to(b), b]) for a, b in pairs))
