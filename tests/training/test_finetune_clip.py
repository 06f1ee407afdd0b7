"""CLIP fine-tuning: its losses against plain ones, processes, stops and kills, and what is written."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

import whybox
from models.open_clip_models import KINDS
from training.finetuning import CAPTIONS, FAMILIES, write_captions
from whybox.data.images import read_image
from whybox.errors import WhyboxError
from whybox.losses.region_phrase import RegionPhrase, of_form
from whybox.methods._dense_features import dense_features
from whybox.training import caption_batches, finetune_clip
from whybox.training.caption_batches import CaptionBatches
from whybox.training.launch import launch
from whybox.training.recipe import Recipe

transformers = pytest.importorskip("transformers")
pytest.importorskip("open_clip")
pytest.importorskip("lightning_fabric")

RECIPE = Recipe(5, batch=3, seed=4, lr=1e-3, warmup=1, average=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_captions(tmp_path_factory.mktemp("captioned"))


def begin(folder, family="hf", recipe=RECIPE, options=None, fabric=None, **chosen):
    return finetune_clip.FineTuning(
        FAMILIES[family](), finetune_clip.open_captions(f"coco-captions:{folder}"), recipe, options, fabric, **chosen
    )


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def plain_losses(run, batch):
    """Both losses image by image and phrase by phrase, by the library's own maps and embeddings, with the defaults."""
    model = run.model
    model.network.eval()
    embeddings, regions, phrases, presence, words = [], [], [], [], []
    for pixels, caption, found in zip(batch.pixels, batch.captions, batch.phrases, strict=True):
        encoder = model.image_encoder
        with torch.no_grad():
            embeddings.append(encoder.embed(pixels[None])[0])
        row = next(i for i, image in enumerate(run.data.images) if caption in image.captions)
        picture = str(run.data.images[row].path)
        for phrase in found:
            text = f"This is a photo of the {phrase}"
            heat = whybox.explain(model, picture, text=text, method="grad_eclip").maps.native[0]

            dense = dense_features(model.transformer(model.trace(read_image(picture)))).detach()
            regions.append(heat.flatten() @ dense)
            phrases.append(model.embed_texts([text])[0])
            presence.append(heat.max())
            words.append(phrase)
    captions = model.embed_texts(list(batch.captions))
    model.network.train()
    scale = min(100.0, model.network.logit_scale.exp().item())
    logits = scale * normalize(torch.stack(embeddings), dim=-1) @ captions.T
    count, contrastive = len(logits), 0.0
    for i in range(count):
        forth, back = logits[i].softmax(0)[i], logits[:, i].softmax(0)[i]
        # Before the end of the first epoch the momentum model is the model itself.
        weight = 0.4 * (forth + back) / 2 + 0.6
        contrastive -= weight * (forth.log() + back.log()) / 2 / count
    region_phrase = 0.0
    for t, region in enumerate(regions):
        for other, phrase in enumerate(phrases):
            cosine = cosine_similarity(region, phrase, dim=0).clamp(1e-6, 1 - 1e-6)
            if t == other:
                region_phrase -= presence[t] * (1 - cosine) ** 2 * cosine.log() / len(regions)
            elif words[t] != words[other]:
                region_phrase -= presence[t] * cosine**2 * (1 - cosine).log() / len(regions)
    return {"contrastive": float(contrastive), "region_phrase": float(region_phrase)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_are_those_of_plain_loops(folder, family):
    run = begin(folder, family, replace(RECIPE, batch=6))
    batch = run.batch(0)
    assert [len(found) for found in batch.phrases].count(0) == 1
    losses = run.region_phrase(batch)
    expected = plain_losses(run, batch)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("maps", ["grad_eclip", "gradcam", "maskclip"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_gets_a_gradient(folder, family, maps):
    run = begin(folder, family, options=RegionPhrase(maps=maps))
    losses = run.region_phrase(run.batch(0))
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in run.network.parameters())
    assert run.network.logit_scale.grad != 0


def test_it_learns_and_the_momentum_model_follows_epoch_by_epoch(folder, tmp_path):
    run, losses = begin(folder, recipe=replace(RECIPE, steps=30)), []
    assert run.epoch == 2
    start = run.region_phrase.momentum.network.logit_scale.clone()
    seen = []

    def note(step, now):
        losses.append(sum(now.values()))
        seen.append(run.region_phrase.momentum.network.logit_scale.clone())

    finetune_clip.fit(run, tmp_path, on_progress=note)
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    assert torch.equal(seen[0], start)
    assert not torch.equal(seen[1], start)
    assert torch.equal(seen[1], seen[2])
    assert same(run.averaged, run.network.state_dict()), "no average of the weights"


def test_the_momentum_model_takes_over_a_share(folder):
    run = begin(folder, options=RegionPhrase(momentum_rate=0.25))
    twin = run.region_phrase.momentum.network
    with torch.no_grad():
        run.network.logit_scale.add_(1)
    before = twin.logit_scale.item()
    run.region_phrase.end_epoch()
    assert twin.logit_scale.item() == pytest.approx(before + 0.25)


def test_the_earlier_form(folder):
    run = begin(folder, options=of_form("earlier", maps="maskclip"))
    assert run.region_phrase.momentum is None
    losses = run.region_phrase(run.batch(0))
    assert set(losses) == {"contrastive", "region_phrase"}
    assert run.beside == {}


@pytest.mark.parametrize("options", [RegionPhrase(maps="none"), RegionPhrase(weight=0)])
def test_the_contrastive_loss_alone(folder, options):
    run = begin(folder, options=options)
    assert set(run.region_phrase(run.batch(0))) == {"contrastive"}


def test_a_batch_without_phrases_has_no_region_loss(tmp_path):
    folder = write_captions(tmp_path / "data", ["a red ball", "the tree", "the car", "a ball"])
    run = begin(folder, recipe=replace(RECIPE, batch=1))
    losses = [run.region_phrase(run.batch(number))["region_phrase"] for number in range(4)]
    assert sum(loss.item() == 0 for loss in losses) == 3
    assert all(loss.requires_grad for loss in losses)
    run.advance()


def test_a_resumed_run_ends_as_the_unbroken_one(folder, tmp_path):
    whole, cut, again = (begin(folder) for _ in range(3))
    finetune_clip.fit(whole, tmp_path / "whole")

    def stop(step, losses):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_clip.fit(cut, tmp_path / "cut", every=3, on_progress=stop)
    steps = []
    finetune_clip.fit(again, tmp_path / "cut", resume=True, on_progress=lambda step, _: steps.append(step))
    assert steps == [4, 5], "goes on after the checkpoint of step 3, in the middle of an epoch"
    assert same(whole.network.state_dict(), again.network.state_dict())
    twins = [run.region_phrase.momentum.network.state_dict() for run in (whole, again)]
    assert same(*twins)
    with pytest.raises(WhyboxError, match="it was started with another region_phrase"):
        finetune_clip.fit(begin(folder, options=RegionPhrase(maps="gradcam")), tmp_path / "cut", resume=True)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths}
import torch
from training import test_finetune_clip as given
torch.set_num_threads(1)
run = given.begin(Path(sys.argv[1]), recipe=given.replace(given.RECIPE, steps=400))
given.finetune_clip.fit(run, Path(sys.argv[2]), every=2, log=lambda text: print(text, flush=True))
"""


def environment():
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}


def script(folder, text):
    file = folder / "script.py"
    file.write_text(text.format(paths=[str(Path(__file__).parents[1]), *sys.path]))
    return str(file)


def test_a_killed_run_goes_on_to_the_same_bits(folder, tmp_path):
    words = [sys.executable, script(tmp_path, KILLED), str(folder), str(tmp_path / "cut")]
    child = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        lines = [child.stdout.readline() for _ in range(2)]
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert lines[1].startswith("step 4 of 400")
    cut, whole = (begin(folder, recipe=replace(RECIPE, steps=400)) for _ in range(2))
    cut.read(tmp_path / "cut" / "checkpoint.pt")
    assert cut.progress.step >= 4
    steps = cut.progress.step + 1
    for run in (cut, whole):
        while run.progress.step < steps:
            run.advance()
    assert same(whole.network.state_dict(), cut.network.state_dict())


TWO = """
import sys
from pathlib import Path
sys.path[:0] = {paths}
import torch
from training import test_finetune_clip as given
from whybox.training.launch import Devices, launch
torch.set_num_threads(1)
fabric = launch(Devices("cpu", 2, "ddp"))
for family in given.FAMILIES:
    given.gradients(Path(sys.argv[1]), fabric, Path(sys.argv[2]) / f"{{family}}-{{fabric.global_rank}}.pt", family)
if torch.distributed.is_initialized():
    # Else gloo's threads may still run when the interpreter ends, which aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def gradients(folder, fabric, file, family):
    """The gradients of a step, not clipped, and its losses."""
    recipe = replace(RECIPE, batch=6, clip=1e9)
    run = begin(folder, family, recipe, RegionPhrase(presence="relative", weight=3.0), fabric)
    losses = run.advance()
    torch.save((losses, {name: weight.grad for name, weight in run.network.named_parameters()}), file)


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    """A folder with what each of two processes got, of every family: they are started once."""
    place = tmp_path_factory.mktemp("two")
    words = [sys.executable, script(place, TWO), str(folder), str(place)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_have_the_gradients_of_one(family, two, folder, tmp_path):
    gradients(folder, launch(), tmp_path / "one.pt", family)
    files = tmp_path / "one.pt", two / f"{family}-0.pt", two / f"{family}-1.pt"
    (losses, alone), (first, shared), (second, _) = map(torch.load, files)
    assert first == second == pytest.approx(losses, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    assert largest > 1e-3
    for name, gradient in alone.items():
        assert torch.allclose(shared[name], gradient, rtol=1e-4, atol=1e-5 * largest), name


def test_what_is_kept_of_hugging_face(folder, tmp_path):
    network, processor = FAMILIES["hf"]().network, finetuning_processor()
    network.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    before = {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()}
    run = finetune_clip.begin(str(tmp_path / "base"), f"coco-captions:{folder}", RECIPE, epochs=None)
    finetune_clip.fit(run, tmp_path / "out")
    card = finetune_clip.keep(run, tmp_path / "out", "whybox finetune-clip")
    assert card["trained"]["maps"] == "grad_eclip"
    assert card["load"] == "DIR"
    assert {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()} == before
    again = whybox.load(str(tmp_path / "out"))
    assert same(run.network.state_dict(), again.network.state_dict())
    assert whybox.explain(again, str(folder / "images" / "0.png"), text="a red ball", method="maskclip").maps.values.any()
    assert transformers.CLIPModel.from_pretrained(tmp_path / "out").dtype == torch.float32
    with pytest.raises(WhyboxError, match="holds the model itself, which stays as it is"):
        finetune_clip.fit(run, tmp_path / "base")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_of_a_module_of_ones_own(family, folder, tmp_path):
    run = begin(folder, family, options=RegionPhrase(maps="none"))
    finetune_clip.fit(run, tmp_path)
    card = finetune_clip.keep(run, tmp_path, "")
    if family == "hf":
        again = whybox.load(str(tmp_path))
    else:
        assert card["load"] == "a module of your own, weights=DIR/open_clip_model.safetensors"
        again = whybox.load(FAMILIES[family]().network, weights=tmp_path / "open_clip_model.safetensors")
    assert same(run.network.state_dict(), again.network.state_dict())
    assert torch.allclose(again.embed_texts(["a red ball"]), run.model.embed_texts(["a red ball"]), atol=1e-5)


def finetuning_processor():
    from methods import small_clip

    return transformers.CLIPProcessor(small_clip.processor(), small_clip.tokenizer())


def test_batches_show_every_image_once_an_epoch_whatever_the_division(folder):
    data = finetune_clip.open_captions(f"coco-captions:{folder}")
    prepare = FAMILIES["hf"]().image_encoder.prepare
    whole, halves = (CaptionBatches(data.images, prepare, size, 6, 4) for size in (6, 3))
    one, (first, second) = whole(1), (halves(2), halves(3))
    assert one.captions == first.captions + second.captions
    assert torch.equal(one.pixels, torch.cat([first.pixels, second.pixels]))
    assert sorted(one.captions) == sorted(CAPTIONS)
    assert whole(0).captions != one.captions


def test_prepared_images_are_kept_within_limits(folder, monkeypatch):
    data, prepare = finetune_clip.open_captions(f"coco-captions:{folder}"), FAMILIES["hf"]().image_encoder.prepare
    kept = CaptionBatches(data.images, prepare, 3, 3, 4)
    monkeypatch.setattr(caption_batches, "KEPT", 3 * 64 * 64 * 4)
    few = CaptionBatches(data.images, prepare, 3, 3, 4)
    for number in (0, 1, 2):
        assert torch.equal(kept(number).pixels, few(number).pixels)
    assert len(few._kept) == 1


def test_mixed_precision_stays_near(folder):
    exact, rounded = (begin(folder, recipe=replace(RECIPE, precision=precision)) for precision in ("float32", "bfloat16"))
    assert rounded.advance() == pytest.approx(exact.advance(), rel=0.1, abs=0.05)


def test_a_logit_bias_is_not_trained(folder):
    model = whybox.load(KINDS["last"]())
    run = finetune_clip.FineTuning(model, finetune_clip.open_captions(f"coco-captions:{folder}"), RECIPE)
    run.advance()
    assert model.network.logit_bias.item() == -10


def test_half_precision_weights_are_widened(folder):
    model = FAMILIES["hf"]()
    model.network.bfloat16()
    run = finetune_clip.FineTuning(model, finetune_clip.open_captions(f"coco-captions:{folder}"), RECIPE)
    networks = (run.network, run.region_phrase.momentum.network)
    assert {weight.dtype for network in networks for weight in network.parameters()} == {torch.float32}
    run.advance()


def test_mistakes_are_named(folder, tmp_path):
    data = finetune_clip.open_captions(f"coco-captions:{folder}")
    with pytest.raises(WhyboxError, match="a batch of 9 needs as many captioned images, and the data has 6"):
        begin(folder, recipe=replace(RECIPE, batch=9))
    bare = write_captions(tmp_path / "bare", ["the tree", "the car", "a ball"])
    with pytest.raises(WhyboxError, match=r"no caption of the first 3 images .* holds a phrase"):
        begin(bare)
    begin(bare, options=RegionPhrase(maps="none"))
    with pytest.raises(WhyboxError, match="is a detector: fine-tuning with captions needs a model of images and texts"):
        finetune_clip.FineTuning(whybox.load("whybox/scenes"), data, RECIPE)
    with pytest.raises(WhyboxError, match="the data must have captions"):
        finetune_clip.begin("whybox/scenes-clip", "coco:folder")
    with pytest.raises(WhyboxError, match="epochs must be at least 1"):
        finetune_clip.begin("whybox/scenes-clip", f"coco-captions:{folder}", epochs=0)
