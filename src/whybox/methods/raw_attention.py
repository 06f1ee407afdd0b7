"""Raw attention: where the row that the answer is read from looks, in one layer."""

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
    """H_j = sum_i r_i mean_h A_hij: probabilities (B,heads,n,N), the rows' parts in what is read (B,n) -> (B,N)."""
    return flow_back(read, [probabilities.mean(1)])


@dataclass(frozen=True)
class RawAttention(Method):
    """The attention of the class token, of a pooling layer's query, or of a text's end, averaged over the model's own heads.

    It is the same map for every text or class: it says where the model looks, not why it answers so.
    layer: the number of an attention layer, from 0 or, negative, from the end; None: the last. Where the answer
    is a mean over the patches, their rows are averaged; in layers below one that pools, all rows.
    """

    layer: int | str | None = None

    name: ClassVar[str] = "raw_attention"
    title: ClassVar[str] = "Raw attention"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    same_for_all: ClassVar[bool] = True
    source: ClassVar[str] = "the common baseline, as in Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021"

    def __post_init__(self) -> None:
        # The command line's --layer is a text.
        if isinstance(self.layer, bool) or (self.layer is not None and not str(self.layer).removeprefix("-").isdecimal()):
            raise WhyboxError(f"layer of raw_attention must be the number of an attention layer, got {self.layer!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[HeatMaps]:
        """One HeatMaps per target."""
        return image_maps(self, self._draw, model, trace, detections, targets)

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]
    ) -> list[TokenMaps]:
        """The texts' side: one TokenMaps per target; detection i stands for the text of its label."""
        return text_maps(self, self._draw, model, trace, detections, targets)

    def _draw(self, passed: TransformerPass) -> Tensor:
        """(B,N) over all tokens."""
        index = check_layer("layer", -1 if self.layer is None else int(self.layer), len(passed.transformer.layers))
        probabilities, read = layer_attention(passed, index), rows_read(passed)
        if passed.transformer.layers[-1].pools and not passed.transformer.layers[index].pools:
            count = probabilities.shape[-2]
            read = read.new_full((len(read), count), 1 / count)
        return raw_attention_map(probabilities, read)
