"""What methods share that look at attention and nothing else: one map for everything that is asked."""

from collections.abc import Callable, Sequence

from torch import Tensor

from whybox.attention import ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.method import Method
from whybox.ops.attention_flow import maps_on_grid, own_tokens
from whybox.types import Detections, HeatMaps, Target, Trace

Draw = Callable[[TransformerPass], Tensor]
"""A pass of B items with N tokens -> (B,N)."""


def image_maps(
    method: Method, draw: Draw, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[HeatMaps]:
    """For each target the image's one map, (h,w), once for every detection."""
    passed = model.transformer(trace)
    native = maps_on_grid(draw(passed).expand(len(detections), -1), passed)
    return [method.heat_maps(native, trace.frame, target) for target in targets]


def text_maps(
    method: Method, draw: Draw, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[TokenMaps]:
    """For each target the maps of the detections' texts, one number for every token of a text's own."""
    passed = model.text_transformer(trace, detections.labels)
    values = own_tokens(draw(passed), passed)
    texts = tuple(model.texts[label] for label in detections.labels.tolist())
    return [method.token_maps(values, texts, target) for target in targets]
