"""The words of a tiny CLIP: one token each, in the form of CLIP's own tokenizer."""

from pathlib import Path

import pytest

from whybox import zoo
from whybox.data.scenes import draw_scene
from whybox.training import clip_words

transformers = pytest.importorskip("transformers")

SHIPPED = Path(zoo.__file__).parent / "scenes_clip"


@pytest.fixture(scope="module")
def words():
    return clip_words.tokenizer(48)


def test_every_word_of_the_scenes_is_one_token(words):
    for index in range(60):
        for caption in draw_scene(index, seed=11, variant=("mixed", "crowd", "single")[index % 3]).captions:
            pieces = [piece + "</w>" for piece in caption.replace(",", " ,").split()]
            assert words.tokenize(caption) == pieces


def test_the_tokenizer_is_of_clips_form(words):
    ids = words("A Red  ball").input_ids
    assert ids == words("a red ball").input_ids
    assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    assert words.eos_token_id == len(words) - 1 == max(words.get_vocab().values()), "the end of a text is also its largest id"
    padded = words(["a ball", "a person in blue"], padding=True)
    assert padded.input_ids[0][4:] == [words.pad_token_id] * 2
    assert padded.attention_mask[0] == [1, 1, 1, 1, 0, 0]
    assert words("a red ball", return_offsets_mapping=True).offset_mapping[1:-1] == [(0, 1), (2, 5), (6, 10)]
    assert words.decode(ids, skip_special_tokens=True) == "a red ball"


def test_unknown_words_fall_into_letters_and_none_is_lost(words):
    assert words.tokenize("a zebra") == ["a</w>", "z", "e", "b", "r", "a</w>"]
    ids = words("ein schöner Ball 球").input_ids
    assert words.unk_token_id not in ids[1:-1]
    assert words.decode(ids, skip_special_tokens=True) == "ein schöner ball 球"


def test_the_shipped_folder_is_small_and_its_words_are_those_of_the_command(words):
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 6_000_000
    assert transformers.AutoTokenizer.from_pretrained(SHIPPED).get_vocab() == words.get_vocab()
