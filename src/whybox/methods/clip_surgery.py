"""CLIP Surgery: patches attend to patches with similar values, and what every text would get is taken away."""

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
from whybox.ops.transformer import in_float32, join_heads, modules_from, split_heads
from whybox.types import Detections, HeatMaps, Target, Trace, target_name

SHARPNESS = 2.0
"""The factor on the cosines inside the softmax that tells which texts are obvious in the image."""


def clip_surgery_map(similarity: Tensor, overall: Tensor) -> Tensor:
    """S_it = w_t s_it - mean_u(w_u s_iu), w = softmax(2 c) / mean(softmax(2 c)): similarity s (P,L) of patches and texts,
    overall c (L,) of the image and the texts -> (P,L).

    Source: Li, Wang, Duan, Li, "CLIP Surgery", arXiv 2304.05653, feature surgery: there the products of the features are
    formed channel by channel, and summed over the channels after the mean is taken away, which is the same.
    """
    obvious = (SHARPNESS * overall).softmax(-1)
    weighed = similarity * (obvious / obvious.mean())
    return weighed - weighed.mean(-1, keepdim=True)


def dual_path_features(passed: TransformerPass, count: int) -> Tensor:
    """(h*w,D) unit features of the patches from the second path through the last `count` layers.

    x'_{i+1} = x'_i + attention(v_i, v_i, v_i), without MLP; v_i are the values of the model's own path, from whose tokens the
    second path starts. A layer without residual, as heads that pool are: there the second path is its attention on values alone.
    Source: Li, Wang, Duan, Li, "CLIP Surgery", arXiv 2304.05653, architecture surgery: v-v attention and dual paths.
    """
    layers = passed.transformer.layers
    start = max(0, len(layers) - count)
    with in_float32(*modules_from(passed.transformer, start)):
        path = passed.tokens[start].float()
        for layer, tokens in zip(layers[start:], passed.tokens[start:], strict=True):
            added = layer.out(layer.mix(_attend_values(layer, tokens.float(), passed.mask)))
            path = path + added if _has_residual(layer, path, added) else layer.finish(path, added)
        return normalize(read_patches(passed, path), dim=-1)


def _has_residual(layer: AttentionLayer, tokens: Tensor, added: Tensor) -> bool:
    """Whether the layer adds to its tokens; one that pools looks at them through its attention alone."""
    one, its = tokens[:, :1], added[:, :1]
    return not torch.equal(layer.finish(one, its), layer.finish(torch.zeros_like(one), its))


def _attend_values(layer: AttentionLayer, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(1,N,E): softmax(scale * v v^T) v, head by head."""
    _, _, values = layer.project(tokens)
    v = split_heads(values, layer.heads)
    return join_heads(scaled_dot_product_attention(v, v, v, attn_mask=None if mask is None else mask.to(v), scale=layer.scale))


@dataclass(frozen=True)
class ClipSurgery(Method):
    """CLIP Surgery. Maps are signed and raw: cosines, less what is redundant.

    layers: how many of the last layers have a second path. neutral: a text without content; the cosine with its feature is
    what a lone text's map is freed of. distractors: other texts; given, each text is compared with them as in the paper's
    main form, and what they share is taken away instead. A text's map never depends on what else was asked about.
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
        """One HeatMaps per target; the only target is "score"."""
        for name in map(target_name, targets):
            if name not in self.targets:
                raise WhyboxError(f"clip_surgery compares features with texts, and knows no {name!r}; use target 'score'")
        net: Any = model.network
        with frozen(net), torch.inference_mode(False), torch.no_grad():
            passed = model.transformer(trace)
            features = dual_path_features(passed, self.layers)
            overall = normalize(passed.embedding[0].float(), dim=-1)
            asked = [model.texts[label].text for label in detections.labels.tolist()]
            others = list(self.distractors or (self.neutral,))
            embedded = model.embed_texts([*asked, *others]).to(features)
            own, beside = embedded[: len(asked)], embedded[len(asked) :]
            assert passed.grid is not None
            maps = tuple(
                self._map(features, overall, text, row, beside).reshape(passed.grid) for text, row in zip(asked, own, strict=True)
            )
        return [self.heat_maps(maps, trace.frame, target) for target in targets]

    def _map(self, features: Tensor, overall: Tensor, text: str, own: Tensor, beside: Tensor) -> Tensor:
        """(P,) for one text, embedded (D,): features (P,D), the image's own embedding (D,), the other texts' (K,D)."""
        kept = [other != text for other in self.distractors]
        if any(kept):
            texts = torch.cat([own[None], beside[kept]])
            return clip_surgery_map(features @ texts.T, texts @ overall)[:, 0]
        return features @ (own - beside[0])
