"""Scores of a CLIP: worked by hand, at their ends, and those that the shipped one claims."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from whybox import zoo
from whybox.data.captions import Phrase
from whybox.data.scenes import HELD_OUT_SEED, draw_scene
from whybox.training import clip_folder, clip_scores
from whybox.training.captioned_scenes import PHRASES

SHIPPED = Path(zoo.__file__).parent / "scenes_clip"


def perfect(network, processor, images, texts):
    """Cosines of one who sees everything: by the pixels of the held-out scenes."""
    known = {
        draw_scene(i, seed=HELD_OUT_SEED, variant=kind).image.tobytes(): (i, kind)
        for i in range(4)
        for kind in ("single", "mixed")
    }
    rows = []
    for image in images:
        index, kind = known[image.tobytes()]
        scene = draw_scene(index, seed=HELD_OUT_SEED, variant=kind)
        pairs = list(zip(scene.names, scene.colors, strict=True))
        rows.append([float(any(phrase.is_true_of(*pair) for pair in pairs)) for phrase in PHRASES])
    return torch.tensor(rows)


def test_who_sees_everything_scores_one_and_the_opposite_nought(monkeypatch):
    network = torch.nn.Linear(1, 1)
    monkeypatch.setattr(clip_scores, "cosines", perfect)
    assert clip_scores.score(network, None, 4) == {"object": 1, "color": 1, "both": 1, "auc": 1}
    monkeypatch.setattr(clip_scores, "cosines", lambda *given: -perfect(*given))
    assert clip_scores.score(network, None, 4) == {"object": 0, "color": 0, "both": 0, "auc": 0}


@pytest.mark.parametrize("count", [0, -1])
def test_without_scenes_there_are_no_scores(count):
    assert clip_scores.score(torch.nn.Linear(1, 1), None, count) == {}


def test_scores_that_no_scene_defines_are_absent(monkeypatch):
    monkeypatch.setattr(clip_scores, "cosines", perfect)
    monkeypatch.setattr(clip_scores, "_area", lambda *given: None)
    assert clip_scores.score(torch.nn.Linear(1, 1), None, 2) == {"object": 1, "color": 1, "both": 1}


def test_cosines_of_no_images_or_no_texts_are_none():
    network, processor = clip_folder.read(SHIPPED)
    image = draw_scene(0, seed=1).image
    assert clip_scores.cosines(network, processor, [], ["a", "b"]).shape == (0, 2)
    assert clip_scores.cosines(network, processor, [image], []).shape == (1, 0)
    assert clip_scores.cosines(network, processor, [image], ["a", "b"]).shape == (1, 2)


def test_hits_and_areas_worked_by_hand():
    values = torch.zeros(len(PHRASES))
    row = {phrase: column for column, phrase in enumerate(PHRASES)}
    values[row[Phrase("ball")]], values[row[Phrase("ball", "red")]], values[row[Phrase("dog", "brown")]] = 1, 0.5, 0.7
    assert clip_scores._hits(values, Phrase("ball", "red")) == (True, True, False)
    assert clip_scores._hits(values, Phrase("dog", "brown")) == (False, True, True)
    assert clip_scores._hits(values, Phrase("ball", "blue")) == (True, False, False)
    scene = draw_scene(3, seed=2)
    given = np.random.default_rng(0).normal(0, 1, len(PHRASES)).astype(np.float32)
    there = set(zip(scene.names, scene.colors, strict=True))
    true = [value for phrase, value in zip(PHRASES, given, strict=True) if phrase in there]
    false = [value for phrase, value in zip(PHRASES, given, strict=True) if phrase.color and phrase not in there]
    assert true
    assert clip_scores._area(given, scene) == pytest.approx(np.mean([[a > b for b in false] for a in true]))


def test_the_shipped_model_knows_objects_and_colors_as_its_card_says():
    card = json.loads((SHIPPED / "card.json").read_text())["trained"]
    assert card["held_out"] >= 400
    assert min(card["scores"]["object"], card["scores"]["color"]) >= 0.9
    network, processor = clip_folder.read(SHIPPED)
    scores = clip_scores.score(network, processor, 60)
    for name, value in scores.items():
        # Three deviations of a rate over 60 scenes.
        assert abs(value - card["scores"][name]) < 3 * math.sqrt(max(0.01, value * (1 - value)) / 60), name
