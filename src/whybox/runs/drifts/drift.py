"""Two models on the same images: what one alone finds, and how far scores and maps of the others have moved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from whybox import api
from whybox.data.images import ImageSource
from whybox.drift import KINDS, Change, Pair, changes_of
from whybox.errors import FATAL, WhyboxError
from whybox.explanation import Explanation
from whybox.files import json_text, new_folder
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.report.gallery import Card, Tally, View, make_card, write_gallery

PAGE = "index.html"


class Images(Protocol):
    """Images by number.

    Attributes:
        names: Their names.
    """

    names: Sequence[str]

    def source(self, index: int) -> ImageSource:
        """What `read_image` reads."""
        ...


@dataclass(frozen=True)
class Drift:
    """The outcome.

    Attributes:
        folder: The folder with the page and drift.json.
        images: How many images were compared.
        changes: Everything that either model found, the largest change first.
        failed: (name, reason in one line) of each image that could not be compared.
    """

    folder: Path
    images: int
    changes: tuple[Change, ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many changes there are of each kind."""
        return {kind: sum(change.kind == kind for change in self.changes) for kind in KINDS}

    @property
    def correlation(self) -> float:
        """The mean correlation of the maps of what both models found; NaN where there is none."""
        values = [change.correlation for change in self.changes if not math.isnan(change.correlation)]
        return sum(values) / len(values) if values else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return {
            "images": self.images,
            "counts": self.counts,
            "correlation": self.correlation,
            "changes": [{**asdict(change), "size": change.size} for change in self.changes],
            "failed": [{"image": name, "error": error} for name, error in self.failed],
        }


def find_drift(
    models: Mapping[str, Model],
    images: Images,
    out: Path,
    *,
    method: str | None = None,
    target: str | None = None,
    score_threshold: float = 0.3,
    limit: int | None = None,
    top: int = 60,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> Drift:
    """Compare two models on images, into a new folder.

    Args:
        models: The model before and the model after, by name.
        images: The images.
        out: A new folder.
        method: The method; None: the first model's default.
        target: The target; None: the first model's default.
        score_threshold: Minimum score of a detection.
        limit: Only the first images.
        top: How many changes have a card on the page.
        on_progress: Called with an image's name after each image.
        on_warning: Called with a line for each image that cannot be compared.

    Returns:
        The changes.

    Raises:
        WhyboxError: The folder is not new, or method, target or models do not fit one another.
    """
    before, after = models.values()
    settings: dict[str, Any] = {"method": method or before.default_method, "target": target or before.default_target}
    settings["score_threshold"] = score_threshold
    changes: list[Change] = []
    cards: list[tuple[float, Card]] = []
    failed: list[tuple[str, str]] = []
    count = len(images.names[:limit])
    with new_folder(out) as draft:
        for index, name in enumerate(images.names[:limit]):
            try:
                source = images.source(index)
                explained = [api.explain(model, source, **settings, name=name) for model in (before, after)]
            # Before the others, because these are WhyboxErrors, too: the next image would fail alike.
            except FATAL:
                raise
            except WhyboxError as error:
                failed.append((name, str(error)))
                on_warning(str(error) if name in str(error) else f"{name}: {error}")
            else:
                for pair, change in changes_of(name, *explained):
                    changes.append(change)
                    # A card is a picture: only those are made that may come onto the page.
                    if len(cards) < top or change.size > cards[-1][0]:
                        cards.append((change.size, _card(change, explained, pair, list(models))))
                        cards.sort(key=lambda entry: -entry[0])
                        del cards[top:]
            on_progress(name, 1)
        changes.sort(key=lambda change: -change.size)
        drift = Drift(out, count - len(failed), tuple(changes), tuple(failed))
        (draft / "drift.json").write_text(json_text({"models": list(models), **settings, **drift.as_dict()}), encoding="utf-8")
        (draft / PAGE).write_text(_page(drift, [card for _, card in cards], list(models), settings, draft), encoding="utf-8")
    return drift


def _card(change: Change, explained: Sequence[Explanation], pair: Pair, names: Sequence[str]) -> Card:
    views = [
        View(f"{name}, {score:.2f}", each.maps[row], each.detections.boxes[row], shape=each.detections[row])
        for name, each, row, score in zip(names, explained, (pair.first, pair.second), (change.before, change.after), strict=True)
        if row is not None
    ]
    kept = f"Score {change.before:.2f}, then {change.after:.2f}; correlation of the maps {change.correlation:.2f}."
    sentence = kept if change.kind == "kept" else f"{KINDS[change.kind].capitalize()}."
    return make_card(
        explained[0].image,
        views,
        None,
        kind=change.kind,
        title=change.name,
        sentence=sentence,
        name=change.image,
        classes=(change.name,),
    )


def _page(drift: Drift, cards: Sequence[Card], names: Sequence[str], settings: Mapping[str, Any], folder: Path) -> str:
    tallies = [Tally(kind, meaning, drift.counts[kind], math.nan) for kind, meaning in KINDS.items()]
    remarks = []
    if not math.isnan(drift.correlation):
        remarks.append(f"Maps of what both models found correlate by {drift.correlation:.3f} in the mean.")
    if len(drift.changes) > len(cards):
        remarks.append(f"{len(cards)} of {len(drift.changes)} detections have a card; all are in drift.json.")
    if drift.failed:
        remarks.append(f"Images that failed: {', '.join(name for name, _ in drift.failed)}.")
    many = f"{drift.images} image{'s' * (drift.images != 1)}"
    facts = f"{names[0]}, then {names[1]} · {many} · {settings['method']}, {settings['target']}"
    words = {"kinds": "kind of change", "order": "largest changes first", "empty": "Neither model finds anything."}
    return write_gallery(cards, tallies, title="What has changed", facts=facts, folder=folder, remarks=remarks, **words)
