"""Text deletion: the fall of the cosine while words are removed, those with the highest values first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from whybox.metrics._word_curves import WordCurves


@dataclass(frozen=True)
class TextDeletion(WordCurves):
    """The area under the cosine of image and text while words are removed, from the whole text to the last word.

    The options are those of `WordCurves`. Words of equal value are removed in random order.

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
