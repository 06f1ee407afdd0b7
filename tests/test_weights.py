import pickle

import pytest
import torch
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
