"""Plain feature imitation: the mean squared difference of a student's and its teacher's features."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.losses.fgd import Features, compared


def feature_imitation_loss(student: Features, teacher: Features) -> Tensor:
    """The squared differences, averaged over images, channels and cells of a level, and over levels.

    Args:
        student: The student's levels, each (B,C,h,w), with the teacher's channels; gradients flow to them.
        teacher: The teacher's levels, of the same shapes; constants.

    Returns:
        A scalar, at least in float32.

    Raises:
        WhyboxError: Shapes differ.

    Source: Romero et al.: FitNets, ICLR 2015, equation 3, on the levels of a feature pyramid.
    """
    parts = [(ours - theirs).square().mean() for ours, theirs in zip(*compared(student, teacher), strict=True)]
    return torch.stack(parts).mean()


@dataclass(frozen=True)
class FeatureImitation:
    """Options of plain feature imitation.

    Attributes:
        weight: The factor of the loss. FitNets trains with the loss alone, and has none.
    """

    weight: float = 1.0

    name: ClassVar[str] = "feature_imitation"
    title: ClassVar[str] = "Feature imitation"
    source: ClassVar[str] = "Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
