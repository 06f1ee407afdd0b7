"""MGD: from a student's features with random holes, a small block generates its teacher's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.losses.fgd import Blocks, Features, compared, precise


class GenerationBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them."""

    def __init__(self, channels: int) -> None:
        """Make a block for features of that many channels."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Generate features.

        Args:
            features: (B,C,h,w).

        Returns:
            (B,C,h,w).
        """
        generated: Tensor = self.layers(features)
        return generated


def mgd_loss(student: Features, teacher: Features, blocks: Blocks, masks: Sequence[Tensor]) -> Tensor:
    """The squared differences of what the blocks generate and the teacher's features.

    Args:
        student: The student's levels, each (B,C,h,w), with the teacher's channels; gradients flow to them and to the blocks.
        teacher: The teacher's levels, of the same shapes; constants.
        blocks: A `GenerationBlock` per level.
        masks: Of each level (B,h,w), 0 where the student's features are left out, see `random_masks`.

    Returns:
        The sum over channels, cells and levels, divided by B; a scalar, at least in float32.

    Raises:
        WhyboxError: Shapes differ.

    Source: Yang et al.: Masked Generative Distillation, ECCV 2022, equations 2 to 5.
    """
    student, teacher = compared(student, teacher)
    parts = [
        (precise(block(ours * mask[:, None].to(ours))) - theirs).square().sum()
        for ours, theirs, block, mask in zip(student, teacher, blocks, masks, strict=True)
    ]
    return torch.stack(parts).sum() / len(student[0])


def random_masks(features: Features, masked: float, generator: torch.Generator | None = None) -> list[Tensor]:
    """Of each level (B,h,w): 0 with the probability `masked` in every cell, else 1.

    Args:
        features: The levels, each (B,C,h,w).
        masked: The share of the cells that are left out.
        generator: On the CPU; None: torch's own.
    """
    # On the CPU, so that the masks are the same on every device.
    draw = [torch.rand((len(level), *level.shape[2:]), generator=generator) for level in features]
    return [(values >= masked).to(level.device) for values, level in zip(draw, features, strict=True)]


@dataclass(frozen=True)
class Mgd:
    """Options of MGD. What is None is the authors' for the kind of detector: 2e-5 and 0.65 for one stage, 5e-7 and 0.45 for two.

    Attributes:
        weight: The factor alpha of the loss.
        masked: The share lambda of the cells that are left out.
    """

    weight: float | None = None
    masked: float | None = None

    name: ClassVar[str] = "mgd"
    title: ClassVar[str] = "MGD"
    source: ClassVar[str] = "Yang et al.: Masked Generative Distillation, ECCV 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weight is not None and self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
        if self.masked is not None and not 0 <= self.masked <= 1:
            raise WhyboxError(f"masked must be in [0, 1], got {self.masked}")

    def factors(self, *, two_stage: bool) -> tuple[float, float]:
        """`weight` and `masked` for a detector of one or two stages."""
        weight, masked = (5e-7, 0.45) if two_stage else (2e-5, 0.65)
        return weight if self.weight is None else self.weight, masked if self.masked is None else self.masked
