"""Two models' detections of one image: which belong together, how their scores differ, and how alike their maps are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whybox.explained import Explained
from whybox.ops.matching import match_well_detected, pairwise_iou
from whybox.ops.similarity import mean_cells, pearson
from whybox.types import Detections

SAME_OBJECT = 0.5
"""From this IoU on, two detections of one class may be of one object."""
CELLS = 64
"""Maps are compared as means over a grid with this many cells along the image's longer side."""
KINDS = {
    "lost": "found before, and not after",
    "new": "found after, and not before",
    "kept": "found by both: its score or its map has moved",
}


@dataclass(frozen=True)
class Pair:
    """A detection of the first model, one of the second, or both, of one object.

    Attributes:
        first: The row among the first model's detections; None where it did not find the object.
        second: The row among the second model's; None where it did not.
        iou: Of their boxes; NaN where there is one.
        correlation: Pearson's, of their maps; NaN where there is one, or a map is constant.
    """

    first: int | None
    second: int | None
    iou: float = float("nan")
    correlation: float = float("nan")


@dataclass(frozen=True)
class Change:
    """An object as the two models see it.

    Attributes:
        image: The image's name.
        kind: One of `KINDS`.
        name: The class.
        before: The first model's score; NaN where it did not find it.
        after: The second model's score; NaN where it did not find it.
        iou: Of the two boxes.
        correlation: Pearson's, of the two maps.
    """

    image: str
    kind: str
    name: str
    before: float
    after: float
    iou: float
    correlation: float

    @property
    def size(self) -> float:
        """How large the change is: 2 and the score where one model alone found it, else what the scores and the correlation of
        the maps have lost."""
        if self.kind != "kept":
            return 2 + (self.after if self.kind == "new" else self.before)
        unlike = 0.0 if math.isnan(self.correlation) else 1 - self.correlation
        return abs(self.after - self.before) + unlike


def match_detections(first: Detections, second: Detections, names: tuple[Sequence[str], Sequence[str]]) -> list[Pair]:
    """Match two models' detections of one image, one to one, by class name and overlap.

    Args:
        first: N detections.
        second: M detections.
        names: Their class names, N and M.

    Returns:
        Pairs in the order of `first`, then what the second model alone has; without correlations.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys((*names[0], *names[1])))}
    labels = [torch.tensor([numbers[name] for name in each], dtype=torch.long) for each in names]
    boxes = [each.boxes.detach().cpu() for each in (first, second)]
    matched = match_well_detected(boxes[0], labels[0], boxes[1], labels[1], iou=SAME_OBJECT - 1e-6, legacy=False).tolist()
    overlap = pairwise_iou(boxes[0], boxes[1])
    pairs = [Pair(i, j, float(overlap[i, j])) if j >= 0 else Pair(i, None) for i, j in enumerate(matched)]
    return [*pairs, *(Pair(None, j) for j in range(len(second)) if j not in matched)]


def compare_explained(first: Explained, second: Explained) -> list[Pair]:
    """Match two models' explanations of one image, and compare the maps of what belongs together.

    Args:
        first: The first model's.
        second: The second model's, with the same method and target.

    Returns:
        As `match_detections`, with correlations.
    """
    pairs = match_detections(first.detections, second.detections, (first.names, second.names))
    both = [(pair.first, pair.second) for pair in pairs if pair.first is not None and pair.second is not None]
    if not both:
        return pairs
    maps = [_cells(each, rows) for each, rows in zip((first, second), zip(*both, strict=True), strict=True)]
    values = iter(pearson(*maps).tolist())
    return [
        pair if pair.first is None or pair.second is None else Pair(pair.first, pair.second, pair.iou, next(values))
        for pair in pairs
    ]


def changes_of(image: str, first: Explained, second: Explained) -> list[tuple[Pair, Change]]:
    """What two models see differently in an image.

    Args:
        image: The image's name.
        first: The first model's explanation.
        second: The second model's, with the same method and target.

    Returns:
        Each matched pair with what it says, the largest change first.
    """
    changes = [(pair, _change(image, (first, second), pair)) for pair in compare_explained(first, second)]
    return sorted(changes, key=lambda entry: -entry[1].size)


def _change(image: str, explained: tuple[Explained, Explained], pair: Pair) -> Change:
    before, after = (
        math.nan if row is None else float(each.detections.scores[row])
        for each, row in zip(explained, (pair.first, pair.second), strict=True)
    )
    kind = "new" if pair.first is None else "lost" if pair.second is None else "kept"
    name = explained[1].names[pair.second or 0] if pair.first is None else explained[0].names[pair.first]
    return Change(image, kind, name, before, after, pair.iou, pair.correlation)


def _cells(explained: Explained, rows: Sequence[int]) -> Tensor:
    return mean_cells(explained.maps[list(rows)].at_image().detach().float().cpu(), CELLS)
