"""A fitted rule: how much a kept box lowers another's score follows from both scores and their overlap, learned from examples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.rule import Rule, Suppressed, Vectors
from whybox.suppression._in_order import by_group
from whybox.suppression.greedy import check_share

Floats = NDArray[np.float64]

PAIR = ("iou", "iou^2", "log score of the kept box", "log score of the other", "iou * log score of the other", "1")
"""What the probability of a duplicate is computed from."""
PAIR_MAPS = ("cosine", "iou * cosine", "cosine^2")
"""What a rule that compares maps has before the constant."""
BOX = ("log lowered score", "log score", "log support over .5", "log support over .7", "1")
"""What the final score of a kept box is computed from. Its support is the sum of the scores of its class's candidates that
overlap it by more than this, its own among them."""
SUPPORTS = (0.5, 0.7)
NEAR = 0.05
"""Boxes that overlap less are never duplicates."""
_LOWEST = 1e-4
"""Scores below this have its logarithm."""


def pair_features(iou: Floats, kept: Any, other: Floats, cosine: Floats | None = None) -> Floats:
    """The features of pairs of a kept box and another one.

    Args:
        iou: (n,) of each pair.
        kept: (n,) scores of the kept boxes, or the score of one for all.
        other: (n,) scores of the others.
        cosine: (n,) of their maps, NaN where one of them is zero; None: without maps.

    Returns:
        (n,6), or (n,9) with maps.
    """
    first, second = log_scores(kept), log_scores(other)
    columns = [iou, iou**2, np.broadcast_to(first, iou.shape), second, iou * second]
    if cosine is not None:
        # A map of zeros says nothing: in its place stands what boxes of this overlap have on the whole.
        known = np.where(np.isnan(cosine), iou, cosine)
        columns += [known, iou * known, known**2]
    features: Floats = np.stack([*columns, np.ones_like(iou)], -1)
    return features


def box_features(lowered: Floats, scores: Floats, supports: Floats) -> Floats:
    """The features of kept boxes: (n,) lowered and original scores, (n,2) supports -> (n,5)."""
    logs = [log_scores(lowered), log_scores(scores), *np.log(np.maximum(supports, _LOWEST)).T]
    features: Floats = np.stack([*logs, np.ones_like(lowered)], -1)
    return features


def log_scores(scores: Any) -> Floats:
    """Logarithms of scores, those of very low ones cut off."""
    logs: Floats = np.log(np.maximum(scores, _LOWEST))
    return logs


def logistic(features: Floats, weights: Any) -> Floats:
    """Probabilities of a logistic regression."""
    exponents = np.clip(features @ np.asarray(weights, dtype=np.float64), -500, 500)
    probabilities: Floats = 1 / (1 + np.exp(-exponents))
    return probabilities


@dataclass(frozen=True)
class Fitted(Rule):
    """Each kept box multiplies the scores of the others by (1 - p)^power, where p is the probability, by a logistic regression,
    that both found the same object. A second regression may turn what is left into the probability that the box is right.

    As in Soft-NMS, candidates are taken by their lowered scores. The weights come from `whybox fit-nms`, which fits them on
    annotated images; they belong to the detector that they were fitted to.

    Attributes:
        pair: Weights of p, of the features `PAIR`.
        box: Weights of the final score, of the features `BOX`; empty: the lowered scores are the final ones.
        power: Of the factor.
        min_score: A box whose score falls to this or below is removed.
    """

    pair: tuple[float, ...] = ()
    box: tuple[float, ...] = ()
    power: float = 1.0
    min_score: float = 0.01

    name: ClassVar[str] = "fitted"
    title: ClassVar[str] = "Fitted decay"
    source: ClassVar[str] = "whybox; the loop is that of Bodla, Singh, Chellappa, Davis: Soft-NMS, ICCV 2017"
    rescores: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = PAIR

    def __post_init__(self) -> None:
        # Read from a file, they come as lists.
        object.__setattr__(self, "pair", tuple(self.pair))
        object.__setattr__(self, "box", tuple(self.box))
        if len(self.pair) != len(self.features):
            wanted = f"{len(self.features)} weights ({', '.join(self.features)})"
            raise WhyboxError(
                f"rule {self.name!r} needs pair, {wanted}, got {len(self.pair)}: fit it to your detector with `whybox fit-nms`, "
                "and give the file that it writes"
            )
        if len(self.box) not in (0, len(BOX)):
            raise WhyboxError(
                f"rule {self.name!r}: box must be {len(BOX)} weights ({', '.join(BOX)}) or none, got {len(self.box)}"
            )
        if not np.isfinite([*self.pair, *self.box]).all() or self.power <= 0:
            raise WhyboxError(f"rule {self.name!r}: weights must be finite and power greater than 0")
        check_share(self.name, "min_score", self.min_score)

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Lower the scores of boxes that may be duplicates of a kept one of their group."""
        state = Decay(len(boxes))
        # On the CPU: thousands of small steps.
        corners, plain = boxes.detach().double().cpu().numpy(), scores.detach().double().cpu().numpy()
        cosines = self._cosines(boxes, groups, vectors)
        for rows in by_group(scores, groups):
            self._decay(rows.cpu().numpy(), corners, plain, cosines, state)
        kept = np.array(state.kept, dtype=np.int64)
        final = state.lowered[kept]
        if self.box:
            final = logistic(box_features(final, plain[kept], np.reshape(state.supports, (-1, len(SUPPORTS)))), self.box)
        order = np.argsort(-final, kind="stable")
        back = [torch.as_tensor(values).to(boxes.device) for values in (kept[order], final[order], state.by)]
        measured = [torch.as_tensor(values, dtype=torch.float32).to(boxes.device) for values in (state.iou, state.similarity)]
        return Suppressed(back[0], back[1].to(scores.dtype), back[2], *measured)

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """The overlap; how far it lowers a score depends on both scores, too."""
        alike = "" if np.isnan(similarity) else f", {self.compared} {similarity:.2f}"
        lowered = f"IoU {iou:.2f}{alike} and both scores lower its score"
        return f"{lowered}; all together, it fell to {self.min_score:g} or below" if removed else lowered

    def _cosines(self, boxes: Tensor, groups: Tensor, vectors: Vectors | None) -> "Cosines | None":
        """How alike the maps of one box and others are; None: this rule compares boxes and scores alone."""
        return None

    def _decay(self, rows: NDArray[np.int64], boxes: Floats, scores: Floats, cosines: "Cosines | None", state: "Decay") -> None:
        mine, plain = _Boxes(boxes[rows]), scores[rows]
        lowered = plain.copy()
        # A row that starts at or below `min_score` is left out by itself; no box brought it down.
        left = lowered > self.min_score
        while left.any():
            best = int(np.where(left, lowered, -1).argmax())
            left[best] = False
            overlap = mine.iou(best)
            state.kept.append(int(rows[best]))
            state.supports.append([float(plain[overlap > least].sum()) for least in SUPPORTS])
            near = np.flatnonzero((overlap > NEAR) & left)
            if not len(near):
                continue
            cosine = None if cosines is None else cosines(int(rows[best]), rows[near])
            alike = logistic(pair_features(overlap[near], plain[best], plain[near], cosine), self.pair)
            lowered[near] *= (1 - alike) ** self.power
            gone = near[lowered[near] <= self.min_score]
            left[gone] = False
            state.by[rows[gone]], state.iou[rows[gone]] = rows[best], overlap[gone]
            if cosine is not None:
                state.similarity[rows[gone]] = cosine[np.isin(near, gone)]
        state.lowered[rows] = lowered


Cosines = Callable[[int, NDArray[np.int64]], Floats]
"""(a row, other rows (m,)) -> (m,) cosines of their maps, NaN where one is zero everywhere."""


class Decay:
    """The scores of N candidates as they are lowered.

    Attributes:
        lowered: (N,).
        kept: Rows, in the order in which they were kept.
        supports: Of each kept row, as in `SUPPORTS`.
        by: (N,) the row that lowered each to `min_score`; -1: none.
        iou: (N,) IoU with that row.
        similarity: (N,) cosine with that row, where maps are compared.
    """

    def __init__(self, count: int) -> None:
        self.lowered = np.zeros(count)
        self.kept: list[int] = []
        self.supports: list[list[float]] = []
        self.by = np.full(count, -1, dtype=np.int64)
        self.iou = np.full(count, np.nan)
        self.similarity = np.full(count, np.nan)


class _Boxes:
    """Boxes (n,4) xyxy, whose overlaps are asked for one box at a time."""

    def __init__(self, boxes: Floats) -> None:
        # By column, each contiguous: one row of overlaps for every kept box is most of the rule's time.
        self.x1, self.y1, self.x2, self.y2 = np.ascontiguousarray(boxes.T)
        self.areas = (self.x2 - self.x1) * (self.y2 - self.y1)

    def iou(self, row: int) -> Floats:
        """IoU of one box with all: (n,); with itself 1, also where its area is 0."""
        width = np.minimum(self.x2, self.x2[row]) - np.maximum(self.x1, self.x1[row])
        height = np.minimum(self.y2, self.y2[row]) - np.maximum(self.y1, self.y1[row])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = self.areas + self.areas[row] - shared
        result: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        result[row] = 1
        return result
