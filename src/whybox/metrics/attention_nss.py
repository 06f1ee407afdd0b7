"""Normalized scanpath saliency: an explanation's height at the places that people fixated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.metrics._fixations import compare_at_fixations
from whybox.truth import Metric, MetricInput, MetricResult


def attention_nss(values: Tensor, fixated: Tensor) -> Tensor:
    """NSS = 1/F sum_f (H(x_f) - mean(H)) / std(H).

    Source: Peters, Iyer, Itti, Koch, "Components of bottom-up gaze allocation in natural images", Vision Research 2005;
    Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", TPAMI 2019, section 3.1.3.

    Args:
        values: (P,) a map's values.
        fixated: (F,) indices of the fixated pixels; a pixel that is fixated twice counts twice.

    Returns:
        A scalar: the map's mean height there in standard deviations over its pixels. 0 for chance.
    """
    # All pixels are there, so the deviation is that of a population: divided by P.
    return (values[fixated].mean() - values.mean()) / values.std(correction=0)


@dataclass(frozen=True)
class AttentionNss(Metric):
    """Normalized scanpath saliency of human fixations. Durations do not count."""

    name: ClassVar[str] = "attention_nss"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Attention, NSS"
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Peters, Iyer, Itti, Koch, Vision Research 2005; Bylinskii et al., TPAMI 2019, section 3.1.3"

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The height of each map at its object's fixations.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations, and for a constant map.
        """
        return MetricResult(compare_at_fixations(maps, inputs, attention_nss))
