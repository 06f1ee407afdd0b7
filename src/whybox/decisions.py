"""What a rule of duplicate removal decided in an image, pair by pair, with the numbers and the maps behind it; its page."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whybox.files import json_text, new_folder
from whybox.report.decisions import Crowd, CrowdSheet, make_crowd_sheet, rows_on_page, write_decisions
from whybox.rule import Decision, Rule
from whybox.specs import format_spec
from whybox.types import Detections, HeatMaps

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
        shapes: The candidates of `page_rows` with masks, keypoints or corners, where the model gives such.
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
    shapes: Detections | None = None

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

    @property
    def page_rows(self) -> list[int]:
        """Rows of `found` that the page shows."""
        return rows_on_page(self.kept.tolist(), self._page_pairs())

    def _page_pairs(self) -> tuple[Decision, ...]:
        return self.pairs[: len(self.cosines)] if self.maps is not None else self.pairs[:MOST_PAIRS]

    def _crowd(self) -> Crowd:
        return Crowd(
            name=self.name,
            image=self.image,
            model=self.model,
            title=self.rule.title or self.rule.name,
            compared=self.rule.compared if self.rule.needs else "",
            settings=[(name, _as_text(value)) for name, value in _settings(self.rule).items()],
            found=self.found,
            names=self.names,
            kept=self.kept.tolist(),
            scores=self.scores.tolist(),
            pairs=self._page_pairs(),
            pair_count=len(self.pairs),
            differ_count=sum(pair.differs for pair in self.pairs),
            map_rows=self.map_rows.tolist(),
            maps=self.maps,
            cosines=self.cosines,
            greedy_iou=self.greedy_iou,
            greedy_kept=self.greedy_kept,
            shapes=self.shapes,
        )


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
    if isinstance(value, tuple):
        # The weights of a fitted rule fill lines; decisions.json has them.
        return f"{len(value)} weights"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe_rule(rule: Rule) -> str:
    """A rule with its settings, in words: "ODAM-NMS, iou threshold 0.5, high 0.8, low 0.2"."""
    settings = (f"{name.replace('_', ' ')} {_as_text(value)}" for name, value in _settings(rule).items())
    return ", ".join([rule.title or rule.name, *settings])


def greedy_iou_of(rule: Rule) -> float:
    """The threshold of the greedy NMS that a rule is compared with: its own, where it has one that it uses."""
    # Soft-NMS has a threshold that its Gaussian form does not use.
    return float(getattr(rule, "iou_threshold", GREEDY_IOU)) if not rule.rescores else GREEDY_IOU
