"""A tiny CLIP: its words, its loss, its scores; a training goes on after a stop; what is kept is a folder for transformers."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.hf_versions import pooled
from whybox import zoo
from whybox.data.captions import Phrase
from whybox.data.scenes import HELD_OUT_SEED, draw_scene
from whybox.errors import WhyboxError
from whybox.training import captioned_scenes, clip, clip_scores, clip_words
from whybox.training.captioned_scenes import PHRASES
from whybox.training.detector import Recipe

transformers = pytest.importorskip("transformers")

SHIPPED = Path(zoo.__file__).parent / "scenes_clip"
SMALL = clip.Plan(side=32, patch=16, width=16, depth=2, text_width=16, text_depth=1, heads=2, shared=8, context=40)
RECIPE = Recipe(6, batch=4, seed=4, warmup=2, zoom=clip.ZOOM)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return captioned_scenes.draw(8, 4, 40, tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def words():
    return clip_words.tokenizer(48)


def begin(drawn, recipe=RECIPE, patches=0.0, plan=SMALL):
    network, processor = clip.start(plan, recipe.seed)
    return clip.Matching(clip.Matcher(network, patches), processor, drawn, recipe)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


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


def test_the_loss_is_the_sigmoid_of_each_pair(drawn):
    run = begin(drawn, patches=1.0)
    batch, truth = run._batch(0)
    with torch.no_grad():
        losses = run.network(batch, truth)
        seen = pooled(run.clip.get_image_features(pixel_values=batch["pixel_values"]))
        read = pooled(run.clip.get_text_features(batch["input_ids"], batch["attention_mask"]))
        scale, bias = run.clip.logit_scale.exp().item(), run.network.bias.item()
    expected = 0.0
    for image, true_row, sure_row in zip(seen, truth["texts"].tolist(), truth["sure"].tolist(), strict=True):
        for text, true, sure in zip(read, true_row, sure_row, strict=True):
            cosine = torch.cosine_similarity(image, text, dim=0).item()
            sign = 1 if true else -1
            expected += sure * math.log(1 + math.exp(-sign * (scale * cosine + bias)))
    assert losses["match"].item() == pytest.approx(expected / len(seen), rel=1e-4)
    assert 0 < truth["sure"].mean() < 1
    assert truth["patches"].shape == (4, 4, len(PHRASES))
    assert losses["patches"].isfinite()


def test_the_loss_of_patches_is_that_of_their_own_embeddings(drawn):
    """With one true phrase in a single patch, worked out from transformers' own hidden states."""
    run = begin(drawn, patches=2.0)
    batch, truth = run._batch(0)
    truth["patches"] = torch.zeros_like(truth["patches"])
    truth["patches"][2, 3, 5] = 1
    with torch.no_grad():
        loss = run.network(batch, truth)["patches"].item()
        hidden = run.clip.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state[:, 1:]
        cells = run.clip.visual_projection(run.clip.vision_model.post_layernorm(hidden))
        read = pooled(run.clip.get_text_features(batch["input_ids"], batch["attention_mask"]))[: len(PHRASES)]
        cosines = torch.cosine_similarity(cells[:, :, None], read[None, None], dim=-1)
        logits = cosines * run.clip.logit_scale.exp() + run.network.patch_bias
    expected = torch.log1p(logits.exp()).sum() - logits[2, 3, 5]
    assert loss == pytest.approx(2 * expected.item() / 16, rel=1e-4)


def test_the_same_seed_gives_the_same_weights(drawn, tmp_path):
    runs = [begin(drawn), begin(drawn), begin(drawn, replace(RECIPE, seed=5))]
    for name, run in zip("abc", runs, strict=True):
        clip.fit(run, tmp_path / name, interim=0)
    assert same(runs[0].averaged, runs[1].averaged)
    assert not same(runs[0].averaged, runs[2].averaged)


def test_a_resumed_run_ends_as_the_unbroken_one(drawn, tmp_path):
    whole, cut, again = (begin(drawn, patches=0.5) for _ in range(3))
    clip.fit(whole, tmp_path / "whole", interim=0)

    def stop(step, losses):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clip.fit(cut, tmp_path / "cut", every=2, interim=0, tick=stop)
    steps = []
    clip.fit(again, tmp_path / "cut", resume=True, interim=0, tick=lambda step, _: steps.append(step))
    assert steps == [5, 6], "goes on after the checkpoint of step 4"
    assert same(whole.averaged, again.averaged)
    assert same(whole.network.state_dict(), again.network.state_dict())


def test_resuming_asks_for_the_same_recipe(drawn, tmp_path):
    clip.fit(begin(drawn), tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="is from an earlier run; resume it"):
        clip.fit(begin(drawn), tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="it was begun with another batch, patches"):
        clip.fit(begin(drawn, replace(RECIPE, batch=3), patches=1.0), tmp_path, resume=True)


def test_losses_fall_when_few_images_are_seen_often(drawn, tmp_path):
    losses = []
    recipe = replace(RECIPE, steps=80, batch=8, lr=3e-3, zoom=(1.0, 1.0))
    clip.fit(begin(drawn, recipe), tmp_path, interim=0, tick=lambda _, now: losses.append(now["match"]))
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


def test_what_is_kept_is_a_folder_for_transformers(drawn, tmp_path):
    run, lines = begin(drawn), []
    clip.fit(run, tmp_path, every=3, interim=2, say=lines.append)
    card = clip.keep(run, tmp_path, "whybox train-clip --seed 4", 3)
    assert json.loads((tmp_path / "card.json").read_text()) == json.loads(json.dumps(card))
    made = card["trained"]
    assert (made["command"], made["steps"], made["seed"], made["held_out"]) == ("whybox train-clip --seed 4", 6, 4, 3)
    assert set(made["scores"]) == {"object", "color", "both", "auc"}
    assert [row["step"] for row in made["history"]] == [3, 6]
    assert "step 6 of 6" in lines[-1]
    network = transformers.CLIPModel.from_pretrained(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert all(torch.allclose(value, run.averaged[f"clip.{key}"], atol=1e-3) for key, value in network.state_dict().items())
    assert network.dtype == torch.float32
    given = processor(text=["a red ball", "a dog"], images=draw_scene(0).image, return_tensors="pt", padding=True)
    assert given["pixel_values"].shape == (1, 3, 32, 32)
    with torch.no_grad():
        found = network(**given).logits_per_image[0] / network.logit_scale.exp()
    assert torch.allclose(
        found, clip_scores.cosines(network, processor, [draw_scene(0).image], ["a red ball", "a dog"])[0], atol=1e-5
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a dog").input_ids == processor.tokenizer("a dog").input_ids


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


def test_colors_are_changed_a_little():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = clip.recolor(images, np.random.default_rng(0))
    assert 0.01 < (changed - images).abs().mean() < 0.12
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_a_second_training_starts_from_the_first_and_says_so(drawn, tmp_path):
    first = begin(drawn)
    clip.fit(first, tmp_path / "a", interim=0)
    clip.keep(first, tmp_path / "a", "the first", 2)
    second = clip.begin("scenes", RECIPE, 2, 0.0, tmp_path / "b", init=tmp_path / "a")
    assert all(torch.allclose(value, first.averaged[f"clip.{key}"], atol=1e-3) for key, value in second.clip.state_dict().items())
    clip.fit(second, tmp_path / "b", interim=0)
    card = clip.keep(second, tmp_path / "b", "the second", 2)
    assert [training["command"] for training in card["before"]] == ["the first"]
    third = clip.begin("scenes", RECIPE, 2, 0.0, tmp_path / "c", init=tmp_path / "b")
    assert [training["command"] for training in third.before] == ["the first", "the second"]
    with pytest.raises(WhyboxError, match="holds no CLIP"):
        clip.begin("scenes", RECIPE, 2, 0.0, tmp_path / "d", init=tmp_path)


@pytest.mark.parametrize(
    ("data", "recipe", "count", "patches", "message"),
    [
        ("coco:folder", RECIPE, 4, 0.0, "data is scenes, not 'coco:folder'"),
        ("scenes", replace(RECIPE, seed=HELD_OUT_SEED), 4, 0.0, "is kept for the held-out scenes"),
        ("scenes", RECIPE, 0, 0.0, "count is at least 1"),
        ("scenes", RECIPE, 4, -1.0, "patches at least 0"),
    ],
)
def test_mistakes_are_named(data, recipe, count, patches, message, tmp_path):
    with pytest.raises(WhyboxError, match=message):
        clip.begin(data, recipe, count, patches, tmp_path)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WhyboxError, match=r"pip install 'whybox\[hf\]'"):
        clip.start(SMALL, 0)


def test_the_shipped_model_knows_objects_and_colors_as_its_card_says():
    card = json.loads((SHIPPED / "card.json").read_text())["trained"]
    assert card["held_out"] >= 400
    assert min(card["scores"]["object"], card["scores"]["color"]) >= 0.9
    network, processor = clip.read(SHIPPED)
    scores = clip_scores.score(network, processor, 60)
    for name, value in scores.items():
        # Three deviations of a rate over 60 scenes.
        assert abs(value - card["scores"][name]) < 3 * math.sqrt(max(0.01, value * (1 - value)) / 60), name


def test_the_shipped_folder_is_small_and_its_words_are_those_of_the_command(words):
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 6_000_000
    assert transformers.AutoTokenizer.from_pretrained(SHIPPED).get_vocab() == words.get_vocab()
