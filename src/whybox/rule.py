"""The interface of a rule of duplicate removal, what it compares and what it gives."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from whybox.class_checks import check_class, check_known

NEEDS = frozenset({"maps", "embeddings"})
"""What a rule may compare beside boxes: heat maps, or learned embeddings."""

DUPLICATE = "a duplicate"
ANOTHER = "not a duplicate"


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


@dataclass(frozen=True)
class Decision:
    """What became of a candidate that was compared with a kept one of its class.

    Attributes:
        kept: The kept candidate's row among those that the rule got.
        other: The row of the one that was compared with it.
        outcome: "removed" by the kept one; "lowered", its score fell under the user's threshold; or "kept", too.
        iou: Of their boxes.
        similarity: What the rule compared beside the boxes; NaN where there is nothing.
        greedy: Whether greedy NMS would take the two for one object.
        why: The numbers and thresholds that decided, in words.
    """

    kept: int
    other: int
    outcome: Literal["removed", "lowered", "kept"]
    iou: float
    similarity: float
    greedy: bool
    why: str

    @property
    def differs(self) -> bool:
        """Whether greedy NMS would have decided otherwise about these two."""
        return self.greedy == (self.outcome == "kept")


class Rule(ABC):
    """A rule of duplicate removal: a frozen dataclass whose fields are its options.

    Attributes:
        name: Its name in the registry, which is its file's name.
        title: Its name as people write it.
        source: Authors, venue, year, equation.
        needs: What it compares beside boxes: "maps", "embeddings", or nothing.
        rescores: Whether it lowers scores.
        compared: What the similarity of two candidates is, in words.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    title: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    rescores: ClassVar[bool] = False
    compared: ClassVar[str] = "cosine of the maps"

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

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """What the rule compares of pairs of candidates beside their boxes: by default the cosine of their vectors.

        Args:
            first: (n,D) vectors.
            second: (n,D) the vectors of the others.

        Returns:
            (n,), NaN where a vector is zero everywhere.
        """
        return cosine(first, second)

    def why(self, removed: bool, iou: float, similarity: float) -> str:
        """Say why one of two candidates was removed by the other, or was not.

        Args:
            removed: Whether it was.
            iou: Of their boxes.
            similarity: As `similarity` gives it; NaN where there is none.

        Returns:
            A clause with the numbers and thresholds that decided, without a full stop.
        """
        alike = "" if math.isnan(similarity) else f" and {self.compared} {similarity:.2f}"
        return f"IoU {iou:.2f}{alike}: {DUPLICATE if removed else ANOTHER}"


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of pairs of vectors.

    Args:
        first: (n,D).
        second: (n,D).

    Returns:
        (n,), NaN where a vector is zero everywhere.
    """
    # Divided by the largest entry first: the square of a raw gradient map's values may underflow.
    scaled = [values.float() / values.float().abs().amax(1, keepdim=True) for values in (first, second)]
    one, other = (values / values.norm(dim=1, keepdim=True) for values in scaled)
    result: Tensor = (one * other).sum(1)
    return result


def against(value: float, sign: str, threshold: float) -> str:
    """Write a comparison: "0.62 > 0.50"; with more decimals where the two would read the same.

    Args:
        value: The number.
        sign: How it stands to the threshold.
        threshold: The threshold.

    Returns:
        The comparison.
    """
    # As many decimals as the threshold has, and as tell the two apart.
    fits = (d for d in (2, 3, 4) if round(threshold, d) == threshold and f"{value:.{d}f}" != f"{threshold:.{d}f}")
    decimals = next(fits, 4 if value != threshold else 2)
    return f"{value:.{decimals}f} {sign} {threshold:.{decimals}f}"
