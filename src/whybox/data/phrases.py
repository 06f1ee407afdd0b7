"""Phrases of an adjective and a noun in a caption: "a red ball on the wet grass" -> "red ball", "wet grass"."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from whybox.data._phrase_words import ADJECTIVES, NO_ADJECTIVES, NO_NOUNS, NOUNS_IN_ING, NOUNS_IN_LY, SUFFIXES
from whybox.errors import WhyboxError, unknown

Tagger = Literal["rules", "nltk", "spacy"]
Kind = Literal["adjective", "noun", ""]
TAGGERS = ("rules", "nltk", "spacy")
TEMPLATE = "This is a photo of the {}"
"""SFF-CLIP's prompt for a phrase."""
MOST = 5
"""Phrases of a caption, at most, in SFF-CLIP."""
SPACY_MODEL = "en_core_web_sm"

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def phrases(caption: str, tagger: Tagger = "rules", most: int = MOST) -> tuple[str, ...]:
    """Find the phrases of a caption: an adjective and the noun that follows it.

    Args:
        caption: A caption in English.
        tagger: What tells adjectives and nouns: "rules", a list of words and suffixes; "nltk" or "spacy", whose model must be
            installed.
        most: How many phrases are kept, the first ones.

    Returns:
        The phrases in lower case, each once, in their order; () where there are none.

    Raises:
        WhyboxError: An unknown tagger, or one that is not installed.
    """
    words, joined = _words(caption)
    kinds = _kinds(tagger)(words)
    found: dict[str, None] = {}
    for i in range(len(words) - 1):
        if kinds[i] == "adjective" and kinds[i + 1] == "noun" and joined[i]:
            found[f"{words[i]} {words[i + 1]}"] = None
    return tuple(found)[:most]


def _words(caption: str) -> tuple[list[str], list[bool]]:
    """The words in lower case, and of each whether only whitespace lies between it and the next."""
    # Lower-cased once: a letter may become two, which moves what follows.
    text = caption.lower()
    places = list(_WORD.finditer(text))
    gaps = [text[place.end() : after.start()] for place, after in pairwise(places)]
    return [place[0] for place in places], [not gap.strip() for gap in gaps]


def _kinds(tagger: Tagger) -> Callable[[Sequence[str]], list[Kind]]:
    """The function that tells the kind of each word."""
    if tagger not in TAGGERS:
        raise unknown("tagger", tagger, TAGGERS)
    return {"rules": _by_rules, "nltk": _by_nltk, "spacy": _by_spacy}[tagger]


def _by_rules(words: Sequence[str]) -> list[Kind]:
    return ["adjective" if _is_adjective(word) else "noun" if _may_be_noun(word) else "" for word in words]


def _is_adjective(word: str) -> bool:
    if word in ADJECTIVES:
        return True
    parts = word.split("-")
    if len(parts) > 1:
        # "light-blue", "black-and-white", "white-haired".
        return parts[-1] in ADJECTIVES or parts[-1].endswith("ed")
    return len(word) > 4 and word.endswith(SUFFIXES) and word not in NO_ADJECTIVES


def _may_be_noun(word: str) -> bool:
    if word in NO_NOUNS or len(word) < 2:
        return False
    if word.endswith("ing"):
        return word in NOUNS_IN_ING
    return not word.endswith("ly") or word in NOUNS_IN_LY


def _by_nltk(words: Sequence[str]) -> list[Kind]:
    try:
        import nltk  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise WhyboxError("tagger 'nltk' needs NLTK: pip install nltk, or use tagger 'rules'") from error
    try:
        tagged = nltk.pos_tag(list(words))
    except LookupError as error:
        model = "averaged_perceptron_tagger_eng"
        raise WhyboxError(f"NLTK's tagger has no model here: nltk.download({model!r}) once, or use tagger 'rules'") from error
    return [_of_tag(tag, ("JJ",), ("NN",)) for _, tag in tagged]


def _by_spacy(words: Sequence[str]) -> list[Kind]:
    model = _spacy_model()
    return [_of_tag(token.pos_, ("ADJ",), ("NOUN", "PROPN")) for token in model(_doc(model.vocab, words))]


def _doc(vocabulary: Any, words: Sequence[str]) -> Any:
    """The words as they are: spaCy would split them in another way."""
    from spacy.tokens import Doc  # type: ignore[import-not-found,unused-ignore]

    return Doc(vocabulary, list(words))


@cache
def _spacy_model() -> Any:
    try:
        import spacy  # type: ignore[import-not-found,unused-ignore]

        return spacy.load(SPACY_MODEL)
    except ImportError as error:
        raise WhyboxError("tagger 'spacy' needs spaCy: pip install spacy, or use tagger 'rules'") from error
    except OSError as error:
        raise WhyboxError(f"spaCy has no model {SPACY_MODEL} here: install it once, or use tagger 'rules'") from error


def _of_tag(tag: str, adjectives: tuple[str, ...], nouns: tuple[str, ...]) -> Kind:
    return "adjective" if tag.startswith(adjectives) else "noun" if tag.startswith(nouns) else ""
