"""Which objects a study asks about: balanced over classes and sizes, drawn with a seed."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from whybox.study.design import Candidate

SIZES = ("small", "medium", "large")


def size_bounds(areas: Sequence[float]) -> tuple[float, float]:
    """The areas that divide objects into three equal parts.

    Args:
        areas: Of all objects, in parts of their image.

    Returns:
        The largest area of a small object, and of a medium one.
    """
    low, high = np.quantile(np.asarray(areas, np.float64), [1 / 3, 2 / 3])
    return float(low), float(high)


def size_of(area: float, bounds: tuple[float, float]) -> str:
    """The size of an object.

    Args:
        area: In parts of its image.
        bounds: As of `size_bounds`.

    Returns:
        "small", "medium" or "large".
    """
    return SIZES[sum(area > bound for bound in bounds)]


def balanced(
    candidates: Sequence[Candidate], count: int, bounds: tuple[float, float], rng: np.random.Generator
) -> list[Candidate]:
    """Draw objects: first equally many of each class, within a class equally many of each size and kind, as far as there are.

    Args:
        candidates: All objects.
        count: How many to draw at most.
        bounds: As of `size_bounds`.
        rng: For the draw.

    Returns:
        The drawn ones, in the order in which they were drawn: any part of it is balanced, too.
    """
    groups: dict[str, dict[tuple[str, str], list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for i in rng.permutation(len(candidates)):
        groups[candidates[i].label][size_of(candidates[i].area, bounds), candidates[i].kind].append(candidates[i])
    queues = {label: _by_turns(cells, rng) for label, cells in groups.items()}
    labels = [sorted(queues)[i] for i in rng.permutation(len(queues))]
    drawn: list[Candidate] = []
    while len(drawn) < count and any(queues.values()):
        drawn += [queues[label].pop(0) for label in labels if queues[label]]
    return drawn[:count]


def _by_turns(cells: dict[tuple[str, str], list[Candidate]], rng: np.random.Generator) -> list[Candidate]:
    """The cells' objects, one of each cell, then the next of each."""
    names = sorted(cells)
    order = [names[i] for i in rng.permutation(len(names))]
    longest = max(map(len, cells.values()))
    return [cells[name][i] for i in range(longest) for name in order if i < len(cells[name])]
