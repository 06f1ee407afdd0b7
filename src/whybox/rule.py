"""The interface of a rule of duplicate removal, what it compares and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from whybox.class_checks import check_class, check_known

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
        owner = check_class(cls, Rule, {"name": '"my_rule"'}, {"name": str, "title": str, "source": str, "rescores": bool})
        check_known(owner, "needs", cls.needs, NEEDS)

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
