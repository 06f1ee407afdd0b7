"""MaskCLIP: every patch compared with the text, as if the image were that patch alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from whybox.attention import ImageTextModel, TransformerPass
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.methods._dense_features import dense_features, key_similarity
from whybox.ops.hooks import frozen
from whybox.types import Detections, HeatMaps, Target, Trace


def maskclip_map(passed: TransformerPass, features: Tensor, factor: Tensor, detection: Detections, target: Target) -> Tensor:
    """The target's value for each patch's feature in place of the image's embedding, times the factor -> (h,w), signed.

    For the target "score" the value is cos(f_i, t), as in the paper. features: (P,D). factor: (P,). detection: the text's.
    Source: Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
    """
    assert passed.grid is not None
    everywhere = detection[[0] * len(features)]
    return (factor * target(passed.answer(features, everywhere))).reshape(passed.grid)


@dataclass(frozen=True)
class MaskClip(Method):
    """MaskCLIP: the last layer without its attention gives a feature per patch, and each is matched with the text.

    weigh_by_key: times cos(k_CLS, k_i), as the authors of Grad-ECLIP have it where they compare with MaskCLIP.
    """

    weigh_by_key: bool = False

    name: ClassVar[str] = "maskclip"
    title: ClassVar[str] = "MaskCLIP"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer", "text"})
    source: ClassVar[str] = "Zhou, Loy, Dai: Extract Free Dense Labels from CLIP, ECCV 2022, section 3.2"

    def __call__(self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target."""
        passed = model.transformer(trace)
        if self.weigh_by_key and not passed.first:
            raise WhyboxError(f"weigh_by_key compares with the class token, and {model.name} has none; leave it off")
        net: Any = model.network
        with frozen(net), torch.inference_mode(False), torch.no_grad():
            features = dense_features(passed)
            factor = key_similarity(passed) if self.weigh_by_key else features.new_ones(len(features))
            maps = [
                tuple(maskclip_map(passed, features, factor, detections[i], target) for i in range(len(detections)))
                for target in targets
            ]
        return [self.heat_maps(native, trace.frame, target) for native, target in zip(maps, targets, strict=True)]
