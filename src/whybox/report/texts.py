"""A text in pieces, as pages show it: its words with their weights, what was cut, and what is between."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from whybox.attention import Text, TokenMaps

AT_EDGES = "\"'`.,;:!?()[]{}<>«»“”„‘’…"
"""Punctuation that is removed around a word before it is matched alone."""


def alone(word: str) -> str:
    """The form in which a word is matched alone.

    Args:
        word: A word of a text.

    Returns:
        The word without the punctuation around it, unless there is nothing else.
    """
    return word.strip(AT_EDGES) or word


def distinct_words(texts: Sequence[Text]) -> list[str]:
    """The words of all texts in the form in which they are matched alone, each once.

    Args:
        texts: The texts.

    Returns:
        The words, in the order of their first occurrence.
    """
    return list(dict.fromkeys(alone(word) for text in texts for word in text.words))


def encode_text(text: Text, tokens: TokenMaps | None, index: int, places: Mapping[str, int]) -> list[dict[str, Any]]:
    """The text from its first character to its last, in pieces.

    Args:
        text: The text.
        tokens: The weights of several texts' tokens; None: it has none.
        index: The text's place among them.
        places: The places of the words that were matched alone, in the form of `alone`; {} where none was.

    Returns:
        Dicts ready for JSON: each with "text", words also with "weight", "share" of all words, "tokens" and "alone", what did
        not fit into the model's context with "cut".
    """
    words = [] if tokens is None else _words(text, tokens, index, places)
    marks = [(start, end, word) for (start, end), word in zip(text.word_spans(), words, strict=False)]
    if text.cut:
        marks.append((*_cut_span(text), {"cut": True}))
    pieces: list[dict[str, Any]] = []
    at = 0
    for start, end, what in sorted(marks, key=lambda mark: mark[:2]):
        # Spans may overlap: a piece never starts before the end of the last one, so that the pieces join to the text.
        pieces += [{"text": text.text[at : max(start, at)]}, {"text": text.text[max(start, at) : end], **what}]
        at = max(at, end)
    return [piece for piece in [*pieces, {"text": text.text[at:]}] if piece["text"]]


def _cut_span(text: Text) -> tuple[int, int]:
    """The characters of the part that did not fit: at the end or, for tokenizers that keep the end, at the start."""
    # The last occurrence: a text may repeat words that were cut.
    start = text.text.rfind(text.cut)
    return (0, len(text.cut)) if any(begin >= start for begin, _ in text.spans) else (start, start + len(text.cut))


def _words(text: Text, tokens: TokenMaps, index: int, places: Mapping[str, int]) -> list[dict[str, Any]]:
    # JSON has no NaN, and a word without a weight has no color either.
    weights = torch.nan_to_num(tokens.word_values(index).detach().cpu().float())
    whole = float(weights.abs().sum())
    pairs = list(zip(text.word_of(), text.tokens, tokens.values[index].tolist(), strict=True))
    return [
        {
            "weight": weight,
            "share": weight / whole if whole else 0.0,
            "tokens": [[token, value if math.isfinite(value) else None] for owner, token, value in pairs if owner == place],
            "alone": places.get(alone(word)),
        }
        for place, (word, weight) in enumerate(zip(text.words, weights.tolist(), strict=True))
    ]
