"""Texts as a model might have read them, and made-up maps and weights for them."""

import re

import torch

from whybox.attention import Text, TokenMaps
from whybox.frame import Frame
from whybox.report.match import Asked, Match
from whybox.report.texts import distinct_words
from whybox.types import HeatMaps

CROPPED = Frame(image=(90, 120), resized=(48, 64), network=(48, 48), offset=(0, -8))
"""An image of which the network saw the middle."""

TEXTS = ("a red ball, left of a tree", "a dog")


def read_text(text, cut=""):
    """A text whose words of more than four letters have two tokens."""
    start = text.rfind(cut) if cut else len(text)
    tail = start > 0
    spans = []
    for found in re.finditer(r"\w+|[^\w\s]", text):
        if found.start() < start if tail else found.start() >= len(cut):
            middle = found.start() + (len(found.group()) // 2 if len(found.group()) > 4 else 0)
            spans += [(found.start(), middle), (middle, found.end())] if middle > found.start() else [found.span()]
    return Text(text, tuple(text[start:end] for start, end in spans), tuple(spans), cut)


def made_up_asked(names, seed=0, grid=(6, 6), frame=CROPPED, **options):
    generator = torch.Generator().manual_seed(seed)
    native = tuple(torch.rand(grid, generator=generator) * 10.0**-i for i in range(len(names)))
    maps = HeatMaps(native, frame, "score", "grad_eclip", {"heads": "native", "layers": 1, **options})
    return Asked(tuple(names), torch.linspace(0.3, 0.1, len(names)), maps)


def made_up_tokens(texts, seed=1):
    generator = torch.Generator().manual_seed(seed)
    values = tuple(torch.rand(len(text.tokens), generator=generator) for text in texts)
    return TokenMaps(values, tuple(texts), "grad_eclip", "score", {"heads": "native", "text_layers": 8})


def made_up_match(texts=TEXTS, **fields):
    read = [read_text(text) if isinstance(text, str) else text for text in texts]
    given = {"name": "park.jpg", "image": torch.rand((3, 90, 120), generator=torch.Generator().manual_seed(2))}
    given |= {"asked": made_up_asked([text.text for text in read]), "texts": read, "tokens": made_up_tokens(read)}
    given |= {"words": made_up_asked(distinct_words(read), seed=3), "model": "toy", "seconds": {"trace": 0.5, "maps": 0.1}}
    return Match(**given | fields)
