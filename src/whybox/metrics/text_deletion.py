"""Text deletion: how fast the match falls when the words that the method puts first are taken from the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from whybox.metrics._word_curves import WordCurves


@dataclass(frozen=True)
class TextDeletion(WordCurves):
    """The area under the cosine of image and text while words go, from the whole text to the last word that is left.

    The options are those of `WordCurves`. Words of equal value go in random order, with the detection's seed.
    Source: the idea: Zhao et al., Grad-ECLIP, ICML 2024. No protocol is published: words instead of tokens, one word left
    instead of an empty text, and the raw cosine are ours.
    """

    name: ClassVar[str] = "text_deletion"
    group: ClassVar[str] = "words"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    title: ClassVar[str] = "Text deletion"
    removes: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    source: ClassVar[str] = "after Zhao et al.: Grad-ECLIP, ICML 2024, which names no protocol"
