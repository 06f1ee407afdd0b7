"""The hyperparameters of a training: steps, batch, learning rate, precision."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whybox.errors import WhyboxError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
FABRIC_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


def fabric_precision(name: str) -> str:
    """Fabric's name of a precision.

    Args:
        name: "float32", "bfloat16" (autocast), or one of Fabric's own.

    Returns:
        One of FABRIC_PRECISIONS.

    Raises:
        WhyboxError: The name is unknown.
    """
    precision = PRECISIONS.get(name, name)
    if precision not in FABRIC_PRECISIONS:
        listed = ", ".join(FABRIC_PRECISIONS)
        raise WhyboxError(f"precision must be float32, bfloat16 or one of Fabric's names ({listed}), got {name!r}")
    return precision


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training.

    Attributes:
        steps: Steps of the optimizer, AdamW.
        batch: Examples per step, over all processes and accumulated parts.
        seed: Seed of the weights, the batches and dropout.
        lr: Peak learning rate, after linear warm-up and before cosine decay.
        weight_decay: AdamW's.
        warmup: Steps of the warm-up.
        average: Decay of the exponential moving average of the weights.
        clip: Largest norm of the gradient.
        precision: See `fabric_precision`.
        accumulate: Gradient accumulation: the number of parts of a process's share of a step.
    """

    steps: int
    batch: int = 16
    seed: int = 0
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 200
    average: float = 0.998
    clip: float = 5.0
    precision: str = "float32"
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise WhyboxError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")
        if self.accumulate < 1:
            raise WhyboxError(f"accumulate must be at least 1, got {self.accumulate}")
        fabric_precision(self.precision)

    def rate(self, step: int) -> float:
        """The learning rate: linear warm-up, then a cosine down to a hundredth.

        Args:
            step: From 0.

        Returns:
            The rate of this step.
        """
        # A short training warms up for a quarter of its steps at most.
        warm = min(self.warmup, self.steps // 4)
        if step < warm:
            # From step + 1 on: a first step at rate 0 would be lost.
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        # Not down to 0, where the last steps would change nothing.
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def part(self, fabric: "Fabric") -> int:
        """The number of examples in one part of a step.

        Args:
            fabric: Launched Fabric, whose processes share a step.

        Returns:
            The batch size, divided by the number of processes and by `accumulate`.

        Raises:
            WhyboxError: The batch size is no multiple of these.
        """
        parts = int(fabric.world_size) * self.accumulate
        if self.batch % parts:
            ways = f"{fabric.world_size} process{'es' if fabric.world_size > 1 else ''} with accumulate {self.accumulate}"
            raise WhyboxError(f"a batch of {self.batch} cannot be divided among {ways}; choose a multiple of {parts}")
        return self.batch // parts
