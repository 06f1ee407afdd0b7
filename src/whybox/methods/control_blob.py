"""A control: a Gaussian blob at the predicted box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.method import Method
from whybox.model import Model
from whybox.types import Detections, HeatMaps, Target, Trace


def control_blob_map(boxes: Tensor, size: Size, sigma: float = 0.25) -> Tensor:
    """A Gaussian at the center of each box, with a peak of at most 1.

    Args:
        boxes: (N,4) xyxy in pixels.
        size: (H, W) of the maps.
        sigma: The standard deviations as a share of the box's width and height.

    Returns:
        (N,H,W)
    """
    # Pixel i covers [i, i + 1): its center is at i + 0.5.
    y = torch.arange(size[0], device=boxes.device) + 0.5
    x = torch.arange(size[1], device=boxes.device) + 0.5
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Clamped, so that a box without width or height does not divide by zero.
    spread = (sigma * (boxes[:, 2:] - boxes[:, :2])).clamp(min=1e-3)
    across = (-0.5 * ((x - middle[:, :1]) / spread[:, :1]) ** 2).exp()
    down = (-0.5 * ((y - middle[:, 1:]) / spread[:, 1:]) ** 2).exp()
    return down[:, :, None] * across[:, None, :]


@dataclass(frozen=True)
class ControlBlob(Method):
    """A Gaussian blob at the center of the predicted box. It uses the detector's prediction alone: a method that explains more
    than the box has to beat it.

    Attributes:
        sigma: The blob's standard deviation as a share of the box's sides; at 0.25 a side lies two of them from the center.
    """

    sigma: float = 0.25

    name: ClassVar[str] = "control_blob"
    title: ClassVar[str] = "Control: blob"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    same_for_all: ClassVar[bool] = True
    source: ClassVar[str] = "a control, no explanation: a Gaussian at the predicted box"

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise WhyboxError(f"sigma must be above 0, got {self.sigma}")

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw the blob of each detection.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each; all T hold the same maps.
        """
        native = tuple(control_blob_map(detections.boxes, trace.frame.image, self.sigma))
        return [self.heat_maps(native, Frame.same(trace.frame.image), target) for target in targets]
