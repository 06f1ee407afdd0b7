"""A control: the predicted box itself, filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from whybox.attention import ImageTextModel, TokenMaps
from whybox.frame import Frame, Size
from whybox.method import Method
from whybox.model import Model
from whybox.types import Detections, HeatMaps, Target, Trace


def control_box_map(boxes: Tensor, size: Size) -> Tensor:
    """1 at the pixels whose centers lie inside a box, 0 elsewhere.

    Args:
        boxes: (N,4) xyxy in pixels.
        size: (H, W) of the maps.

    Returns:
        (N,H,W)
    """
    # Pixel i covers [i, i + 1): its center is at i + 0.5.
    y = torch.arange(size[0], device=boxes.device) + 0.5
    x = torch.arange(size[1], device=boxes.device) + 0.5
    # Half-open, so that two boxes that share an edge share no pixel.
    down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    across = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    return (down[:, :, None] & across[:, None, :]).to(boxes.dtype)


@dataclass(frozen=True)
class ControlBox(Method):
    """The predicted box as a map. It uses the detector's prediction alone, so a metric on which it wins does not measure what a
    method adds to it. Where ties are broken at random it is a random order of the box's pixels; for texts, of the words."""

    name: ClassVar[str] = "control_box"
    title: ClassVar[str] = "Control: box"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    same_for_all: ClassVar[bool] = True
    source: ClassVar[str] = "a control, no explanation: 1 inside the predicted box"

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Fill the box of each detection.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each; all T hold the same maps.
        """
        native = tuple(control_box_map(detections.boxes, trace.frame.image))
        return [self.heat_maps(native, Frame.same(trace.frame.image), target) for target in targets]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """Give every word of a text the value 1, shared by its tokens.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The T scalars to explain.

        Returns:
            T TokenMaps of N texts each; all T hold the same values.
        """
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        words = [torch.tensor(text.word_of(), dtype=torch.long, device=trace.image.device) for text in texts]
        # A word's value is the sum over its tokens.
        values = tuple(1 / word.bincount()[word] for word in words)
        return [self.token_maps(values, texts, target) for target in targets]
