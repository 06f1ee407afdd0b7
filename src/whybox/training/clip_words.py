"""The words of a tiny CLIP: CLIP's own tokenizer, with the vocabulary of the scenes."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whybox.data.captions import TEMPLATES, WHERE, overview
from whybox.data.scenes import CLASSES
from whybox.errors import WhyboxError
from whybox.training.captioned_scenes import PHRASES, RELATIONS

# What CLIP's tokenizer writes at the end of a word.
END = "</w>"


def hugging_face() -> Any:
    """Import transformers.

    Returns:
        The package.

    Raises:
        WhyboxError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise WhyboxError("CLIP is trained with transformers: pip install 'whybox[hf]'") from error
    return transformers


def tokenizer(context: int) -> Any:
    """CLIP's tokenizer with its own vocabulary: all bytes, the words of the scenes, the start and the end of a text.

    Args:
        context: The largest number of tokens of a text.

    Returns:
        A fast tokenizer of transformers.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    merges = merge_letters(vocabulary())
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + END for letter in letters), *("".join(pair) for pair in merges)]
    ids = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return _clip_tokenizer(ids, merges, context)


def _clip_tokenizer(ids: dict[str, int], merges: list[tuple[str, str]], context: int) -> Any:
    transformers = hugging_face()
    if issubclass(transformers.CLIPTokenizer, transformers.PreTrainedTokenizerFast):
        return transformers.CLIPTokenizer(ids, merges, model_max_length=context)
    # Before transformers 5 the fast tokenizer has a name of its own and reads files.
    with TemporaryDirectory() as folder:
        words, pairs = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        words.write_text(json.dumps(ids), encoding="utf-8")
        pairs.write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8")
        return transformers.CLIPTokenizerFast(str(words), str(pairs), model_max_length=context)


def merge_letters(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges, first to last, that make one token of every word out of its letters.

    Args:
        words: The words.

    Returns:
        Pairs of pieces.

    Source: Sennrich et al., ACL 2016, byte-pair encoding, algorithm 1, until no word is left in pieces.
    """
    pieces = [(*word[:-1], word[-1] + END) for word in sorted(words)]
    merges = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        # Ties are broken by the pair itself, so that the tokens are the same in every run; in the tokenizers package they depend
        # on the order of a hash map (huggingface/tokenizers#1794).
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every occurrence of the pair, from the left, as one piece."""
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)


def vocabulary() -> set[str]:
    """Collect the words of all texts of the scenes.

    Returns:
        The words, and the comma.
    """
    many = [overview([name] * count, ["red"] * count, place) for name in CLASSES for count in range(2, 8) for place in WHERE]
    others = overview([], [], "room"), overview(CLASSES, ["red"] * len(CLASSES), "room")
    texts = [*map(str, PHRASES), *many, *others, *TEMPLATES, *RELATIONS]
    return {word for text in texts for word in re.findall(r"\w+|,", text)}
