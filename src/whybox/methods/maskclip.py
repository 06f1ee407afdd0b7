"""MaskCLIP: each patch's dense feature compared with the text."""

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


def maskclip_map(
    transformer_pass: TransformerPass, features: Tensor, factor: Tensor, detection: Detections, target: Target
) -> Tensor:
    """The target's value with each patch's feature in place of the image's embedding, times a factor; signed. For the target
    "score" the value is cos(f_i, t), as in the paper.

    Args:
        transformer_pass: The image's pass.
        features: f (P,D).
        factor: (P,).
        detection: One detection, of the text.
        target: The scalar to explain.

    Returns:
        (h,w)

    Source: Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
    """
    assert transformer_pass.grid is not None
    # One copy per patch: a target gives row i of the features the value of detection i.
    everywhere = detection[[0] * len(features)]
    return (factor * target(transformer_pass.answer(features, everywhere))).reshape(transformer_pass.grid)


@dataclass(frozen=True)
class MaskClip(Method):
    """MaskCLIP: the last layer without its attention gives one feature per patch, and each is compared with the text.

    Attributes:
        weigh_by_key: Multiply by cos(k_CLS, k_i), as the authors of Grad-ECLIP do in their comparison with MaskCLIP.
    """

    weigh_by_key: bool = False

    name: ClassVar[str] = "maskclip"
    title: ClassVar[str] = "MaskCLIP"
    needs: ClassVar[frozenset[str]] = frozenset({"transformer", "text"})
    source: ClassVar[str] = "Zhou, Loy, Dai: Extract Free Dense Labels from CLIP, ECCV 2022, section 3.2"

    def __call__(self, model: ImageTextModel, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.

        Raises:
            WhyboxError: `weigh_by_key` is set, and the model has no class token.
        """
        transformer_pass = model.transformer(trace)
        if self.weigh_by_key and not transformer_pass.first:
            raise WhyboxError(f"weigh_by_key compares with the class token, and {model.name} has none; leave it off")
        net: Any = model.network
        with frozen(net), torch.inference_mode(False), torch.no_grad():
            features = dense_features(transformer_pass)
            factor = key_similarity(transformer_pass) if self.weigh_by_key else features.new_ones(len(features))
            maps = [
                tuple(maskclip_map(transformer_pass, features, factor, detections[i], target) for i in range(len(detections)))
                for target in targets
            ]
        return [self.heat_maps(native, trace.frame, target) for native, target in zip(maps, targets, strict=True)]
