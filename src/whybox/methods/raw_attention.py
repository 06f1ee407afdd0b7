"""Raw attention: one layer's attention probabilities of the row that the embedding is read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whybox.attention import ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.methods._attention_alone import image_maps, text_maps
from whybox.ops.attention_flow import check_layer, flow_back, layer_attention, rows_read
from whybox.types import Detections, HeatMaps, Target, Trace


def raw_attention_map(probabilities: Tensor, read: Tensor) -> Tensor:
    """H_j = sum_i r_i mean_h A_hij.

    Args:
        probabilities: A (B,heads,n,N).
        read: r (B,n) the weight of each row in what is read.

    Returns:
        (B,N)
    """
    return flow_back(read, [probabilities.mean(1)])


@dataclass(frozen=True)
class RawAttention(Method):
    """The attention of the class token, of attention pooling's query, or of a text's end token, averaged over the heads.

    It is the same map for every text or class: it shows where the model looks, not why it predicts what it does. Where the
    embedding is a mean over the patches, their rows are averaged; in layers below attention pooling, all rows.

    Attributes:
        layer: The index of an attention layer, from 0 or, negative, from the end; None: the last.
    """

    layer: int | str | None = None

    name: ClassVar[str] = "raw_attention"
    title: ClassVar[str] = "Raw attention"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    same_for_all: ClassVar[bool] = True
    source: ClassVar[str] = "the common baseline, as in Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021"

    def __post_init__(self) -> None:
        # A string of digits, too: that is what the command line's --layer gives.
        if isinstance(self.layer, bool) or (self.layer is not None and not str(self.layer).removeprefix("-").isdecimal()):
            raise WhyboxError(f"layer of raw_attention must be the number of an attention layer, got {self.layer!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """Draw the image's one map, repeated for every detection.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each; all T hold the same maps.
        """
        return image_maps(self, self._draw, model, trace, detections, targets)

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """Draw maps of the texts: one number per token.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The T scalars to explain.

        Returns:
            T TokenMaps of N texts each; all T hold the same values, and map i is of the text that is detection i's label.
        """
        return text_maps(self, self._draw, model, trace, detections, targets)

    def _draw(self, transformer_pass: TransformerPass) -> Tensor:
        """(B,N) over all tokens."""
        index = check_layer("layer", -1 if self.layer is None else int(self.layer), len(transformer_pass.transformer.layers))
        probabilities, read = layer_attention(transformer_pass, index), rows_read(transformer_pass)
        if transformer_pass.transformer.layers[-1].pools and not transformer_pass.transformer.layers[index].pools:
            # Below the pooling, no row is read more than another.
            count = probabilities.shape[-2]
            read = read.new_full((len(read), count), 1 / count)
        return raw_attention_map(probabilities, read)
