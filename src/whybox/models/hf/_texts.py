"""Texts through a Hugging Face tokenizer: what the network reads, and where each token stands in the text."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from whybox.attention import Text
from whybox.errors import WhyboxError

Span = tuple[int, int]


def check_texts(texts: Any) -> None:
    """Refuse what is no list of texts."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise WhyboxError(f"texts must be a list of texts, got {texts!r}")
    if not texts:
        raise WhyboxError("there is no text: give at least one")
    for text in texts:
        if not text.strip():
            raise WhyboxError(f"a text is empty ({text!r}): write what to look for")


def check_tokenizer(tokenizer: Any) -> Any:
    """Refuse what is none, or knows nothing: from a folder without a vocabulary an empty one may come."""
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise WhyboxError(f"tokenizer must be one of transformers' tokenizers, got {type(tokenizer).__name__}")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise WhyboxError(
            f"the {type(tokenizer).__name__} knows no words: save the model's tokenizer into its folder, or give tokenizer="
        )
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], context: int, *, full: bool, side: str) -> Any:
    """The tokenizer's answer for T texts, at most `context` tokens each, padded to the longest or, where full, to `context`.

    side: where the padding stands.
    """
    if tokenizer.pad_token is None and (full or len(texts) > 1):
        raise WhyboxError(f"{type(tokenizer).__name__} has no token for padding: set its pad_token")
    return tokenizer(
        list(texts),
        padding="max_length" if full else len(texts) > 1,
        padding_side=side,
        truncation=True,
        max_length=context,
        return_tensors="pt",
        return_special_tokens_mask=True,
        return_offsets_mapping=tokenizer.is_fast,
    )


def own_tokens(encoded: Any) -> Tensor:
    """(T,N) which tokens are the text's own."""
    own: Tensor = encoded["special_tokens_mask"] == 0
    return own & (encoded["attention_mask"] > 0) if "attention_mask" in encoded else own


def read_texts(tokenizer: Any, texts: Sequence[str], encoded: Any) -> tuple[Text, ...]:
    """Each text with its tokens, their places, and what was cut off."""
    own = own_tokens(encoded)
    return tuple(_read(tokenizer, text, int(own[row].sum())) for row, text in enumerate(texts))


def _read(tokenizer: Any, text: str, count: int) -> Text:
    """count: how many of its tokens fit into the context."""
    if not count:
        raise WhyboxError(f"the tokenizer finds no token in the text {text!r}: nothing of it would reach the model")
    spans = tuple(_without_blanks(text, place) for place in _places(tokenizer, text))
    at_end = tokenizer.truncation_side != "left"
    kept = spans[:count] if at_end else spans[-count:]
    cut = ""
    if count < len(spans):
        cut = text[max(end for _, end in kept) :] if at_end else text[: kept[0][0]]
    tokens = tuple(text[start:end] for start, end in kept)
    return Text(text, tokens, kept, cut.strip(), _unknown(tokenizer, text, tokens, at_end))


def _unknown(tokenizer: Any, text: str, tokens: Sequence[str], at_end: bool) -> tuple[str, ...]:
    """Which of the kept tokens the vocabulary does not hold, each once."""
    # verbose=False, because tokenizers warn of texts that are longer than the context, and this one is not given to the network.
    numbers = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    kept = numbers[: len(tokens)] if at_end else numbers[-len(tokens) :]
    strange = (token for token, number in zip(tokens, kept, strict=True) if number == tokenizer.unk_token_id)
    return tuple(dict.fromkeys(strange))


def _places(tokenizer: Any, text: str) -> list[Span]:
    """Where the text's tokens stand in it; of tokenizers that do not tell, found word by word."""
    if tokenizer.is_fast:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return [(int(start), int(end)) for start, end in offsets]
    pieces = tokenizer.tokenize(text)
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    # Word by word places are surer, where that gives the same pieces; a tokenizer may also join words.
    apart = [tokenizer.tokenize(text[start:end]) for start, end in words]
    if list(chain(*apart)) != pieces:
        return _align(text, pieces, (0, len(text)))
    return list(chain(*(_align(text, own, word) for own, word in zip(apart, words, strict=True))))


def _align(text: str, pieces: Sequence[str], within: Span) -> list[Span]:
    """Places of the pieces of one stretch of text, each looked for from the end of the last one on, in any case. One that is
    not there, because it stands for an unknown character, is put on the next character; if it is alone, on all of them."""
    at, end = within
    if len(pieces) == 1:
        return [within]
    # Some letters have two in lower case ("İ"), and all places behind them would shift.
    folded = text.lower() if len(text.lower()) == len(text) else text
    places = []
    for piece in pieces:
        letters = piece.removeprefix("##").strip("▁Ġ ").removesuffix("</w>").lower()
        found = folded.find(letters, at, end)
        if found < 0:
            start = next((i for i in range(at, end) if not text[i].isspace()), end - 1)
            places.append((start, start + 1))
        else:
            at = found + len(letters)
            places.append((found, at))
    return places


def _without_blanks(text: str, place: Span) -> Span:
    """The place without blanks around it; of a token that is blank, the next character's, or the last one's, as an empty one."""
    start, end = place
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start == end:
        last = len(text.rstrip()) - 1
        start = end = next((at for at in range(start, last) if not text[at].isspace()), last)
    return start, end
