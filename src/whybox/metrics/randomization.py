"""Sanity check: how much of an explanation is left when the model's weights are random."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.similarity import check_comparison, compare_redrawn
from whybox.truth import Metric, MetricInput, MetricResult


def randomization(maps: Tensor, randomized: Iterable[Tensor], similarity: str = "spearman", size: int = 64) -> Tensor:
    """How alike N maps are to the same maps of a model with ever more random weights, all (N,H,W) -> curves (N,stages).

    Sizes of the maps are compared (absolute values), at `size` cells a longest side. "spearman": the rank correlation,
    without its sign, since a map turned upside down has lost nothing; "ssim": see `whybox.ops.similarity.ssim`. A map
    that became constant has nothing left: 0. NaN where the first map is constant, or one is not finite.
    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3: rank correlation of absolute maps,
    SSIM. The lower resolution and the dropped sign are ours.
    """
    sizes = maps.abs()
    curves = [compare_redrawn(sizes, changed.abs(), similarity, size) for changed in randomized]
    if not curves:
        raise WhyboxError("randomization needs the maps after at least one stage of random weights, got none")
    left = torch.stack(curves, 1)
    return left.abs() if similarity == "spearman" else left


@dataclass(frozen=True)
class Randomization(Metric):
    """Model randomization, cascading from the output to the input. The value is the mean of the curve.

    similarity: "spearman" or "ssim". size: cells along a map's longest side at which maps are compared.

    Not the last stage: a map that ignores the head and follows the backbone alone keeps its look through half of the
    cascade and loses it at the end, as a sound one does. The last stage is the last column of the curves.
    """

    similarity: Literal["spearman", "ssim"] = "spearman"
    size: int = 64

    name: ClassVar[str] = "randomization"
    group: ClassVar[str] = "sanity"
    across: ClassVar[str] = "share of the layers that are random"
    title: ClassVar[str] = "Randomization"
    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"randomized"})
    source: ClassVar[str] = "Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018, section 3"

    def __post_init__(self) -> None:
        check_comparison(self.similarity, self.size)

    @property
    def range(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.similarity == "spearman" else (-1.0, 1.0)

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The mean similarity over the stages; curves at the share of the stages done."""
        if inputs.randomized is None:
            raise WhyboxError("randomization needs maps under random weights (MetricInput.randomized), got inputs without")
        stages = inputs.randomized()
        try:
            curves = randomization(maps, (changed for _, changed in stages), self.similarity, self.size)
        finally:
            # Whatever happens here, the model's own weights come back at once.
            if isinstance(stages, Generator):
                stages.close()
        done = torch.arange(1, curves.shape[1] + 1, device=curves.device) / curves.shape[1]
        return MetricResult(curves.nanmean(1), curves, done)
