"""Tokens, their places in the text and what is cut, for tokenizers of every make."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from models import hf_versions
from models.hf_models import tokenizer
from whybox.errors import WhyboxError
from whybox.models.hf._texts import check_texts, check_tokenizer, encode, own_tokens, read_texts


def clip_tokenizer():
    """CLIP's own byte-level BPE, with a few merges."""
    base = [bytes_ + end for bytes_ in pre_tokenizers.ByteLevel.alphabet() for end in ("", "</w>")]
    merges = [("r", "e"), ("re", "d</w>"), ("b", "a"), ("l", "l</w>"), ("ba", "ll</w>"), ("t", "re"), ("e", "e</w>")]
    words = [*sorted(base), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return hf_versions.clip_tokenizer({word: i for i, word in enumerate(words)}, merges)


def bert_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "ball", "##s", "tree", "play", "##ing", ",", "."]
    return hf_versions.bert_tokenizer(words)


def sentence_pieces():
    """As SigLIP's: pieces that carry the blank before them, an end, no start."""
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁ball", "s", "▁tree", "▁", "b", "a", "l"]
    known = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    known.normalizer = normalizers.Lowercase()
    known.pre_tokenizer = pre_tokenizers.Metaspace()
    known.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    known.decoder = decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


class Slow(transformers.PreTrainedTokenizer):
    """Pieces of whole words, one by one, without places."""

    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, **options):
        words = ["<pad>", "<s>", "</s>", "<unk>", "▁a", "▁red", "▁ball", "s", "▁dog", "é"]
        self.words = {word: i for i, word in enumerate(words)}
        names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        super().__init__(**names, special_tokens_pattern="bos_eos", **options)

    # Before transformers 5 special_tokens_pattern is not known, and these two say the same.
    def build_inputs_with_special_tokens(self, ids, other=None):
        return [self.bos_token_id, *ids, self.eos_token_id]

    def get_special_tokens_mask(self, ids, other=None, already_has_special_tokens=False):
        return [1, *[0] * len(ids), 1]

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return dict(self.words)

    def _tokenize(self, text, **options):
        return [piece for word in text.lower().split() for piece in self._pieces(f"▁{word}")]

    def _pieces(self, word):
        found = []
        while word:
            end = next((end for end in range(len(word), 0, -1) if word[:end] in self.words), None)
            found.append(word[:end] if end else "<unk>")
            word = word[end:] if end else word[1 + word.startswith("▁") :]
        return found

    def _convert_token_to_id(self, token):
        return self.words.get(token, 3)

    def _convert_id_to_token(self, index):
        return list(self.words)[index]


def read(own, *texts, context=32):
    encoded = encode(own, texts, context, full=True, side="right")
    found = read_texts(own, texts, encoded)
    assert [len(text.tokens) for text in found] == own_tokens(encoded).sum(1).tolist()
    for text in found:
        assert all(text.text[start:end] == token for token, (start, end) in zip(text.tokens, text.spans, strict=True))
        assert len(text.word_of()) == len(text.tokens)
    return found if len(found) > 1 else found[0]


MAKES = {
    "words": tokenizer,
    "CLIP": clip_tokenizer,
    "BERT": bert_tokenizer,
    "sentence pieces": sentence_pieces,
    "slow": Slow,
    "bytes": transformers.ByT5Tokenizer,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("text", ["a red ball", "  A  RED\tball ", "a red ball\n"])
def test_words_stand_where_the_text_has_them(make, text):
    found = read(make(), text)
    assert [word.lower() for word in found.words] == ["a", "red", "ball"]
    by_word = {}
    for token, word in zip(found.tokens, found.word_of(), strict=True):
        by_word[word] = by_word.get(word, "") + token
    assert [by_word[i].lower() for i in range(3)] == ["a", "red", "ball"]


def test_pieces_of_bpe_have_no_marks():
    found = read(clip_tokenizer(), "Red balls, 3 trees")
    assert found.tokens == ("Red", "ba", "l", "l", "s", ",", "3", "tre", "e", "s")
    assert found.words == ("Red", "balls,", "3", "trees")
    assert found.word_of() == (0, 1, 1, 1, 1, 1, 2, 3, 3, 3)


def test_pieces_of_word_pieces_have_no_marks():
    found = read(bert_tokenizer(), "A red ball, playing balls.")
    assert found.tokens == ("A", "red", "ball", ",", "play", "ing", "ball", "s", ".")
    assert found.words == ("A", "red", "ball,", "playing", "balls.")


def test_pieces_of_sentence_pieces_have_no_marks():
    found = read(sentence_pieces(), "a red  Balls")
    assert found.tokens == ("a", "red", "", "Ball", "s")
    assert found.spans[2] == (7, 7)
    assert found.word_of() == (0, 1, 2, 2, 2)


def test_places_without_offsets_are_found():
    found = read(Slow(), "A red balls zebra dog")
    assert found.tokens[:4] == ("A", "red", "ball", "s")
    assert found.words == ("A", "red", "balls", "zebra", "dog")
    assert set(found.word_of()[4:-1]) == {3}
    assert found.tokens[-1] == "dog"


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize(
    "text", ["a 🎈 red", "名前", "é", "e\u0301 a", "a\u200bred", "İ a red", "<pad> a", "🎈🎈 🎈", "\x00a red"]
)
def test_unknown_characters_break_nothing(make, text):
    found = read(make(), text)
    assert found.tokens
    assert found.cut == ""


@pytest.mark.parametrize(
    ("make", "text", "unknown"),
    [
        (tokenizer, "a zebra red zebra, 名前", ("zebra", ",", "名前")),
        (bert_tokenizer, "a zebra red zebra 名", ("zebra", "名")),
        (clip_tokenizer, "a zebra 名前", ()),
        (tokenizer, "a red ball", ()),
    ],
)
def test_what_is_not_in_the_vocabulary_is_told(make, text, unknown):
    assert read(make(), text).unknown == unknown


@pytest.mark.parametrize("left", [True, False])
def test_only_what_was_read_can_be_unknown(left):
    side = "left" if left else "right"
    found = read(tokenizer(truncation_side=side), "zebra red ball giraffe", context=5)
    assert (found.cut, found.unknown) == (("zebra", ("giraffe",)) if left else ("giraffe", ("zebra",)))


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_what_does_not_fit_is_told(make):
    own = make()
    text = "a red ball " * 4
    whole = read(own, text, context=100)
    assert whole.cut == ""
    short = read(own, text, context=9)
    count = len(short.tokens)
    assert count in (7, 8)  # start and end, or the end alone, take a place of the nine
    assert short.spans == whole.spans[:count]
    assert short.cut == text[whole.spans[count - 1][1] :].strip()
    assert short.cut.endswith("red ball")


@pytest.mark.parametrize("make", [tokenizer, Slow])
def test_what_does_not_fit_on_the_left_is_told(make):
    own = make(truncation_side="left")
    found = read(own, "a red ball dog", context=5)
    assert found.tokens == ("red", "ball", "dog")
    assert found.cut == "a"


def test_texts_of_unequal_length():
    short, long = read(tokenizer(), "a tree", "a big red ball")
    assert (short.tokens, long.tokens) == (("a", "tree"), ("a", "big", "red", "ball"))


@pytest.mark.parametrize("texts", [[""], ["a red ball", "  \n"]])
def test_empty_texts_are_refused(texts):
    with pytest.raises(WhyboxError, match="a text is empty"):
        check_texts(texts)
    with pytest.raises(WhyboxError, match="there is no text: give at least one"):
        check_texts([])


@pytest.mark.parametrize("texts", ["a red ball", [3], [None], ["a", b"b"]])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(WhyboxError, match="texts must be a list of texts, got"):
        check_texts(texts)


def test_a_text_without_tokens_is_refused():
    known = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))
    known.normalizer = normalizers.Replace("!", "")
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", unk_token="<unk>")
    with pytest.raises(WhyboxError, match="the tokenizer finds no token in the text '!!'"):
        read(own, "!!")


def test_tokenizers_that_are_none_are_refused():
    with pytest.raises(WhyboxError, match="tokenizer must be one of transformers' tokenizers, got function"):
        check_tokenizer(clip_tokenizer)


@pytest.mark.skipif(not hf_versions.NEW, reason="before transformers 5 a tokenizer without a vocabulary cannot be made")
def test_tokenizers_without_words_are_refused():
    with pytest.raises(WhyboxError, match="the CLIPTokenizer knows no words"):
        check_tokenizer(transformers.CLIPTokenizer())


def test_a_tokenizer_without_padding_is_refused_where_it_needs_it():
    own = tokenizer(pad_token=None)
    assert encode(own, ["a red ball"], 16, full=False, side="right")["input_ids"].shape == (1, 5)
    with pytest.raises(WhyboxError, match="has no token for padding: set its pad_token"):
        encode(own, ["a", "a ball"], 16, full=False, side="right")


def test_own_tokens_are_neither_start_nor_end_nor_padding():
    encoded = encode(tokenizer(), ["a red ball", "tree"], 16, full=False, side="right")
    assert torch.equal(own_tokens(encoded), torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]).bool())
