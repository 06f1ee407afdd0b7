"""Deletion: the fall of an object's score while pixels are replaced, those with the highest map values first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from whybox.metrics._pixel_curves import PixelCurves

# The last two are the filter of the paper's FCOS before NMS: class probabilities over .05, the best 500 of all levels.
PAPER: Mapping[str, Any] = {"legacy_iou": True, "resolution": "network", "floor": 0.05, "most": 500}
"""The options of the ODAM paper's numbers that are not the default here."""
GRAD_ECLIP: Mapping[str, Any] = {"extent": "half", "score": "top1", "relative": False}
"""Those of the Grad-ECLIP paper's zero-shot accuracy: its reference code takes .5 % of the pixels a step, 100 steps, and looks
every ten."""


@dataclass(frozen=True)
class Deletion(PixelCurves):
    """The area under score_k / score_0 over the share of pixels replaced. Pixels of equal value are replaced in random order.

    The options are those of `PixelCurves`.

    Source: Zhao, Hsiao, Chan, journal version of ODAM, after Petsiuk, Das, Saenko, RISE, BMVC 2018; the steps as in
    ODAM's reference code, which prints the curve and leaves the rule for its area open.
    """

    name: ClassVar[str] = "deletion"
    group: ClassVar[str] = "faithfulness"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "standard": ("", "fill=blurred"),
        "matching": ("extent=image:relative=false", "extent=image:score=top1:relative=false"),
        "fills": ("", "fill=black", "fill=mean", "fill=blurred"),
        "zero_shot": ("extent=image:score=top1:relative=false", "extent=image:score=top5:relative=false"),
    }
    removes: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, faithfulness; Petsiuk et al.: RISE, BMVC 2018"
