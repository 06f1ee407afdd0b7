"""Conversion of tensors, arrays and lists to NumPy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def to_array(values: Any, dtype: Any = None) -> NDArray[Any]:
    """The values as a NumPy array; a tensor may be on any device and may require grad."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=dtype)
