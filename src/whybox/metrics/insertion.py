"""Insertion: the rise of an object's score while pixels appear in an empty image, those with the highest map values first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from whybox.metrics._pixel_curves import PixelCurves
from whybox.ops.perturb import Fill

PAPER: Mapping[str, Any] = {
    "legacy_iou": True,
    "resolution": "network",
    "floor": 0.05,
    "most": 500,
    "first_zero": True,
}
"""The options of the ODAM paper's numbers that are not the default here."""
GRAD_ECLIP: Mapping[str, Any] = {"extent": "half", "score": "top1"}
"""Those of the Grad-ECLIP paper's zero-shot accuracy, except for the last point, where its code shows the whole image."""


@dataclass(frozen=True)
class Insertion(PixelCurves):
    """The area under the score over the share of pixels shown. Pixels of equal value appear in random order.

    Source: as for deletion: Zhao, Hsiao, Chan, journal version of ODAM, after Petsiuk, Das, Saenko, RISE, BMVC 2018.

    Attributes:
        fill: The empty image, see `PixelCurves`, whose other options apply too.
        relative: Divide by the score of the whole image.
        first_zero: Set the first point to 0, as ODAM's reference implementation does, instead of scoring the empty image.
    """

    fill: Fill = "black"
    relative: bool = False
    first_zero: bool = False

    name: ClassVar[str] = "insertion"
    group: ClassVar[str] = "faithfulness"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "standard": ("", "fill=blurred"),
        "matching": ("extent=image", "extent=image:score=top1"),
        "fills": ("fill=random", "", "fill=mean", "fill=blurred"),
        "zero_shot": ("extent=image:score=top1", "extent=image:score=top5"),
    }
    removes: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, journal version, faithfulness; Petsiuk et al.: RISE, BMVC 2018"

    @property
    def starts_at_zero(self) -> bool:
        """Whether the first point is set to 0 instead of measured."""
        return self.first_zero
