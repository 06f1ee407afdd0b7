import logging
import pickle
import re

import pytest
import torch
import torch.nn.utils.prune
from safetensors.torch import save_file
from torch import nn

from whybox.errors import WeightsError
from whybox.weights import load_weights


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("form", ["safetensors", "pt", "checkpoint"])
def test_every_form_fills_the_network(tmp_path, form):
    wanted = {key: torch.ones_like(value) for key, value in net().state_dict().items()}
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(wanted, path)
    else:
        torch.save({"model": wanted, "epoch": 3} if form == "checkpoint" else wanted, path)
    network = net()
    load_weights(network, path)
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def named(change):
    return {change(name): torch.ones_like(value) for name, value in net().state_dict().items()}


@pytest.mark.parametrize(
    "content",
    [
        named(lambda name: f"module.{name}"),
        named(lambda name: f"_orig_mod.{name}"),
        named(lambda name: f"module._orig_mod.{name}"),
        named(lambda name: f"module.model.{name}"),
        named(lambda name: f"state_dict.model.{name}"),
        named(lambda name: f"ema.{name}"),
        named(lambda name: name.replace(".", "._orig_mod.")),
        named(lambda name: f"detector.{name}") | {"n_averaged": torch.tensor(3)},
        {"model": {"state_dict": named(str)}, "epoch": 3},
        {"ema": {"module": named(str)}, "epoch": 3},
        {"model_state_dict": named(lambda name: f"module.{name}"), "optimizer": {"state": {}, "param_groups": []}},
        {"params": named(str)},
        {"state_dict": named(lambda name: f"model.{name}"), "pytorch-lightning_version": "2.5"},
        {"ema": {name: value * 0 for name, value in named(str).items()}, "model": named(str)},
    ],
    ids=lambda content: next(iter(content)),
)
def test_what_stands_around_the_names_is_left_off_and_said(tmp_path, caplog, content):
    torch.save(content, tmp_path / "w.pt")
    flat = all(isinstance(value, torch.Tensor) for value in content.values())
    if flat:
        save_file(content, tmp_path / "w.safetensors")
    for path in tmp_path.iterdir():
        network = net()
        with caplog.at_level(logging.WARNING):
            note = load_weights(network, path)
        assert all(bool((value == 1).all()) for value in network.state_dict().values())
        assert note.startswith(f"{path}: left off the names of the weights: ")
        assert note in caplog.text


def other(prefix="", factor=0):
    return {f"{prefix}{name}": value * factor for name, value in named(str).items()}


PLAIN = named(lambda name: f"model.{name}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": PLAIN | {"loss.weight": torch.ones(1)}}, "left out, as no part of the network: loss.weight"),
        (
            PLAIN | {f"criterion.{i}": torch.ones(1) for i in range(5)},
            "criterion.0, criterion.1, criterion.2 and 2 more$",
        ),
        (named(lambda name: f"model._orig_mod.{name}") | {"auc.total": torch.ones(1)}, "network: auc.total"),
        (
            PLAIN | other("ema_model.module.") | {"ema_model.n_averaged": torch.tensor(1)},
            "an average .*: the prefix 'ema_model",
        ),
        (named(str) | other("ema."), "not taken, an average of the weights that fits as well: the prefix 'ema.'"),
        (PLAIN | other("model.ema."), "not taken, an average of the weights that fits as well: the prefix 'model.ema.'"),
        ({"ema": other(), "model": named(str)}, "not taken, an average of the weights that fits as well: the entry 'ema'"),
        ({"model": named(str), "model_ema": other()}, "not taken, .*the entry 'model_ema'"),
        ({"state_dict": PLAIN, "state_dict_ema": other()}, "not taken, .*the entry 'state_dict_ema'"),
        # Of a teacher of another width there is no doubt; what is there twice is one.
        (named(lambda n: f"student.{n}") | {f"teacher.{n}": torch.ones(7) for n in named(str)}, "the prefix 'student.'$"),
        ({"model": named(str), "state_dict": named(str)}, "the entry 'model'$"),
    ],
)
def test_the_part_that_fits_is_taken_and_the_others_are_said(tmp_path, content, said):
    torch.save(content, tmp_path / "w.pt")
    network = net()
    note = load_weights(network, tmp_path / "w.pt")
    assert re.search(said, note), note
    assert "\n" not in note
    assert all(bool((value == 1).all()) for value in network.state_dict().values())


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (other("student.", 1) | other("teacher."), "the prefix 'student.'; the prefix 'teacher.'"),
        ({"student": other("", 1), "teacher": other()}, "the entry 'student'; the entry 'teacher'"),
        ({"state_dict": other("net_a.", 1) | other("net_b.")}, "the entry 'state_dict', the prefix 'net_a.'; .*'net_b.'"),
    ],
    ids=["prefixes", "entries", "lightning"],
)
def test_of_several_parts_that_fit_none_is_guessed(tmp_path, content, places):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=f"2 parts of it fit Sequential and differ .{places}.: save the one that is meant"):
        load_weights(net(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "normalized",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        lambda layer: torch.nn.utils.prune.identity(layer, "weight"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_a_weight_that_is_computed_from_others_is_hinted_at(tmp_path, normalized):
    changed = net()
    normalized(changed[0])
    torch.save(changed.state_dict(), tmp_path / "changed.pt")
    torch.save(net().state_dict(), tmp_path / "plain.pt")
    with pytest.raises(WeightsError, match="put the same on the network before loading, or save the file again after"):
        load_weights(net(), tmp_path / "changed.pt")
    with pytest.raises(WeightsError, match="load the file first, and put the normalization on afterwards"):
        load_weights(changed, tmp_path / "plain.pt")


def test_names_that_fit_are_left_alone(tmp_path, caplog):
    torch.save(named(str), tmp_path / "w.pt")
    assert load_weights(net(), tmp_path / "w.pt") == ""
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            named(lambda name: f"net.{name}") | {"net.more": torch.ones(1), "loss.w": torch.ones(1)},
            "to the network more$",
        ),
        # What is meant has one weight too many; the average inside of it is not taken in its stead.
        (
            PLAIN | {"model.more": torch.ones(1)} | other("model.ema."),
            "network more$",
        ),
        ({f"module.{k}": v for k, v in named(str).items() if k != "0.bias"}, "missing 0.bias$"),
        ({"epoch": 3}, "expected a state dict"),
        ([1, 2], "expected a state dict"),
        ({}, "expected a state dict"),
        ({3: torch.ones(1)}, "expected a state dict"),
    ],
)
def test_what_does_not_fit_without_its_prefix_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(net(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path, capsys):
    network = net()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = network.state_dict()
    wrong = {
        "missing": ({k: v for k, v in state.items() if k != "0.bias"}, "missing 0.bias"),
        "extra": (state | {"head.weight": torch.zeros(1)}, "not known to the network head.weight"),
        "shape": (state | {"0.bias": torch.zeros(5)}, r"0.bias is \(5,\)"),
        "nan": (state | {"0.bias": torch.full((4,), float("nan"))}, "NaN"),
    }
    for name, (content, message) in wrong.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(WeightsError, match=message):
            load_weights(network, tmp_path / f"{name}.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("evil.pt", "junk.safetensors", "absent.pt"):
        with pytest.raises(WeightsError, match=name):
            load_weights(network, tmp_path / name)
    assert "ran" not in capsys.readouterr().out
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
