"""Texts through a Hugging Face tokenizer: what the network reads, and where each token stands in the text."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from whybox.attention import Text
from whybox.errors import WhyboxError

Span = tuple[int, int]


def check_texts(texts: Any) -> None:
    """Refuse what is no list of texts."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise WhyboxError(f"texts must be a list of texts, got {texts!r}")
    for text in texts:
        if not text.strip():
            raise WhyboxError(f"a text is empty ({text!r}): write what to look for")


def has_words(tokenizer: Any) -> bool:
    """Whether it knows more than its special tokens: from a folder without a vocabulary an empty tokenizer may come."""
    return len(tokenizer) > len(tokenizer.all_special_ids)


def encode(tokenizer: Any, texts: Sequence[str], context: int, *, full: bool) -> Any:
    """The tokenizer's answer for T texts, at most `context` tokens each, padded to the longest or, where full, to `context`."""
    if tokenizer.pad_token is None and (full or len(texts) > 1):
        raise WhyboxError(f"{type(tokenizer).__name__} has no token for padding: set its pad_token")
    return tokenizer(
        list(texts),
        padding="max_length" if full else len(texts) > 1,
        truncation=True,
        max_length=context,
        return_tensors="pt",
        return_special_tokens_mask=True,
        return_offsets_mapping=tokenizer.is_fast,
    )


def own_tokens(encoded: Any) -> Tensor:
    """(T,N) which tokens are the text's own."""
    own = encoded["special_tokens_mask"] == 0
    return own & (encoded["attention_mask"] > 0) if "attention_mask" in encoded else own


def read_texts(tokenizer: Any, texts: Sequence[str], encoded: Any) -> tuple[Text, ...]:
    """Each text with its tokens, their places, and what was cut off."""
    return tuple(_read(tokenizer, text, encoded, row) for row, text in enumerate(texts))


def _read(tokenizer: Any, text: str, encoded: Any, row: int) -> Text:
    own = own_tokens(encoded)[row]
    if tokenizer.is_fast:
        places = [(int(start), int(end)) for start, end in encoded["offset_mapping"][row][own]]
    else:
        places = _align(text, tokenizer.convert_ids_to_tokens(encoded["input_ids"][row][own].tolist()))
    if not places:
        raise WhyboxError(f"the tokenizer finds no token in the text {text!r}: nothing of it would reach the model")
    spans = tuple(_without_blanks(text, place) for place in places)
    whole = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    cut = ""
    if whole > len(spans):
        left = tokenizer.truncation_side == "left"
        cut = text[: spans[0][0]].strip() if left else text[max(end for _, end in spans) :].strip()
    return Text(text, tuple(text[start:end] for start, end in spans), spans, cut)


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


def _align(text: str, pieces: Sequence[str]) -> list[Span]:
    """Places of pieces that come without offsets: each is looked for from the end of the last one on, in any case. One that
    is not there, because it stands for an unknown character, is put on the next character."""
    folded, at, places = text.lower(), 0, []
    if len(folded) != len(text):
        folded = text
    for piece in pieces:
        letters = piece.removeprefix("##").strip("▁Ġ ").removesuffix("</w>").lower()
        found = folded.find(letters, at)
        if found < 0:
            start = min(at, len(text) - 1)
            while start < len(text) - 1 and text[start].isspace():
                start += 1
            places.append((start, start + 1))
            continue
        at = found + len(letters)
        places.append((found, at))
    return places
