"""Shared by methods that use attention probabilities alone: one map for all targets."""

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
    """For each target, the image's one map (h,w), repeated for every detection.

    Args:
        method: The method whose maps these are.
        draw: A pass of one image -> (1,N) over all tokens.
        model: A model with a transformer.
        trace: One pass of the model over the image.
        detections: N detections.
        targets: The T scalars that the user asks for.

    Returns:
        T HeatMaps, all with the same maps.
    """
    transformer_pass = model.transformer(trace)
    # Expanded, not copied: the maps of all detections share the memory of one.
    native = maps_on_grid(draw(transformer_pass).expand(len(detections), -1), transformer_pass)
    return [method.heat_maps(native, trace.frame, target) for target in targets]


def text_maps(
    method: Method, draw: Draw, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
) -> list[TokenMaps]:
    """For each target, the maps of the detections' texts, one number per token.

    Args:
        method: The method whose maps these are.
        draw: A pass of B texts -> (B,N) over all tokens.
        model: An image-text model.
        trace: One pass of the model over the image.
        detections: N detections; their labels are indices of texts.
        targets: The T scalars that the user asks for.

    Returns:
        T TokenMaps, all with the same values.
    """
    transformer_pass = model.text_transformer(trace, detections.labels)
    values = own_tokens(draw(transformer_pass), transformer_pass)
    texts = tuple(model.texts[label] for label in detections.labels.tolist())
    return [method.token_maps(values, texts, target) for target in targets]
