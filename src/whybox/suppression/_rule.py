"""What a rule of duplicate removal is, what it gives, and the loop that those which keep or remove share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

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


Remover = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(a kept row, later rows (m,), their IoU with it (m,)) -> which of them it removes (m,), and the similarity with each (m,)."""


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
        left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        for place, row in enumerate(rows.tolist()):
            if not left[place]:
                continue
            later = place + 1 + left[place + 1 :].nonzero()[:, 0]
            if not len(later):
                break
            others = rows[later]
            overlap = box_iou(boxes[row, None].float(), boxes[others].float())[0]
            removed, alike = removes(row, others, overlap)
            left[later[removed]] = False
            gone = others[removed]
            by[gone], iou[gone], similarity[gone] = row, overlap[removed], alike[removed].float()
    kept = (by < 0).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return Suppressed(kept, scores[kept], by, iou, similarity)


def by_group(scores: Tensor, groups: Tensor) -> Iterator[Tensor]:
    """The rows of each group, highest scores first."""
    order = scores.argsort(descending=True, stable=True)
    for group in torch.unique(groups):
        yield order[groups[order] == group]
