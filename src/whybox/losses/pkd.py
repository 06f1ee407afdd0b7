"""PKD: a student's features become correlated with its teacher's, whatever their magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.losses.fgd import Features, compared


def pkd_loss(student: Features, teacher: Features) -> Tensor:
    """Half the mean squared difference of features that have the mean 0 and the deviation 1 in every channel.

    For a channel that is not constant this is 1 - r, with Pearson's correlation r of the student's and the teacher's values over
    all cells of all images.

    Args:
        student: The student's levels, each (B,C,h,w), with the teacher's channels; gradients flow to them.
        teacher: The teacher's levels, of the same shapes; constants.

    Returns:
        The sum over levels of the means over channels; a scalar, at least in float32.

    Raises:
        WhyboxError: Shapes differ.

    Source: Cao et al.: PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient, NeurIPS
    2022.
    """
    parts = [
        (_normalized(ours) - _normalized(theirs)).square().mean() / 2
        for ours, theirs in zip(*compared(student, teacher), strict=True)
    ]
    return torch.stack(parts).sum()


def _normalized(features: Tensor) -> Tensor:
    """Features (B,C,h,w) with the mean 0 and the mean square 1 in every channel; a constant channel becomes 0."""
    centered = features - features.mean((0, 2, 3), keepdim=True)
    power = centered.square().mean((0, 2, 3), keepdim=True)
    # The root has no finite gradient at 0.
    varies = power > torch.finfo(power.dtype).tiny
    return centered * torch.where(varies, torch.where(varies, power, 1).rsqrt(), 0)


@dataclass(frozen=True)
class Pkd:
    """Options of PKD.

    Attributes:
        weight: The factor of the loss; the authors' is 6 for every level.
    """

    weight: float = 6.0

    name: ClassVar[str] = "pkd"
    title: ClassVar[str] = "PKD"
    source: ClassVar[str] = "Cao et al.: PKD, NeurIPS 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
