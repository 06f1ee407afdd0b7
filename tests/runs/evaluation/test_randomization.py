"""The cascade of random weights: its order, its randomness, and that it leaves no bit changed."""

import pytest
import torch
from torch import nn

from whybox.errors import WhyboxError
from whybox.runs.evaluation.randomization import cascade, layers_from_output, randomize

EVERY = ["head", "table", "shared", "stem.1", "stem.0", "idle"]
"""The layers of `Net`, from the output on."""


class Table(nn.Module):
    """A layer with a weight and no initialization of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4))
        self.register_buffer("offset", torch.full((4,), 2.0))

    def forward(self, x):
        return x @ self.weight + self.offset


class Net(nn.Module):
    """Layers that run in another order than that of their registration, one twice, one never."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.idle = nn.Linear(2, 2)
        self.stem = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.table = Table()
        self.shared = nn.Linear(3, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.table(self.shared(self.shared(x))))


@pytest.fixture
def net():
    torch.manual_seed(3)
    net = Net()
    net.train()
    net(torch.randn(16, 5))  # running statistics of its own
    with torch.no_grad():
        net.head.bias[0] = -0.0
        net.head.bias[1] = float("nan")
    return net.eval()


def bits(net):
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: value.detach().numpy().tobytes() for name, value in tensors.items()}


def forward(net):
    return lambda: net(torch.randn(2, 5))


def test_layers_come_in_the_reverse_of_their_running(net):
    assert layers_from_output(net, forward(net)) == EVERY
    assert layers_from_output(net) == ["shared", "table", "stem.1", "stem.0", "idle", "head"]


def test_the_last_of_several_calls_counts(net):
    def twice():
        net(torch.randn(2, 5))
        net.stem(torch.randn(2, 5))

    assert layers_from_output(net, twice)[:2] == ["stem.1", "stem.0"]


def test_weights_used_without_a_call_stand_where_the_module_around_them_does():
    net = nn.Sequential(nn.Linear(8, 8), nn.Module(), nn.Linear(8, 8))
    net[1].attention = nn.MultiheadAttention(8, 2, batch_first=True)
    net[1].after = nn.Linear(8, 8)
    net[1].forward = lambda x: net[1].after(net[1].attention(x, x, x)[0])
    names = layers_from_output(net, lambda: net(torch.randn(1, 3, 8)))
    assert names == ["2", "1.after", "1.attention.out_proj", "1.attention", "0"]


def test_no_hook_stays(net):
    layers_from_output(net, forward(net))
    with pytest.raises(ZeroDivisionError):
        layers_from_output(net, lambda: 1 / 0)
    assert not any(part._forward_hooks for part in net.modules())


def changed(net, before):
    return {name for name, value in bits(net).items() if value != before[name]}


def test_each_step_goes_one_layer_deeper_and_all_bits_come_back(net):
    before = bits(net)
    seen = []
    with cascade(net, forward(net), stages=100) as steps:
        for name in steps:
            seen.append((name, {entry.rpartition(".")[0] for entry in changed(net, before)}))
    assert [name for name, _ in seen] == EVERY
    assert [layers for _, layers in seen] == [set(EVERY[: i + 1]) for i in range(6)]
    assert bits(net) == before


GROUPS = {1: ["idle"], 2: ["shared", "idle"], 4: ["head", "shared", "stem.1", "idle"], 6: EVERY, 100: EVERY}


@pytest.mark.parametrize("stages", GROUPS)
def test_layers_are_grouped(net, stages):
    before = bits(net)
    with cascade(net, forward(net), stages=stages) as steps:
        assert list(steps) == GROUPS[stages]
        assert {name.rpartition(".")[0] for name in changed(net, before)} == set(EVERY)


def fail_within(net):
    before = bits(net)
    with cascade(net) as steps:
        next(steps)
        raise ZeroDivisionError(f"{len(changed(net, before))} tensors changed")


def test_an_exception_brings_the_weights_back(net):
    before = bits(net)
    with pytest.raises(ZeroDivisionError, match="2 tensors changed"):
        fail_within(net)
    assert bits(net) == before


def test_running_statistics_that_a_forward_pass_changes_come_back(net):
    before = bits(net)
    net.train()
    with cascade(net) as steps:
        next(steps)
        net(torch.randn(8, 5))
        assert "stem.1.running_mean" in changed(net, before)
    assert bits(net) == before


def test_steps_end_with_the_context(net):
    before = bits(net)
    with cascade(net) as steps:
        next(steps)
    assert list(steps) == []
    assert bits(net) == before


def test_objects_flags_and_the_callers_random_numbers_stay(net):
    net.head.weight.requires_grad = False
    tensors = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
    kept = {name: (id(value), value.data_ptr(), value.requires_grad) for name, value in tensors.items()}
    state = torch.get_rng_state()
    with cascade(net) as steps:
        list(steps)
        inside = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        assert {name: (id(value), value.data_ptr(), value.requires_grad) for name, value in inside.items()} == kept
    assert torch.equal(torch.get_rng_state(), state)


def weights_after_all(net, seed, disturb=False):
    with cascade(net, seed=seed) as steps:
        for _ in steps:
            if disturb:
                torch.rand(7)
        return bits(net)


def test_the_seed_alone_decides(net):
    assert weights_after_all(net, 1) == weights_after_all(net, 1, disturb=True)
    assert weights_after_all(net, 1) != weights_after_all(net, 2)


def test_a_layer_gets_its_own_initialization():
    layer = nn.Conv2d(3, 8, 3)
    nn.init.constant_(layer.weight, 100.0)
    randomize(layer, seed=5)
    torch.manual_seed(5)
    assert torch.equal(layer.weight, nn.Conv2d(3, 8, 3).weight)


def test_batch_normalization_starts_anew():
    layer = nn.BatchNorm2d(4)
    layer(torch.randn(3, 4, 5, 5) * 7 + 2)
    nn.init.normal_(layer.weight)
    randomize(layer, seed=0)
    expected = nn.BatchNorm2d(4).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())


def test_other_weights_are_shuffled_and_buffers_left():
    layer = Table()
    before = layer.weight.detach().clone()
    randomize(layer, seed=0)
    assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight.detach().flatten().sort().values, before.flatten())
    assert layer.offset.tolist() == [2.0] * 4


def test_an_initialization_that_fails_leaves_the_layer_whole():
    class Broken(nn.Linear):
        ready = False

        def reset_parameters(self):
            if self.ready:
                raise ZeroDivisionError

    layer = Broken(2, 2)
    layer.ready = True
    before = bits(layer), id(layer.weight)
    with pytest.raises(ZeroDivisionError), cascade(layer) as steps:
        next(steps)
    assert (bits(layer), id(layer.weight)) == before


def test_weights_made_under_inference_mode():
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(3, 3), Table())
    before = bits(net)
    with cascade(net) as steps:
        list(steps)
        assert bits(net) != before
    assert bits(net) == before
    with torch.inference_mode(), cascade(net) as steps:
        list(steps)
    assert bits(net) == before


def test_nothing_to_randomize_is_said(net):
    with pytest.raises(WhyboxError, match="ReLU has no weights that could be randomized"), cascade(nn.ReLU()):
        pass
    with pytest.raises(WhyboxError, match="stages must be at least 1, got 0"), cascade(net, stages=0):
        pass
