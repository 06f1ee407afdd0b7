"""The texts of scenes: phrases, their articles and colors, and sentences on all objects."""

import pytest

from whybox.data._sprites import OBJECTS
from whybox.data.captions import Phrase, class_phrases, color_phrases, colors_of, overview
from whybox.data.scenes import draw_scene


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        (Phrase("ball", "red"), "a red ball"),
        (Phrase("car", "orange"), "an orange car"),
        (Phrase("person", "orange"), "a person in orange"),
        (Phrase("dog"), "a dog"),
    ],
)
def test_a_phrase_in_words(phrase, words):
    assert str(phrase) == words


def test_a_phrase_without_a_color_is_true_of_every_color():
    assert Phrase("ball").is_true_of("ball", "red")
    assert Phrase("ball", "red").is_true_of("ball", "red")
    assert not Phrase("ball", "blue").is_true_of("ball", "red")
    assert not Phrase("ball", "red").is_true_of("car", "red")


def test_every_class_in_each_of_its_colors_once():
    assert colors_of("tree") == ("green", "orange", "yellow", "pink")
    assert [phrase.name for phrase in class_phrases()] == list(OBJECTS)
    phrases = color_phrases()
    assert len(set(phrases)) == len(phrases) == sum(len(set(entry[3])) for entry in OBJECTS.values())
    assert {phrase.name for phrase in color_phrases(["dog", "car"])} == {"dog", "car"}


def test_scenes_are_told_in_these_phrases():
    for index in range(20):
        scene = draw_scene(index, seed=5)
        pairs = zip(scene.names, scene.colors, strict=True)
        assert all(Phrase(*pair) in color_phrases() for pair in pairs)
        assert scene.captions[0] == overview(scene.names, scene.colors, scene.place)


def test_many_objects_in_one_sentence():
    names = ["person"] * 2 + ["ball"] + ["dog"] * 7
    assert overview(names, ["red"] * 10, "snow") == "two people, a red ball and many dogs in the snow"
    assert overview([], [], "street") == "nothing on a street"
