"""An image-text model's own forward pass over images with its graph, and what enters its last attention layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from whybox.attention import AttentionLayer, Transformer
from whybox.errors import WhyboxError
from whybox.models._image_encoder import ImageEncoder


@dataclass(frozen=True)
class ImagePass:
    """A forward pass over B images; every tensor is in its graph.

    Attributes:
        transformer: The image encoder.
        embedding: (B,D).
        tokens: (B,N,C) what entered the last layer.
        projected: The last layer's queries, keys and values of the tokens, (B,N,E) each.
        patches: The tokens on the grid.
        grid: (h,w) of the patches.
    """

    transformer: Transformer
    embedding: Tensor
    tokens: Tensor
    projected: tuple[Tensor, Tensor, Tensor]
    patches: slice
    grid: tuple[int, int]

    @property
    def layer(self) -> AttentionLayer:
        """The last layer."""
        return self.transformer.layers[-1]

    def dense_features(self) -> Tensor:
        """Embed the patches by the last layer without its attention, as `methods.maskclip` does.

        Returns:
            (B,h*w,D)
        """
        values = self.layer.out(self.layer.mix(self.projected[2][:, self.patches]))
        return read_everywhere(self.transformer, self.layer.finish(self.tokens[:, self.patches], values))


def read_everywhere(transformer: Transformer, rows: Tensor) -> Tensor:
    """Read an embedding from each row as if it were the class token: (B,P,C) after the last layer -> (B,P,D)."""
    # The head reads one row of an item: every row becomes an item.
    return transformer.read(rows.flatten(0, 1)[:, None]).reshape(*rows.shape[:2], -1)


def check_trainable(encoder: ImageEncoder, name: str) -> None:
    """Refuse an image encoder without a class token that is read after the last attention layer.

    Args:
        encoder: The encoder.
        name: The model's name.

    Raises:
        WhyboxError: It pools its patches, or has no class token.
    """
    transformer = encoder.transformer
    # An encoder with feature maps is a ResNet, whose token is their mean.
    if transformer.pooling != "token" or transformer.layers[-1].pools or encoder.first < 1 or encoder.features:
        raise WhyboxError(
            f"{name} pools its patches; the regions of phrases are found in a CLIP whose vision transformer has a class token"
        )


def image_pass(encoder: ImageEncoder, pixels: Tensor) -> ImagePass:
    """Run the network's own forward pass.

    Args:
        encoder: See `check_trainable`.
        pixels: (B,3,h,w) as `encoder.prepare` makes them.

    Returns:
        The pass, with its graph.

    Raises:
        WhyboxError: The pass did not run the last layer once on all patches.
    """
    layer = encoder.transformer.layers[-1]
    with _entering(layer) as entered:
        embedding = encoder.embed(pixels)
    grid = encoder.grid((pixels.shape[-2], pixels.shape[-1]))
    count = encoder.first + grid[0] * grid[1]
    if len(entered) != 1 or entered[0].shape[1] < count:
        seen = [tokens.shape[1] for tokens in entered]
        raise WhyboxError(
            f"{layer.name} got {seen} tokens where {count} were expected: fine-tuning needs all patches; leave out patch dropout"
        )
    patches = slice(encoder.first, count)
    return ImagePass(encoder.transformer, embedding, entered[0], layer.project(entered[0]), patches, grid)


@contextmanager
def _entering(layer: AttentionLayer) -> Iterator[list[Tensor]]:
    """Record what enters a layer, as nodes of the graph."""
    entered: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(layer.entering(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))))

    entry = layer.modules[0] if layer.entry is None else layer.entry
    handle = entry.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield entered
    finally:
        handle.remove()
