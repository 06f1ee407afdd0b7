"""Where the right answers of queries stand among all answers, with ties counted as chances."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = 2**24
"""Entries of a table in memory at once."""


@dataclass(frozen=True)
class Places:
    """The places of the best right answer of Q queries.

    Attributes:
        above: (Q,) wrong answers with a higher similarity.
        tied: (Q,) wrong answers with the same similarity.
        own: (Q,) right answers with this similarity, at least 1.
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    own: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.above)

    def hits(self, count: int) -> Floats:
        """The chance that a right answer is among the first ones, if equal similarities come in a random order.

        Args:
            count: How many answers are looked at.

        Returns:
            (Q,) 0 or 1; a fraction only where a tie decides.
        """
        seats, equal = count - self.above, self.tied + self.own
        missed = np.ones(len(self))
        # Each right answer in turn gets none of the seats: drawn without replacement.
        for turn in range(int(self.own.max(initial=0))):
            left = equal - turn
            share = np.clip((left - seats) / np.maximum(left, 1), 0, 1)
            missed = np.where(turn < self.own, missed * share, missed)
        return np.where(seats <= 0, 0.0, 1 - missed)


def find_places(similarity: ArrayLike, right: ArrayLike) -> Places:
    """Find the best right answer of every query.

    Args:
        similarity: (Q,A) of each query with each answer.
        right: (Q,A) bool, which answers are right; at least one of each query.

    Returns:
        The places.

    Raises:
        ValueError: The shapes differ, a similarity is not finite, or a query has no right answer.
    """
    values, known = np.asarray(similarity), np.asarray(right, dtype=bool)
    if values.ndim != 2 or known.shape != values.shape:
        raise ValueError(f"expected similarity and right of one shape (Q, A), got {values.shape} and {known.shape}")
    # A comparison with NaN is false: NaN would be a hit.
    if not np.isfinite(values).all():
        raise ValueError("a similarity is NaN or infinite")
    if not known.any(1).all():
        raise ValueError(f"query {int(np.flatnonzero(~known.any(1))[0])} has no right answer")
    # In slices: of 5000 images and 25,000 captions each of the tables below would take hundreds of MB.
    step = max(1, BLOCK // max(1, values.shape[1]))
    parts = [_counts(values[start : start + step], known[start : start + step]) for start in range(0, len(values), step)]
    table = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), dtype=np.int64)
    return Places(table[0], table[1], table[2])


def _counts(values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(3,Q) wrong answers above and at the best right one, and right ones there."""
    best = np.where(known, values, -np.inf).max(1, keepdims=True)
    counts = [part.sum(1) for part in (~known & (values > best), ~known & (values == best), known & (values == best))]
    return np.stack(counts).astype(np.int64)
