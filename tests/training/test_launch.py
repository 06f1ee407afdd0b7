"""Where a training runs: options become Fabric's, and what cannot be is one line."""

import sys
from types import SimpleNamespace

import pytest

from whybox.errors import WhyboxError
from whybox.training import launch
from whybox.training.launch import Devices

lightning_fabric = pytest.importorskip("lightning_fabric")


def test_a_device_that_is_not_here():
    assert launch.device("cpu").type == "cpu"
    with pytest.raises(WhyboxError, match="device 'abacus' is not available"):
        launch.device("abacus")


def test_a_name_and_fabrics_options_become_one_choice():
    assert launch.choose() == Devices("cpu", 1, "auto", 1)
    assert launch.choose("cpu:0") == Devices("cpu", [0])
    assert launch.choose("abacus", accelerator="cuda", devices="4", strategy="ddp") == Devices("cuda", 4, "ddp")
    assert launch.choose(devices="0,1", num_nodes=2) == Devices("cpu", "0,1", "auto", 2)


def test_one_process_on_the_processor_is_the_default():
    fabric = launch.launch()
    assert (fabric.world_size, fabric.device.type, fabric.strategy.precision.precision) == (1, "cpu", "32-true")
    assert launch.launch(precision="bfloat16").strategy.precision.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            Devices(strategy="teamwork"),
            "training cannot run on accelerator cpu, devices 1, strategy teamwork: .*invalid strategy",
        ),
        (Devices(accelerator="abacus"), "invalid accelerator name"),
        (Devices(devices=0), "not a valid input"),
        (Devices(devices=2, strategy="ddp_spawn"), "needs to be called with a function"),
    ],
)
def test_what_cannot_be_is_one_line(where, message):
    with pytest.raises(WhyboxError, match=message) as caught:
        launch.launch(where)
    assert "\n" not in str(caught.value)


def test_a_strategy_that_spreads_the_weights_is_refused(monkeypatch):
    monkeypatch.setattr(lightning_fabric, "Fabric", lambda **given: SimpleNamespace(strategy=None))
    with pytest.raises(WhyboxError, match="strategy must be auto, ddp or ddp_find_unused_parameters_true, got 'fsdp'"):
        launch.launch(Devices("cuda", 2, "fsdp"))


def test_without_fabric_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(WhyboxError, match=r"pip install 'whybox\[train\]'"):
        launch.launch()
