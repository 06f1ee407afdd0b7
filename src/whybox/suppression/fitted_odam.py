"""The fitted rule that also compares what two detections looked at."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whybox.rule import Vectors
from whybox.suppression.fitted import PAIR, PAIR_MAPS, Cosines, Fitted, Floats
from whybox.suppression.odam import MapSimilarity


@dataclass(frozen=True)
class FittedOdam(Fitted):
    """As `fitted`, with the cosine of the two ODAM maps among the features of a pair.

    Attributes:
        pair: Weights of p, of the features of `fitted` with `PAIR_MAPS` before the constant.
    """

    name: ClassVar[str] = "fitted_odam"
    title: ClassVar[str] = "Fitted decay with maps"
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    features: ClassVar[tuple[str, ...]] = (*PAIR[:-1], *PAIR_MAPS, PAIR[-1])

    def _cosines(self, boxes: Tensor, groups: Tensor, vectors: Vectors | None) -> Cosines:
        assert vectors is not None
        alike = MapSimilarity(boxes, groups, vectors)

        def cosines(row: int, others: NDArray[np.int64]) -> Floats:
            one, many = torch.as_tensor([row], device=boxes.device), torch.as_tensor(others, device=boxes.device)
            values: Floats = alike(one, many)[0][0].double().cpu().numpy()
            return values

        return cosines
