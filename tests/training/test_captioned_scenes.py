"""Scenes for image-text training: windows agree with their pixels, and texts are true of what a window shows."""

import numpy as np
import pytest
import torch

from whybox.data.scenes import draw_scene
from whybox.errors import WhyboxError
from whybox.training import captioned_scenes as scenes
from whybox.training.captioned_scenes import CELLS, PHRASES, Window, Words

WHOLE = Window(0, 0, 1, 1, False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return scenes.draw(16, 3, 60, tmp_path_factory.mktemp("drawn"))


def columns(*texts):
    return [[str(phrase) for phrase in PHRASES].index(text) for text in texts]


def test_what_was_drawn_is_read_again(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "BLOCK", 10)
    first = scenes.draw(16, 3, 60, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    monkeypatch.setattr(scenes, "draw_scene", None)
    again = scenes.draw(16, 3, 60, tmp_path)
    for other in (first, again):
        assert np.array_equal(drawn.images, other.images)
        assert np.array_equal(drawn.owners, other.owners)
        assert drawn.words == other.words


def test_drawn_scenes_hold_what_the_scenes_hold(drawn):
    for index, (words, owners) in enumerate(zip(drawn.words, drawn.owners, strict=True)):
        scene = draw_scene(index, seed=3, variant=scenes.TURNS[index % 8])
        assert (words.names, words.colors, words.place) == (scene.names, scene.colors, scene.place)
        assert [" ".join(parts) for parts in words.relations] == list(scene.captions[1:])
        parts = np.bincount(owners[owners >= 0], minlength=len(scene.names)) / CELLS**2
        assert np.allclose(parts, scene.masks.mean((1, 2)), atol=0.01)


def test_a_window_shows_the_same_pixels_and_owners():
    # A picture whose pixels are the owners' rows: whatever the window, pixels and cells must say the same.
    owners = np.zeros((CELLS, CELLS), dtype=np.int8)
    owners[4:20, 10:30], owners[15:36, 20:38] = 1, 2
    picture = np.repeat((owners * 100).astype(np.uint8)[..., None], 3, axis=2).repeat(4, 0).repeat(4, 1)
    for seed in range(20):
        window = scenes.random_window(np.random.default_rng(seed), (0.4, 0.9))
        pixels = scenes.take_windows(picture[None], [window], 40)[0, 0].numpy() * 255
        cells = window.cells(owners, 40) * 100.0
        assert np.mean(np.abs(pixels - cells) < 1) > 0.85, "all but the edges"


def test_the_whole_scene_is_a_window_and_its_mirror_image_too(drawn):
    pixels = scenes.take_windows(drawn.images[:2], [WHOLE, WHOLE._replace(mirrored=True)], 60)
    plain = torch.from_numpy(drawn.images[:2]).permute(0, 3, 1, 2) / 255
    assert torch.allclose(pixels[0], plain[0], atol=1e-5)
    assert torch.allclose(pixels[1], plain[1].flip(-1), atol=1e-5)
    assert np.array_equal(WHOLE.cells(drawn.owners[0], CELLS), drawn.owners[0])


def test_the_part_of_an_object_that_a_window_keeps():
    owners = np.full((CELLS, CELLS), -1, dtype=np.int8)
    owners[:, :20] = 0
    owners[10:20, 20:] = 1
    assert Window(0, 0, 0.5, 1, False).kept(owners, 3).tolist() == [1, 0, scenes.UNCLEAR]
    assert Window(0.25, 0, 1.25, 0.375, True).kept(owners, 2).tolist() == [0.5 * 0.375, 0.5]
    outside = Window(-0.5, 0, 0.5, 1, False).cells(owners, 4)
    assert outside.tolist() == [[-1, -1, 0, 0]] * 4


def test_phrases_are_true_false_or_open():
    words = [Words(("ball", "dog", "car"), ("red", "brown", "blue"), "snow", ()), Words((), (), "snow", ())]
    found = scenes.match_phrases(words, [np.asarray([0.9, 0.3, 0.0]), np.zeros(0)], np.random.default_rng(0))
    assert torch.nonzero(found.truth[0])[:, 0].tolist() == sorted(columns("a ball", "a red ball"))
    assert torch.nonzero(found.sure[0] == 0)[:, 0].tolist() == sorted(columns("a dog", "a brown dog"))
    assert found.truth[1].sum() == 0
    assert found.sure[1].all()
    assert len(found.texts) == len(PHRASES)
    assert all(str(phrase) in text for phrase, text in zip(PHRASES, found.texts, strict=True))


def test_a_second_ball_that_is_whole_settles_what_a_cut_one_left_open():
    words = [Words(("ball", "ball"), ("red", "red"), "snow", ())]
    found = scenes.match_phrases(words, [np.asarray([0.3, 1.0])], np.random.default_rng(0))
    assert found.sure.all()
    assert found.truth[0, columns("a red ball")] == 1


def test_captions_name_what_the_window_keeps():
    words = [Words(("ball", "dog"), ("red", "brown"), "snow", ()), Words(("ball",), ("red",), "snow", ())]
    words.append(Words(("ball",), ("red",), "room", ()))
    kept = [np.asarray([1.0, 0.0]), np.asarray([0.8]), np.asarray([0.3])]
    found = scenes.match_captions(words, kept, 5)
    assert found.texts == ["a red ball in the snow"] * 2, "the third holds half a ball, so its caption is unsure"
    assert found.truth.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert found.sure.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert [len(scenes.match_captions(words, kept, count).texts) for count in (0, 1)] == [0, 1]


def test_relations_turn_round_in_the_mirror_and_deny_their_opposite():
    pair = Words(("ball", "dog"), ("red", "brown"), "snow", (("a red ball", "left of", "a brown dog"),))
    words, windows = [pair, pair, pair], [WHOLE, WHOLE._replace(mirrored=True), WHOLE]
    kept = [np.ones(2), np.ones(2), np.asarray([1.0, 0.0])]
    phrases = scenes.match_phrases(words, kept, np.random.default_rng(0))
    found = scenes.match_relations(words, windows, phrases.truth, 5, np.random.default_rng(0))
    there, opposite = "a red ball left of a brown dog", "a red ball right of a brown dog"
    assert found.texts == [there, opposite, opposite, there], "the third has lost its dog"
    assert found.truth.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found.sure.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert len(scenes.match_relations(words, windows, phrases.truth, 1, np.random.default_rng(0)).texts) == 2


def test_a_relation_between_one_of_two_red_balls_is_left_out():
    words = [Words(("ball", "ball", "dog"), ("red", "red", "brown"), "snow", (("a red ball", "behind", "a brown dog"),))]
    phrases = scenes.match_phrases(words, [np.ones(3)], np.random.default_rng(0))
    found = scenes.match_relations(words, [WHOLE], phrases.truth, 5, np.random.default_rng(0))
    assert (found.texts, tuple(found.truth.shape)) == ([], (1, 0))
    assert scenes.join(phrases, found).texts == phrases.texts


def test_no_scenes_are_refused(tmp_path):
    with pytest.raises(WhyboxError, match="number of scenes must be at least 1, got 0"):
        scenes.draw(0, 3, 60, tmp_path)
