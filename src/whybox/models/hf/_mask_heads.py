"""Masks of Hugging Face's detection transformers: heads on a detector, and what a trace keeps for them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whybox.frame import Frame
from whybox.ops.hooks import record, replay
from whybox.types import MaskLogits


@dataclass(frozen=True)
class MaskHead:
    """A mask head on a detector.

    Attributes:
        detector: The detector's name in the whole network.
        reads: The detector's modules whose outputs are all that the whole network computes its answer from.
    """

    detector: str
    reads: tuple[str, ...]


MASK_HEADS = {
    "DetrForSegmentation": MaskHead("detr", ("model.backbone", "model.encoder", "model.decoder")),
    "RfDetrForInstanceSegmentation": MaskHead("model", ("model",)),
}
"""By the name of the class."""


@contextmanager
def recorded(detector: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, list[Any]]]:
    """Inside, the outputs of these modules are recorded, by name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(record(detector, name)) for name in names}


@contextmanager
def replayed(detector: nn.Module, outputs: dict[str, Any]) -> Iterator[None]:
    """Inside, these modules return outputs of an earlier pass; modules with hooks of the user's run all of them again."""
    with ExitStack() as stack:
        if not any(hooked(detector.get_submodule(name)) for name in outputs):
            for name, output in outputs.items():
                stack.enter_context(replay(detector, name, output))
        yield


def hooked(part: nn.Module) -> bool:
    """Whether hooks hang on the module. A stored output is what they made of it, and they run when it is replayed: they would
    act twice."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


def on_canvas(logits: Tensor, frame: Frame) -> MaskLogits:
    """Logits (M,h,w) over the canvas; what is padded is in no mask."""
    height, width = (
        cells * part / whole for cells, part, whole in zip(logits.shape[1:], frame.resized, frame.network, strict=True)
    )
    image = torch.tensor([0.0, 0.0, width, height], device=logits.device)
    return MaskLogits(logits.float(), boxes=image.expand(len(logits), 4))


def in_boxes(logits: Tensor, boxes: Tensor) -> MaskLogits:
    """Logits (M,h,w) over an image that is not padded, each inside its own box (M,4): x1, y1, x2, y2, relative to the image."""
    height, width = logits.shape[1:]
    return MaskLogits(logits.float(), boxes=boxes.detach() * boxes.new_tensor([width, height, width, height]))
