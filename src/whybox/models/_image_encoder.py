"""The image encoder of a network, and what is read off it: whether a layer can be run by itself, and where tokens lie."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import Transformer
from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.ops.transformer import attend, difference, run_layer

NORMED = "normed"


@dataclass(frozen=True)
class ImageEncoder:
    """The image encoder of a network, provided by its family: made anew for every pass, since a part of the network may have
    been replaced, or wrapped, since the last one.

    Attributes:
        network: The whole network.
        prepare: Images (B,3,H,W) in 0..1 of one size -> the network's input (B,3,Hn,Wn) and the frame.
        transformer: The encoder layer by layer.
        grid: Size of the network's input -> patches (h,w).
        embed: The network's input -> (B,D) by the network's own forward pass.
        first: The number of tokens before the patches.
        features: Names of layers of feature maps and their module paths, the default first; empty: tokens are the default.
        fill: (3,) the color in 0..1 that is zero after normalization.
    """

    network: nn.Module
    prepare: Callable[[Tensor], tuple[Tensor, Frame]]
    transformer: Transformer
    grid: Callable[[Size], Size]
    embed: Callable[[Tensor], Tensor]
    first: int = 1
    features: Mapping[str, str] = field(default_factory=dict)
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


def altered(transformer: Transformer, tokens: Sequence[Tensor], embedding: Tensor) -> str:
    """Why the last layer, run by itself on what entered it, does not give the pass's embedding; "" where it does."""
    try:
        own = _read_out(transformer, tokens[-1])
    except Exception as error:  # a replaced module may fail in any way
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return difference(embedding, own)


def _read_out(transformer: Transformer, tokens: Tensor) -> Tensor:
    """(B,D) from the last layer's input; of that layer only the row that is read is computed."""
    layer = transformer.layers[-1]
    if transformer.pooling == "mean":
        return transformer.read(run_layer(layer, tokens))
    # The row that is read is the class token, which comes first in every family here.
    rows = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    return transformer.read(layer.finish(tokens[:, :1], layer.out(attend(layer, tokens, rows=rows).mixed)))


def from_input_of(encoder: ImageEncoder, start: int, tokens: Tensor, pixels: Tensor) -> Tensor:
    """The embedding (1,D) of the network's own forward pass, in which `tokens` enter layer `start`."""
    layer = encoder.transformer.layers[start]
    entry = layer.modules[0] if layer.entry is None else layer.entry
    if layer.returning is None:
        raise WhyboxError(
            f"{layer.name} has been changed, and its input cannot be computed from its tokens: choose another layer"
        )
    given_back = layer.returning(tokens)

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        # Clones, because a block that begins in place may not change a leaf.
        swapped = tuple(given_back.clone() if value is given else value for value in args)
        return swapped, {name: given_back.clone() if value is given else value for name, value in kwargs.items()}

    handle = entry.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        return encoder.embed(pixels)
    finally:
        handle.remove()


def on_grid(encoder: ImageEncoder, tokens: Tensor, frame: Frame) -> Tensor:
    """Tokens (N,C) -> (C,h,w)"""
    height, width = encoder.grid(frame.network)
    return tokens[encoder.first : encoder.first + height * width].T.reshape(-1, height, width)


def stride(encoder: ImageEncoder, frame: Frame) -> float:
    """Network pixels per patch."""
    return frame.network[0] / encoder.grid(frame.network)[0]


def paths_of(encoder: ImageEncoder) -> dict[str, str]:
    """Layer names and module paths: those of feature maps, then the norm before the last attention, where it is a module of the
    network."""
    norm = encoder.transformer.layers[-1].normalize
    paths = [path for path, part in encoder.network.named_modules() if part is norm]
    return {**encoder.features, **({NORMED: paths[0]} if paths else {})}
