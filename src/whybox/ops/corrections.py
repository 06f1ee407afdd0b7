"""Correction of p-values for the number of tests."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for multiple tests by Holm's step-down procedure.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.

    Args:
        p_values: (m,); NaN stays NaN and is not counted as a test.

    Returns:
        The corrected p-values, (m,), at most 1.
    """
    given = np.asarray(p_values, np.float64)
    corrected = np.full_like(given, np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected
