"""Text insertion: how fast the match rises when the words that the method puts first come one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from whybox.metrics._word_curves import WordCurves


@dataclass(frozen=True)
class TextInsertion(WordCurves):
    """The area under the cosine of image and text while words come, from the first word alone to the whole text.

    The options are those of `WordCurves`. The words stand in the text's own order; those of equal value come in random
    order, with the detection's seed.
    Source: as for text deletion: after Zhao et al., Grad-ECLIP, ICML 2024; the protocol is ours.
    """

    name: ClassVar[str] = "text_insertion"
    group: ClassVar[str] = "words"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"matching": ("",)}
    title: ClassVar[str] = "Text insertion"
    removes: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    source: ClassVar[str] = "after Zhao et al.: Grad-ECLIP, ICML 2024, which names no protocol"
