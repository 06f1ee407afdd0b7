"""The loop: the same bits after a stop, parts and processes that add up, nothing spoiled by NaN, earlier checkpoints read."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from whybox.errors import WhyboxError
from whybox.training import fit as loop
from whybox.training.fit import Fit, fit
from whybox.training.launch import launch
from whybox.training.recipe import Recipe

RECIPE = Recipe(6, batch=8, seed=4, lr=0.05, warmup=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def line(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, momentum=None), nn.Dropout(dropout), nn.Linear(8, 1))


def rows(size):
    """Batch n is the rows n x size on of an endless series: the parts of a step are together what the whole step sees."""

    def batch(number):
        drawn = [np.random.default_rng((7, row)).normal(size=4) for row in range(number * size, (number + 1) * size)]
        values = torch.tensor(np.stack(drawn), dtype=torch.float32)
        return values[:, :3], values[:, :3].sum(1, keepdim=True) + 0.1 * values[:, 3:]

    return batch


def begin(recipe=RECIPE, network=None, batch=None, **others):
    network = network or line()
    fabric = launch(precision=recipe.precision)

    def losses(batch):
        error = network(batch[0]) - batch[1]
        return {"square": error.square().mean(), "size": 0.01 * error.abs().mean()}

    return Fit(network, batch or rows(recipe.part(fabric)), losses, recipe, fabric, **others)


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def stop_after(step):
    def on_progress(done, losses):
        if done == step:
            raise KeyboardInterrupt

    return on_progress


def cut(folder, **others):
    """A training that was stopped after step 5, with checkpoints of step 2 and 4."""
    with pytest.raises(KeyboardInterrupt):
        fit(begin(**others), folder, every=2, on_progress=stop_after(5))


def test_it_learns(tmp_path):
    seen = []
    fit(begin(replace(RECIPE, steps=60), NoNorm()), tmp_path, on_progress=lambda step, losses: seen.append(losses))
    assert set(seen[0]) == {"square", "size"}
    assert np.mean([losses["square"] for losses in seen[-5:]]) < 0.2 * seen[0]["square"]


@pytest.mark.parametrize("change", [{}, {"accumulate": 2}, {"precision": "bfloat16"}, {"precision": "64-true"}])
def test_a_resumed_run_has_the_same_bits(change, tmp_path):
    recipe = replace(RECIPE, **change)
    whole = fit(begin(recipe, line(0.5)), tmp_path / "whole")
    cut(tmp_path / "cut", recipe=recipe, network=line(0.5))
    steps = []
    torch.manual_seed(99)
    again = fit(begin(recipe, line(0.5)), tmp_path / "cut", resume=True, on_progress=lambda step, _: steps.append(step))
    assert steps == [5, 6]
    assert same(whole.network.state_dict(), again.network.state_dict())
    assert same(whole.averaged, again.averaged)


def test_the_callers_random_numbers_are_left_alone():
    run = begin(network=line(0.5))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run.advance()
    assert torch.equal(torch.rand(2), expected)


def test_resuming_where_nothing_is_yet_begins(tmp_path):
    assert fit(begin(), tmp_path, resume=True).progress.step == 6


def earlier(file):
    """A checkpoint as the first trainings wrote it: fewer entries, and no accumulation among the terms."""
    state = torch.load(file, weights_only=True)
    state = {key: state[key] for key in ("recipe", "network", "averaged", "optimizer", "progress")}
    del state["recipe"]["accumulate"]
    torch.save(state, file)
    return state


def test_an_earlier_checkpoint_goes_on(tmp_path):
    terms = {"zoom": (0.7, 1.4), "classes": ("a",), "images": 5}
    whole = fit(begin(terms=terms), tmp_path / "whole")
    cut(tmp_path / "cut", terms=terms)
    state = earlier(tmp_path / "cut" / "checkpoint.pt")
    assert {"steps", "precision", "zoom", "classes", "images"} <= set(state["recipe"])
    again = fit(begin(terms={**terms, "data": "a digest that it did not know"}), tmp_path / "cut", resume=True)
    assert same(whole.network.state_dict(), again.network.state_dict())
    assert same(whole.averaged, again.averaged)
    assert [row["step"] for row in again.progress.history] == [2, 4, 6]


@pytest.mark.parametrize("broken", ["progress", "recipe", "network", "optimizer"])
def test_a_checkpoint_that_lacks_something_says_so_in_one_line(broken, tmp_path):
    cut(tmp_path)
    file = tmp_path / "checkpoint.pt"
    state = earlier(file)
    del state[broken]
    torch.save(state, file)
    with pytest.raises(WhyboxError, match=f"cannot resume from .*{broken}.*start a new training in another folder") as caught:
        fit(begin(), tmp_path, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK nonsense", [1, 2], torch.zeros(2)])
def test_what_is_no_checkpoint_says_so_in_one_line(content, tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(WhyboxError, match=r"cannot resume from .*; start a new training in another folder") as caught:
        fit(begin(), tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_resuming_asks_for_the_same_terms(tmp_path):
    cut(tmp_path, terms={"classes": ("a",), "data": "first edition"})
    with pytest.raises(WhyboxError, match="is from an earlier run; resume it, or use another folder"):
        fit(begin(), tmp_path)
    other = begin(replace(RECIPE, lr=1.0, precision="bfloat16"), terms={"classes": ("a",), "data": "second edition"})
    with pytest.raises(WhyboxError, match="started with another lr, precision, data; use the same settings, or another"):
        fit(other, tmp_path, resume=True)


def test_a_precision_is_the_same_by_either_name(tmp_path):
    cut(tmp_path)
    assert fit(begin(replace(RECIPE, precision="32-true")), tmp_path, resume=True).progress.step == 6


def test_other_parts_go_on_with_a_warning(tmp_path):
    cut(tmp_path)
    said = []
    fit(begin(replace(RECIPE, accumulate=4)), tmp_path, resume=True, on_warning=said.append)
    assert said == ["a step was divided into 1 parts and now into 4: the weights will differ slightly"]


class NoNorm(nn.Module):
    """A line without the batch's statistics, which parts of a batch have of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def forward(self, values):
        return self.line(values)


def test_parts_add_up_to_the_whole_step(tmp_path):
    seen = {1: [], 4: []}
    runs = []
    for parts, losses in seen.items():
        run = begin(replace(RECIPE, accumulate=parts), NoNorm())
        runs.append(fit(run, tmp_path / str(parts), on_progress=lambda _, now, losses=losses: losses.append(now["square"])))
    assert seen[4] == pytest.approx(seen[1], rel=1e-5)
    for key, value in runs[0].network.state_dict().items():
        assert torch.allclose(value, runs[1].network.state_dict()[key], atol=1e-5)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda values: values * torch.nan, "the loss of step 2 is nan; lower the learning rate, or check the data"),
        # The square root of nothing: the loss is finite, its slope is not.
        (lambda values: values, "the gradient of step 2 is nan; lower the learning rate, or check the data"),
    ],
)
def test_what_is_not_finite_stops_before_it_spoils_the_weights(poison, message, tmp_path):
    network = NoNorm()

    def losses(batch):
        number, values = batch
        found = network(values).square().mean()
        if number < 2:
            return {"square": found}
        return {"square": poison(found) + (network.line.weight * 0).sum().sqrt()}

    run = Fit(network, lambda number: (number, rows(8)(number)[0]), losses, RECIPE, launch())
    with pytest.raises(WhyboxError, match=message) as caught:
        fit(run, tmp_path, every=1)
    assert "\n" not in str(caught.value)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["progress"]["step"] == 2
    assert same(kept["network"], network.state_dict())


def test_modules_beside_the_network_are_trained_and_kept(tmp_path):
    """As a distillation would: a head of its own, and losses that run the network twice and look at its slopes."""

    def distilling():
        network, head = NoNorm(), nn.Linear(1, 2)
        nn.init.ones_(head.weight)

        def losses(batch):
            values = batch[0].requires_grad_()
            found = network(values)
            (slope,) = torch.autograd.grad(found.sum(), values, create_graph=True)
            return {
                "fit": (found - batch[1]).square().mean(),
                "slope": slope.square().mean(),
                "head": head(network(-values)).std(),
            }

        return Fit(network, rows(8), losses, RECIPE, launch(), beside={"head": head}), head

    whole, head = distilling()
    fit(whole, tmp_path / "whole")
    assert not torch.equal(head.weight, torch.ones(2, 1))
    assert list(whole.averaged) == ["line.weight", "line.bias"]
    cut_run, _ = distilling()
    with pytest.raises(KeyboardInterrupt):
        fit(cut_run, tmp_path / "cut", every=2, on_progress=stop_after(5))
    again, other = distilling()
    fit(again, tmp_path / "cut", resume=True)
    assert same(head.state_dict(), other.state_dict())
    assert same(whole.averaged, again.averaged)


def test_the_average_follows_and_is_what_is_scored(tmp_path):
    network, seen = line(), []
    run = fit(begin(network=network), tmp_path, every=3, score=lambda averaged: seen.append(averaged) or {"points": 0.5})
    assert all(same(averaged.state_dict(), run.averaged) for averaged in seen[-1:])
    assert not seen[-1].training
    assert seen[-1] is not network
    assert run.progress.history == [{"step": 3, "points": 0.5}, {"step": 6, "points": 0.5}]
    assert not same(run.averaged, network.state_dict())


def test_half_weights_have_an_average_in_single_precision():
    run = begin(replace(RECIPE, precision="bf16-true"), NoNorm())
    run.advance()
    assert run.network.line.weight.dtype == torch.bfloat16
    assert run.averaged["line.weight"].dtype == torch.float32
    assert run.averaged_network().line.weight.dtype == torch.float32


def test_fabric_and_recipe_agree_in_their_precision():
    with pytest.raises(WhyboxError, match="the recipe's precision is bfloat16, but Fabric was launched with 32-true"):
        Fit(line(), rows(8), lambda batch: {}, replace(RECIPE, precision="bfloat16"), launch())


def test_a_checkpoint_at_no_time_makes_no_sense(tmp_path):
    with pytest.raises(WhyboxError, match="every must be at least 1 step, got 0"):
        fit(begin(), tmp_path, every=0)


def test_a_folder_that_cannot_be_made_is_found_out_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = begin()
    with pytest.raises(WhyboxError, match="cannot be made"):
        fit(run, tmp_path / "file")
    assert run.progress.step == 0


TWO = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths}
import torch
from training import test_fit as given
from whybox.training import fit as loop
from whybox.training.launch import Devices, launch
torch.set_num_threads(1)
fabric = launch(Devices("cpu", 2, "ddp"))
network, seen, written, write = given.NoNorm(), [], [], loop.write_whole
if fabric.global_rank:
    torch.nn.init.zeros_(network.line.weight)
def losses(batch):
    return {{"square": (network(batch[0]) - batch[1]).square().mean()}}
def note(path, content):
    written.append(str(path))
    write(path, content)
loop.write_whole = note
recipe = given.replace(given.RECIPE, accumulate=2)
run = loop.Fit(network, given.rows(recipe.part(fabric)), losses, recipe, fabric)
loop.fit(run, Path(sys.argv[1]), every=3, on_progress=lambda step, now: seen.append(now["square"]))
weights = network.line.weight.flatten().tolist() + network.line.bias.tolist()
Path(sys.argv[1], f"{{fabric.global_rank}}.json").write_text(json.dumps([seen, weights, len(written)]))
if torch.distributed.is_initialized():
    # Else gloo's threads may still run when the interpreter ends, which aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(paths=[str(Path(__file__).parents[1]), *sys.path]))
    free = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=free, timeout=240)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[:2] == second[:2], "both see the same losses and end with the same weights"
    assert (first[2], second[2]) == (3, 0), "the first process alone writes"
    seen, network = [], NoNorm()

    def losses(batch):
        return {"square": (network(batch[0]) - batch[1]).square().mean()}

    run = Fit(network, rows(8), losses, RECIPE, launch())
    fit(run, tmp_path / "one", on_progress=lambda _, now: seen.append(now["square"]))
    assert first[0] == pytest.approx(seen, rel=1e-4)
    assert first[1] == pytest.approx([*network.line.weight.flatten().tolist(), *network.line.bias.tolist()], abs=1e-4)
    kept = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)
    assert (kept["parts"], kept["progress"]["step"]) == (4, 6)


@pytest.mark.parametrize(
    ("precision", "boxes", "images"),
    [
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.float32, torch.float32),
        # Where the weights are rounded, what meets them has to be.
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
    ],
)
def test_targets_are_not_rounded_where_autocast_rounds(precision, boxes, images):
    network, seen = nn.Linear(2, 1), []

    def batch(number):
        return [torch.full((4, 2), 0.3)], [{"boxes": torch.tensor([[301.3, 0.1, 1.7, 2049.5]]), "labels": torch.ones(1).long()}]

    def losses(batch):
        (pixels,), (target,) = batch
        seen.append((pixels, target["boxes"]))
        out = network(pixels)
        assert out.dtype == (torch.bfloat16 if "b" in precision else out.dtype)
        return {"loss": (out.float() - target["boxes"].float().mean()).square().mean()}

    run = Fit(network, batch, losses, replace(RECIPE, precision=precision), launch(precision=precision))
    run.advance()
    ((pixels, target),) = seen
    assert (pixels.dtype, target.dtype) == (images, boxes)
    assert torch.equal(target, torch.tensor([[301.3, 0.1, 1.7, 2049.5]]).to(boxes))
