"""What a student and its teacher, both torchvision detectors, show in one training step of the student: the features of their
pyramids, and their predictions at the same places."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._distillation_base import DistillationPass, Predictions
from whybox.models.torchvision._distillation_dense import DensePass
from whybox.models.torchvision._distillation_regions import RegionPass
from whybox.models.torchvision._distilled_pair import DENSE, channels_of, check_pair, detector_kind, level_count

__all__ = [
    "DistillationPass",
    "Predictions",
    "channels_of",
    "check_pair",
    "detector_kind",
    "level_count",
    "watched",
    "watching",
]


def watched(teacher: Any, student: Any, *, predicting: bool) -> DistillationPass:
    """A pass of a student with its teacher, which have still to run.

    Args:
        teacher: torchvision's FCOS, RetinaNet, or an R-CNN.
        student: One of these; of the same kind where predictions are wanted.
        predicting: Whether the predictions of both are wanted, not their features alone.

    Raises:
        WhyboxError: One of them is another network, or they do not fit one another.
    """
    check_pair(teacher, student, predicting=predicting)
    return (DensePass if module_type(student) in DENSE else RegionPass)(teacher, student, predicting)


@contextmanager
def watching(teacher: Any, student: Any, *, predicting: bool) -> Iterator[DistillationPass]:
    """Inside, one call of the student in training mode is watched; afterwards it is as it was.

    Args:
        teacher: See `watched`.
        student: See `watched`.
        predicting: See `watched`.

    Yields:
        The pass; its features and predictions are there once the student was called.

    Raises:
        WhyboxError: See `watched`.
    """
    seen = watched(teacher, student, predicting=predicting)
    with ExitStack() as stack:
        seen.watch(stack)
        yield seen
