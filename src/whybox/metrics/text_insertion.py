"""Text insertion: the rise of the cosine while words are added, those with the highest values first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from whybox.metrics._word_curves import WordCurves


@dataclass(frozen=True)
class TextInsertion(WordCurves):
    """The area under the cosine of image and text while words are added, from one word to the whole text.

    The options are those of `WordCurves`. Words keep the text's order; words of equal value are added in random order.

    Source: as for text deletion: after Zhao et al., Grad-ECLIP, ICML 2024; the protocol is ours.
    """

    name: ClassVar[str] = "text_insertion"
    group: ClassVar[str] = "words"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    title: ClassVar[str] = "Text insertion"
    removes: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    source: ClassVar[str] = "after Zhao et al.: Grad-ECLIP, ICML 2024, which names no protocol"
