"""open_clip's tokenizers: ids, and the place of each of a text's own tokens in the original text."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from re import finditer
from typing import Any

import torch
from torch import Tensor

from whybox.attention import Text
from whybox.errors import WhyboxError

Piece = tuple[int, int, int]
"""A token's id, and its characters in the cleaned text: start, end."""

_WORD_END = "</w>"
_MOST_BEFORE = 3
"""The largest number of start tokens before a text's own."""


def check_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, where its tokens can be aligned with the text."""
    alignable = hasattr(tokenizer, "bpe") or getattr(getattr(tokenizer, "tokenizer", None), "is_fast", False)
    if not alignable:
        raise WhyboxError(
            f"tokenizer must be open_clip's SimpleTokenizer, or its HFTokenizer with a fast tokenizer, as "
            f"open_clip.get_tokenizer gives them; got {type(tokenizer).__name__}"
        )
    if getattr(tokenizer, "reduction_fn", None) is not None:
        raise WhyboxError("tokenizer drops tokens at random (reduction_mask), as for training: make it without")
    return tokenizer


def read_texts(tokenizer: Any, texts: Sequence[str], context: int) -> tuple[Tensor, Tensor, tuple[Text, ...]]:
    """Tokenize texts.

    Args:
        tokenizer: One of open_clip's.
        texts: T texts.
        context: The network's number of tokens; 0: the tokenizer's own.

    Returns:
        ids (T,context), words (T,context) which of them are the text's own, and the T texts.
    """
    for i, text in enumerate(texts):
        _check_text(text, f"text {i + 1}")
    ids: Tensor = tokenizer(list(texts), context_length=context or None)
    words, read = torch.zeros_like(ids, dtype=torch.bool), []
    # Tokenized once more, piece by piece: the network's input does not tell where a token stands in the text.
    for i, text in enumerate(texts):
        cleaned = tokenizer.clean_fn(text)
        pieces = list(_byte_pairs(tokenizer, cleaned) if hasattr(tokenizer, "bpe") else _hugging_face(tokenizer, cleaned))
        if not pieces:
            raise WhyboxError(f"text {i + 1}, {text!r}, is empty once the tokenizer has cleaned it; give some words")
        start, count = _find_own(ids[i].tolist(), [piece[0] for piece in pieces], text)
        words[i, start : start + count] = True
        read.append(_text(text, cleaned, pieces, count))
    return ids, words, tuple(read)


def _check_text(text: Any, which: str) -> None:
    if not isinstance(text, str):
        raise WhyboxError(f"{which} must be a string, got {type(text).__name__}")
    if not text.strip():
        raise WhyboxError(f"{which} is empty; give some words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WhyboxError(f"{which} holds half a character (a lone surrogate) at position {error.start}; remove it") from error


def _byte_pairs(tokenizer: Any, cleaned: str) -> Iterator[Piece]:
    """CLIP's tokenizer: words by a pattern, then byte-pair encoding of each word; a token may be part of a character."""
    for found in tokenizer.pat.finditer(cleaned):
        word = found.group()
        # Where each character's bytes start, and where the last one's end.
        starts = [0, *accumulate(len(letter.encode()) for letter in word)]
        at = 0
        for piece in tokenizer.bpe("".join(tokenizer.byte_encoder[byte] for byte in word.encode())).split(" "):
            end = at + len(piece.removesuffix(_WORD_END))
            first, behind = bisect_right(starts, at) - 1, bisect_left(starts, end)
            yield tokenizer.encoder[piece], found.start() + first, found.start() + behind
            at = end


def _hugging_face(tokenizer: Any, cleaned: str) -> Iterator[Piece]:
    read = tokenizer.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for number, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        yield number, start, end


def _find_own(row: Sequence[int], own: Sequence[int], text: str) -> tuple[int, int]:
    """Where the text's own ids start in the network's input, and how many of them are in it."""
    # With the start negated, ties go to the first one.
    count, start = max((_shared(row[start:], own), -start) for start in range(min(_MOST_BEFORE + 1, len(row))))
    if not count:
        raise WhyboxError(
            f"the tokenizer's pieces of {text!r} are not in what it gives the network: use the model's own tokenizer"
        )
    return -start, count


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _text(text: str, cleaned: str, pieces: Sequence[Piece], count: int) -> Text:
    places = align(text, cleaned)
    spans = [_span(places, cleaned, start, end) for _, start, end in pieces]
    cut = text[spans[count][0] :].rstrip() if count < len(pieces) else ""
    names = (cleaned[start:end].strip() for _, start, end in pieces[:count])
    return Text(text, tuple(names), tuple(spans[:count]), cut)


def _span(places: Sequence[tuple[int, int]], cleaned: str, start: int, end: int) -> tuple[int, int]:
    """The place in the original of the characters start to end of the cleaned text, without surrounding whitespace."""
    inside = [i for i in range(start, end) if not cleaned[i].isspace()]
    if inside:
        return places[inside[0]][0], max(places[i][1] for i in inside)
    # A token of whitespace alone gets the place of the next character.
    after = next((i for i in range(end, len(cleaned)) if not cleaned[i].isspace()), None)
    place = places[-1][1] - 1 if after is None else places[after][0]
    return place, place


def align(original: str, cleaned: str) -> list[tuple[int, int]]:
    """For each character of the cleaned text, its (start, end) in the original.

    Cleaning lower-cases, repairs encodings, unescapes HTML and drops whitespace or punctuation. Texts that keep their number of
    words are aligned word by word, others as a whole, by their longest common substrings.
    """
    ours, theirs = ([found.span() for found in finditer(r"\S+", text)] for text in (original, cleaned))
    if len(ours) != len(theirs):
        return [_visible(original, *place) for place in _align_run(original, cleaned)]
    places: list[tuple[int, int]] = []
    for (start, end), (first, last) in zip(ours, theirs, strict=True):
        places += (places[-1:] or [(start, start)]) * (first - len(places))
        places += [(start + i, start + j) for i, j in _align_run(original[start:end], cleaned[first:last])]
    return [_visible(original, *place) for place in places]


def _align_run(original: str, cleaned: str) -> list[tuple[int, int]]:
    """As `align`; an added character has an empty place."""
    places: list[tuple[int, int]] = []
    # Without autojunk, which ignores frequent letters from 200 characters on.
    runs = SequenceMatcher(None, _folded(original), _folded(cleaned), autojunk=False)
    for kind, start, end, first, last in runs.get_opcodes():
        if kind == "equal":
            places += [(i, i + 1) for i in range(start, end)]
        else:
            places += [(start, end)] * (last - first)
    return places


def _folded(text: str) -> str:
    """Lower case, character by character, so that the length stays the same."""
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in text)


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """The place without surrounding whitespace; for an empty place, the nearest character before it, or else after it."""
    inside = [i for i in range(start, end) if not text[i].isspace()]
    if inside:
        return inside[0], inside[-1] + 1
    near = next((i for i in range(start - 1, -1, -1) if not text[i].isspace()), None)
    if near is None:
        near = next(i for i in range(end, len(text)) if not text[i].isspace())
    return near, near + 1
