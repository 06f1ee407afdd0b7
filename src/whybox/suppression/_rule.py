"""What a rule of duplicate removal is, what it gives, and the loop that those which keep or remove share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox.class_checks import check_attributes, check_known
from whybox.errors import WhyboxError

NEEDS = frozenset({"maps", "embeddings"})
"""What a rule may compare beside boxes: heat maps, or learned embeddings."""


@dataclass(frozen=True)
class Vectors:
    """What a rule compares beside boxes.

    Attributes:
        of: Rows (n,) of candidates -> their vectors (n,D): flattened heat maps, or embeddings.
        at_hand: Whether they are computed already; else a rule asks only for those that a decision needs.
    """

    of: Callable[[Tensor], Tensor]
    at_hand: bool = True


@dataclass(frozen=True, eq=False)
class Suppressed:
    """What a rule kept of N candidates, and why it removed the others.

    Attributes:
        rows: (K,) the kept candidates, highest scores first.
        scores: (K,) their scores; a rule may have lowered them.
        by: (N,) the row of the candidate that removed this one; -1 for kept ones.
        iou: (N,) IoU with that candidate; NaN for kept ones.
        similarity: (N,) similarity with that candidate; NaN where none was needed.
    """

    rows: Tensor
    scores: Tensor
    by: Tensor
    iou: Tensor
    similarity: Tensor


class Rule(ABC):
    """A rule of duplicate removal: a frozen dataclass whose fields are its options.

    Attributes:
        name: Its name in the registry, which is its file's name.
        title: Its name as people write it.
        source: Authors, venue, year, equation.
        needs: What it compares beside boxes: "maps", "embeddings", or nothing.
        rescores: Whether it lowers scores.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    title: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    rescores: ClassVar[bool] = False

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse an incomplete or misspelled class before anything runs with it."""
        cls.check_class()
        return super().__new__(cls)

    @classmethod
    def check_class(cls) -> None:
        """Refuse a class that lacks a name, misspells an attribute, or needs what there is not.

        Raises:
            WhyboxError: What is wrong with the class, in one line.
        """
        check_attributes(cls, Rule)
        if not hasattr(cls, "name"):
            raise WhyboxError(f'rule class {cls.__name__} lacks name: add name = "my_rule" to the class')
        check_known(f"rule class {cls.__name__}", "needs", cls.needs, NEEDS)

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, vectors: Vectors | None = None) -> Suppressed:
        """Remove duplicates.

        Args:
            boxes: (N,4) xyxy, finite.
            scores: (N,), finite.
            groups: (N,) integers; candidates of different groups (classes, images) are never compared.
            vectors: Of the maps or embeddings that the rule needs.

        Returns:
            What was kept, and why the others were not.
        """


Remover = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows (b,), later rows (m,), the IoU of each pair (b,m)) -> whether the first would remove the second (b,m), and their
similarity (b,m), NaN where there is none."""

_BLOCK = 256
"""Rows that are compared with all later ones at once."""


def keep_in_order(boxes: Tensor, scores: Tensor, groups: Tensor, removes: Remover) -> Suppressed:
    """Go through the candidates from the highest score down, group by group; each that is left is kept, and removes others.

    Args:
        boxes: (N,4) xyxy.
        scores: (N,). Equal scores are taken in the order of the input, as torchvision does.
        groups: (N,).
        removes: Decides which later candidates a kept one removes.

    Returns:
        What was kept, and why the others were not.
    """
    by = torch.full_like(groups, -1, dtype=torch.long)
    iou = torch.full_like(scores, torch.nan, dtype=torch.float32)
    similarity = iou.clone()
    for rows in by_group(scores, groups):
        # Of the group's rows in this order, which one removed each; -1: none yet.
        taken = np.full(len(rows), -1)
        for start in range(0, len(rows), _BLOCK):
            stop = min(start + _BLOCK, len(rows))
            # Rows that are gone already need not be compared, neither as the first nor as the second of a pair.
            left = np.flatnonzero(taken[start:] < 0) + start
            others = torch.as_tensor(left, device=rows.device)
            mine = others[: int((left < stop).sum())]
            overlap = box_iou(boxes[rows[mine]].float(), boxes[rows[others]].float())
            would, alike = removes(rows[mine], rows[others], overlap)
            pair = _first_removers(would.cpu().numpy(), len(mine))
            gone = torch.as_tensor(np.flatnonzero(pair >= 0), device=rows.device)
            first = torch.as_tensor(pair, device=rows.device)[gone]
            taken[left[gone.cpu().numpy()]] = start
            lost = rows[others[gone]]
            by[lost], iou[lost] = rows[mine[first]], overlap[first, gone]
            similarity[lost] = alike[first, gone].float()
    kept = (by < 0).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return Suppressed(kept, scores[kept], by, iou, similarity)


def _first_removers(would: "np.ndarray[Any, np.dtype[np.bool_]]", count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Which of the first `count` rows removes each of the m rows, in this order: (m,), -1 for none.

    Args:
        would: (count,m) whether row i would remove row j, if it is kept itself.
        count: Rows that may remove others.
    """
    removed = np.full(would.shape[1], -1)
    for row in range(count):
        if removed[row] < 0:
            later = would[row, row + 1 :] & (removed[row + 1 :] < 0)
            removed[row + 1 :][later] = row
    return removed


def by_group(scores: Tensor, groups: Tensor) -> Iterator[Tensor]:
    """The rows of each group, highest scores first."""
    order = scores.argsort(descending=True, stable=True)
    for group in torch.unique(groups):
        yield order[groups[order] == group]
