"""AUC-Judd: how well an explanation tells fixated pixels from the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.metrics._fixations import compare_at_fixations
from whybox.truth import Metric, MetricInput, MetricResult


def attention_auc(values: Tensor, fixated: Tensor) -> Tensor:
    """The area under the ROC curve of fixations against all pixels that nobody fixated; ties count half.

    It is the Mann-Whitney statistic: the chance that a fixation lies on a higher value than a pixel drawn from the others.
    The MATLAB code of the benchmark thresholds at the fixations' values alone and breaks ties at random, which adds up to
    1 / (2 F) to a map without information.

    Source: Judd, Ehinger, Durand, Torralba, "Learning to predict where humans look", ICCV 2009; Bylinskii et al., "What do
    different evaluation metrics tell us about saliency models?", TPAMI 2019, section 3.1.1.

    Args:
        values: (P,) a map's values.
        fixated: (F,) indices of the fixated pixels; a pixel that is fixated twice counts twice.

    Returns:
        A scalar, 0 to 1, 0.5 for chance; NaN where all pixels are fixated.
    """
    others = torch.ones_like(values, dtype=torch.bool)
    others[fixated] = False
    rest, heights = values[others], values[fixated].sort().values
    if not len(rest):
        return values.new_tensor(torch.nan)
    # The few fixations are sorted, and not the many pixels.
    below = torch.searchsorted(heights, rest)
    upto = torch.searchsorted(heights, rest, right=True)
    return 1 - (below + upto).double().mean() / (2 * len(heights))


@dataclass(frozen=True)
class AttentionAuc(Metric):
    """AUC-Judd of human fixations. Only the order of a map's values counts, and durations do not."""

    name: ClassVar[str] = "attention_auc"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Attention, AUC-Judd"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Judd, Ehinger, Durand, Torralba, ICCV 2009; Bylinskii et al., TPAMI 2019, section 3.1.1"

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under the ROC curve of each map at its object's fixations.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations, and for a constant map.
        """
        return MetricResult(compare_at_fixations(maps, inputs, attention_auc))
