"""Phrases of an adjective and a noun: by rules, and by taggers that may be missing."""

import sys
from types import SimpleNamespace

import pytest

from whybox.data import phrases as module
from whybox.data.phrases import phrases
from whybox.data.scenes import draw_scene
from whybox.errors import UnknownNameError, WhyboxError


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the red ball", ("red ball",)),
        ("A Red BALL, and a big blue car.", ("red ball", "blue car")),
        ("a bowl of fresh fruit on a wooden table", ("fresh fruit", "wooden table")),
        ("wet, green grass", ("green grass",)),
        ("a white and black cat", ("black cat",)),
        ("a light-blue sky over a white-haired man", ("light-blue sky", "white-haired man")),
        ("a black-and-white photo", ("black-and-white photo",)),
        ("a beautiful garden with a comfortable chair", ("beautiful garden", "comfortable chair")),
        ("a tall building", ("tall building",)),
        ("a young boy's bike", ("young boy's",)),
        ("a happy family", ("happy family",)),
        # No noun follows.
        ("a man in blue", ()),
        ("a person in pink left of the dog", ()),
        ("the dog is brown. The cat sleeps", ()),
        ("something red slowly moving", ()),
        ("an old", ()),
        ("kids that are happy playing in the park", ()),
        # No adjectives, though they end like some.
        ("a fish dish on a table with five vegetables", ()),
        ("busy traffic and a music video", ("busy traffic",)),
        ("", ()),
        ("   ...!? 12 34", ()),
        ("zwei Hunde im Café", ()),
        ("ein roter Ball", ()),
        ("İstanbul: a red café", ("red café",)),
        ("一只红色的球", ()),
        ("a red ball and a red ball and a RED ball", ("red ball",)),
        ("a red\n  ball", ("red ball",)),
        ("a red (ball)", ()),
    ],
)
def test_rules(caption, expected):
    assert phrases(caption) == expected


def test_the_first_five():
    caption = "a red ball, a blue ball, a green ball, a white ball, a black ball, a pink ball"
    assert len(phrases(caption)) == 5
    assert phrases(caption, most=2) == ("red ball", "blue ball")


def test_scenes_have_phrases_of_their_objects():
    for index in range(20):
        scene = draw_scene(index, seed=5)
        known = {f"{color} {name}" for color, name in zip(scene.colors, scene.names, strict=True)}
        for caption in scene.captions:
            assert set(phrases(caption)) <= known


def test_unknown_and_missing_taggers(monkeypatch):
    with pytest.raises(UnknownNameError, match="tagger"):
        phrases("a red ball", "words")
    for name, package in (("nltk", "NLTK"), ("spacy", "spaCy")):
        module._spacy_model.cache_clear()
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(WhyboxError, match=f"needs {package}: pip install {name}, or use tagger 'rules'"):
            phrases("a red ball", name)


def test_nltk(monkeypatch):
    tags = {"a": "DT", "red": "JJ", "smiling": "VBG", "balls": "NNS"}
    known = SimpleNamespace(pos_tag=lambda words: [(word, tags[word]) for word in words])
    monkeypatch.setitem(sys.modules, "nltk", known)
    assert phrases("A red balls", "nltk") == ("red balls",)
    assert phrases("a smiling balls", "nltk") == ()

    def missing(words):
        raise LookupError("Resource not found\nSearched in")

    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace(pos_tag=missing))
    with pytest.raises(WhyboxError, match="NLTK's tagger has no model here") as caught:
        phrases("a red ball", "nltk")
    assert "\n" not in str(caught.value)


def test_spacy(monkeypatch):
    tags = {"red": "ADJ", "ball": "NOUN"}

    class Model:
        vocab = None

        def __call__(self, words):
            return [SimpleNamespace(pos_=tags.get(word, "X")) for word in words]

    module._spacy_model.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: Model()))
    monkeypatch.setitem(sys.modules, "spacy.tokens", SimpleNamespace(Doc=lambda vocabulary, words: words))
    assert phrases("the red ball", "spacy") == ("red ball",)
    module._spacy_model.cache_clear()

    def missing(name):
        raise OSError("[E050] Can't find model")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=missing))
    with pytest.raises(WhyboxError, match="spaCy has no model en_core_web_sm here"):
        phrases("a red ball", "spacy")
    module._spacy_model.cache_clear()
