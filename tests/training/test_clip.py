"""A tiny CLIP: its loss; a training goes on after a stop; what is kept is a folder for transformers."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.hf_versions import pooled
from whybox.data.scenes import HELD_OUT_SEED, draw_scene
from whybox.errors import WhyboxError
from whybox.training import captioned_scenes, clip, clip_network, clip_scores
from whybox.training.captioned_scenes import PHRASES
from whybox.training.recipe import Recipe

transformers = pytest.importorskip("transformers")

SMALL = clip_network.Plan(side=32, patch=16, width=16, depth=2, text_width=16, text_depth=1, heads=2, shared=8, context=40)
RECIPE = Recipe(6, batch=4, seed=4, warmup=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return captioned_scenes.draw(8, 4, 40, tmp_path_factory.mktemp("drawn"))


def begin(drawn, recipe=RECIPE, patches=0.0, plan=SMALL, zoom=clip.ZOOM):
    network, processor = clip_network.start(plan, recipe.seed)
    return clip.Matching(clip_network.Matcher(network, patches), processor, drawn, recipe, zoom=zoom)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_loss_is_the_sigmoid_of_each_pair(drawn):
    run = begin(drawn, patches=1.0)
    batch, truth = run.batch(0)
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
    batch, truth = run.batch(0)
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
        clip.fit(cut, tmp_path / "cut", every=2, interim=0, on_progress=stop)
    steps = []
    clip.fit(again, tmp_path / "cut", resume=True, interim=0, on_progress=lambda step, _: steps.append(step))
    assert steps == [5, 6], "goes on after the checkpoint of step 4"
    assert same(whole.averaged, again.averaged)
    assert same(whole.network.state_dict(), again.network.state_dict())


def test_resuming_asks_for_the_same_recipe(drawn, tmp_path):
    clip.fit(begin(drawn), tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="is from an earlier run; resume it"):
        clip.fit(begin(drawn), tmp_path, interim=0)
    with pytest.raises(WhyboxError, match="it was started with another batch, patches"):
        clip.fit(begin(drawn, replace(RECIPE, batch=3), patches=1.0), tmp_path, resume=True)


def test_losses_fall_when_few_images_are_seen_often(drawn, tmp_path):
    losses = []
    recipe = replace(RECIPE, steps=80, batch=8, lr=3e-3)
    clip.fit(begin(drawn, recipe, zoom=(1.0, 1.0)), tmp_path, interim=0, on_progress=lambda _, now: losses.append(now["match"]))
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


def test_what_is_kept_is_a_folder_for_transformers(drawn, tmp_path):
    run, lines = begin(drawn), []
    clip.fit(run, tmp_path, every=3, interim=2, log=lines.append)
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
        ("coco:folder", RECIPE, 4, 0.0, "data must be scenes, .* got 'coco:folder'"),
        ("scenes", replace(RECIPE, seed=HELD_OUT_SEED), 4, 0.0, "is reserved for the held-out scenes"),
        ("scenes", RECIPE, 0, 0.0, "count must be at least 1"),
        ("scenes", RECIPE, 4, -1.0, "patches at least 0"),
    ],
)
def test_mistakes_are_named(data, recipe, count, patches, message, tmp_path):
    with pytest.raises(WhyboxError, match=message):
        clip.begin(data, recipe, count, patches, tmp_path)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WhyboxError, match=r"pip install 'whybox\[hf\]'"):
        clip_network.start(SMALL, 0)
