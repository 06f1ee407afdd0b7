"""CLIP Surgery: value-value attention in the last layers, and similarity maps without the part that all texts share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from whybox.attention import AttentionLayer, ImageTextModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.methods._dense_features import read_patches
from whybox.ops.hooks import frozen
from whybox.ops.transformer import attend, check_layer_rows, in_float32, join_heads, modules_from, split_heads, widened
from whybox.types import Detections, HeatMaps, Target, Trace, target_name

SHARPNESS = 2.0
"""The factor on the image-text cosines inside the softmax over the texts."""


def clip_surgery_map(similarity: Tensor, overall: Tensor) -> Tensor:
    """Feature surgery: S_it = w_t s_it - mean_u(w_u s_iu), w = softmax(2 c) / mean(softmax(2 c)).

    Args:
        similarity: s (P,L) of patches and texts.
        overall: c (L,) of the image and the texts.

    Returns:
        (P,L)

    Source: Li, Wang, Duan, Li, "CLIP Surgery", arXiv 2304.05653, feature surgery. The paper subtracts the mean channel by
    channel before summing the products over the channels, which is the same.
    """
    prominence = (SHARPNESS * overall).softmax(-1)
    # Divided by its mean: the weights are 1 on average, however many texts there are.
    weighted = similarity * (prominence / prominence.mean())
    return weighted - weighted.mean(-1, keepdim=True)


def dual_path_features(transformer_pass: TransformerPass, count: int) -> Tensor:
    """Features of the patches from the second path through the last `count` layers.

    x'_{i+1} = x'_i + attention(v_i, v_i, v_i), without MLP; v_i are the values of the original path, from whose tokens the
    second path starts. In a layer without residual (attention pooling) the second path is its value-value attention alone.

    Args:
        transformer_pass: A pass of an image.
        count: How many of the last layers have a second path.

    Returns:
        (h*w,D) of unit length.

    Source: Li, Wang, Duan, Li, "CLIP Surgery", arXiv 2304.05653, architecture surgery: v-v attention and dual paths.
    """
    layers = transformer_pass.transformer.layers
    # A small encoder may have fewer layers than the paper's six.
    start = max(0, len(layers) - count)
    with in_float32(*modules_from(transformer_pass.transformer, start)):
        path = widened(transformer_pass.tokens[start])
        for index, layer in enumerate(layers[start:], start):
            tokens = widened(transformer_pass.tokens[index])
            # The layer's own attention runs for this comparison alone: it shows that the layer was taken apart rightly.
            check_layer_rows(transformer_pass, index, tokens, attend(layer, tokens, transformer_pass.mask).mixed)
            added = layer.out(layer.mix(_attend_values(layer, tokens, transformer_pass.mask)))
            path = path + added if _has_residual(layer, path, added) else layer.finish(path, added)
        return normalize(read_patches(transformer_pass, path), dim=-1)


def _has_residual(layer: AttentionLayer, tokens: Tensor, added: Tensor) -> bool:
    """Whether the layer has a residual connection; attention pooling has none."""
    # Probed on one token: without a residual the result does not depend on the token.
    token, change = tokens[:, :1], added[:, :1]
    return not torch.equal(layer.finish(token, change), layer.finish(torch.zeros_like(token), change))


def _attend_values(layer: AttentionLayer, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(1,N,E): softmax(scale * v v^T) v, head by head."""
    _, _, values = layer.project(tokens)
    v = split_heads(values, layer.heads)
    return join_heads(scaled_dot_product_attention(v, v, v, attn_mask=None if mask is None else mask.to(v), scale=layer.scale))


@dataclass(frozen=True)
class ClipSurgery(Method):
    """CLIP Surgery. Maps are signed and raw: cosines minus their redundant part. A text's map never depends on the other texts
    of the same call.

    Attributes:
        layers: How many of the last layers have a second path.
        neutral: A text without content; without distractors, the cosine with its embedding is subtracted.
        distractors: Other texts. If given, the mean over them and the text is subtracted instead, as in the paper's main form.
    """

    layers: int = 6
    neutral: str = "a photo of a"
    distractors: Sequence[str] = ()

    name: ClassVar[str] = "clip_surgery"
    title: ClassVar[str] = "CLIP Surgery"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer", "text"})
    targets: ClassVar[frozenset[str]] = frozenset({"score"})
    source: ClassVar[str] = "Li, Wang, Duan, Li: CLIP Surgery, arXiv 2304.05653"

    def __post_init__(self) -> None:
        if type(self.layers) is not int or self.layers < 1:
            raise WhyboxError(f"layers must be a whole number from 1 on, got {self.layers!r}")
        if isinstance(self.distractors, str) or not all(isinstance(text, str) for text in self.distractors):
            raise WhyboxError(f"distractors must be a list of texts, got {self.distractors!r}")

    def __call__(self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection; the only target is "score".

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.

        Raises:
            WhyboxError: Another target than "score".
        """
        for name in map(target_name, targets):
            if name not in self.targets:
                raise WhyboxError(f"clip_surgery compares features with texts, and has no target {name!r}; use target 'score'")
        net: Any = model.network
        with frozen(net), torch.inference_mode(False), torch.no_grad():
            transformer_pass = model.transformer(trace)
            features = dual_path_features(transformer_pass, self.layers)
            overall = normalize(widened(transformer_pass.embedding[0]), dim=-1)
            texts = [model.texts[label].text for label in detections.labels.tolist()]
            others = [*self.distractors, self.neutral]
            prompts = model.prompt_embeddings()[detections.labels].to(features)
            other_embeddings = model.embed_texts(others).to(features)
            assert transformer_pass.grid is not None
            maps = tuple(
                self._map(features, overall, text, row, other_embeddings).reshape(transformer_pass.grid)
                for text, row in zip(texts, prompts, strict=True)
            )
        return [self.heat_maps(maps, trace.frame, target) for target in targets]

    def _map(self, features: Tensor, overall: Tensor, text: str, embedding: Tensor, others: Tensor) -> Tensor:
        """(P,) for one text with its embedding (D,): features (P,D), overall (D,) the image's embedding, others (K+1,D) of the
        distractors and of the neutral text."""
        # A distractor that is the text itself would cancel its map.
        kept = [other != text for other in self.distractors]
        if any(kept):
            texts = torch.cat([embedding[None], others[: len(kept)][kept]])
            # The text itself is the first of the texts.
            return clip_surgery_map(features @ texts.T, texts @ overall)[:, 0]
        return features @ (embedding - others[-1])
