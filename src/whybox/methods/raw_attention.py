"""Raw attention: where the row that the answer is read from looks, in one layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from torch import Tensor

from whybox.attention import ImageTextModel, TokenMaps, TransformerModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.ops.attention_flow import check_layer, chosen_texts, layer_attention, maps_on_grid, own_tokens
from whybox.types import Detections, HeatMaps, Target, Trace


def raw_attention_map(probabilities: Tensor) -> Tensor:
    """H_j = mean over heads and rows of A_hij: probabilities (B,heads,n,N), n most often the one row read -> (B,N)."""
    return probabilities.mean((1, 2))


@dataclass(frozen=True)
class RawAttention:
    """The attention of the class token, of a pooling layer's query, or of a text's end, averaged over the model's own heads.

    It is the same map for every text or class: it says where the model looks, not why it answers so.
    layer: the number of an attention layer, from 0 or, negative, from the end; None: the last. Where no single row is read
    (a mean over the tokens; layers below one that pools) all rows are averaged.
    """

    layer: int | None = None

    name: ClassVar[str] = "raw_attention"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer"})
    source: ClassVar[str] = "the common baseline, as in Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021"

    def __post_init__(self) -> None:
        if self.layer is not None and type(self.layer) is not int:
            raise WhyboxError(f"layer of raw_attention must be the number of an attention layer, got {self.layer!r}")

    def __call__(
        self, model: TransformerModel, trace: Trace, detections: Detections, targets: Sequence[Target], names: Sequence[str]
    ) -> list[HeatMaps]:
        """One HeatMaps a target; `names` are the targets' names."""
        passed = model.transformer(trace)
        native = maps_on_grid(self._draw(passed).expand(len(detections), -1), passed)
        return [HeatMaps(native, trace.frame, name, self.name, asdict(self)) for name in names]

    def explain_text(
        self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target], names: Sequence[str]
    ) -> list[TokenMaps]:
        """The texts' side: one TokenMaps a target; detection i stands for the text of its label."""
        passed = chosen_texts(model.text_transformer(trace), detections.labels)
        values = own_tokens(self._draw(passed), passed)
        texts = tuple(model.texts[label] for label in detections.labels.tolist())
        return [TokenMaps(values, texts, self.name, name, asdict(self)) for name in names]

    def _draw(self, passed: TransformerPass) -> Tensor:
        """(B,N) over all tokens."""
        index = check_layer("layer", -1 if self.layer is None else self.layer, len(passed.transformer.layers))
        layers = passed.transformer.layers
        one_row = passed.transformer.reads == "row" and (layers[index].pools or not layers[-1].pools)
        return raw_attention_map(layer_attention(passed, index, passed.row if one_row else None))
