"""Resamples of people and, independently, of the items that they answer for.

Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007; McCullagh, "Resampling and exchangeable arrays",
Bernoulli 2000.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def crossed_draws(people: int, items: int, draws: int, seed: int) -> tuple[Floats, Floats]:
    """How often each person and each item is in each resample.

    Args:
        people: Their number P, at least 1.
        items: Their number I, at least 1.
        draws: Number D of resamples.
        seed: Of the draws.

    Returns:
        (D,P) and (D,I); each row sums to P and to I.
    """
    rng = np.random.default_rng(seed)
    of_people, of_items = (rng.multinomial(count, np.full(count, 1 / count), draws) for count in (people, items))
    return of_people.astype(np.float64), of_items.astype(np.float64)


def crossed_sums(sums: Floats, people: Floats, items: Floats) -> Floats:
    """Sums over resamples, in which an answer counts as often as its person times as often as its item was drawn.

    Args:
        sums: (...,P,I), summed over the answers of each person for each item.
        people: (D,P), how often each person is in each resample.
        items: (D,I), how often each item is.

    Returns:
        (...,D).
    """
    total: Floats = ((people @ sums) * items).sum(-1)
    return total
