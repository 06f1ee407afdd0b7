"""Insertion: how fast an object's score rises when the pixels that its map puts first appear in an empty image."""

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
"""Those of the Grad-ECLIP paper's zero-shot accuracy, but for its last point: there the reference code shows the whole image."""


@dataclass(frozen=True)
class Insertion(PixelCurves):
    """The area under the score over the share of pixels shown.

    The options are those of `PixelCurves`, from an empty image of color "black" and without dividing by the score in
    the whole image. first_zero: set the first point to 0, as ODAM's reference implementation does, instead of looking at
    the empty image. Equally high pixels appear in random order, with the detection's seed.
    Source: as for deletion: Zhao, Hsiao, Chan, journal version of ODAM, after Petsiuk, Das, Saenko, RISE, BMVC 2018.
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
