from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from whybox.errors import GradientError, UnknownNameError
from whybox.ops.hooks import INPUT, capture, feature_tensors, frozen, record, replay, submodule


class Net(nn.Module):
    """Three convolutions; what stands around the second is the test's choice."""

    def __init__(self, around=None, inplace=False):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace=inplace)
        self.head = nn.Conv2d(4, 2, 1)
        self.around = around

    def forward(self, x):
        if self.around is None:
            return self.run(x)
        with self.around():
            return self.run(x)

    def run(self, x):
        return self.head(self.act(self.body(self.one(x))))


class Twice(nn.Module):
    """A no_grad forward around a no_grad forward, with operations of its own behind it."""

    def __init__(self):
        super().__init__()
        self.inner = Net(torch.no_grad)

    @torch.no_grad()
    def forward(self, x):
        return self.inner(x) * 2


def state(module):
    return (
        [part.training for part in module.modules()],
        [weight.requires_grad for weight in module.parameters()],
        [weight.grad for weight in module.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [value.clone() for value in module.state_dict().values()],
    )


def assert_same(before, after):
    assert before[:4] == after[:4]
    assert all(torch.equal(a, b) for a, b in zip(before[4], after[4], strict=True))


def reference(net, image):
    """The same gradient written out: the body's output as a leaf, the rest of the network by hand."""
    leaf = net.body(net.one(image)).detach().requires_grad_()
    return leaf.detach(), torch.autograd.grad(net.head(leaf.relu()).sum(), leaf)[0]


def mixed(net):
    """Modes and flags that no blanket call could restore."""
    net.train()
    net.body[1].training = False
    net.one.weight.requires_grad_(False)
    return net


def test_frozen_restores_every_flag():
    net = mixed(Net())
    before = state(net)
    with frozen(net):
        assert not any(part.training for part in net.modules())
        assert not any(weight.requires_grad for weight in net.parameters())
        net(torch.randn(1, 3, 8, 8))
    assert_same(before, state(net))


def test_frozen_restores_after_an_exception():
    net = mixed(Net())
    before = state(net)
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert_same(before, state(net))


def test_frozen_never_calls_train_or_eval():
    class Wrapper(Net):
        def train(self, mode=True):
            raise AssertionError("a training run would start here")

    net = Wrapper()
    with frozen(net):
        assert not net.body.training
    assert net.body.training


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("around", [None, torch.no_grad, torch.enable_grad])
def test_gradient_equals_the_written_out_one(around, inplace):
    net, image = Net(around, inplace), torch.randn(1, 3, 8, 8)
    with frozen(net):
        with capture(net, ["body"]) as captured:
            output = net(image)
        values, gradient = reference(net, image)
    (features,) = captured["body"]
    assert torch.equal(features, values)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), features)[0], gradient)


def test_gradients_cross_nested_no_grad_forwards():
    net, image = Twice(), torch.randn(1, 3, 8, 8)
    with frozen(net):
        with capture(net, ["inner.body"]) as captured:
            output = net(image)
        _, gradient = reference(net.inner, image)
    assert torch.is_grad_enabled()
    # `* 2` stands inside the outer no_grad, behind the inner forward that had turned gradients off once more
    torch.testing.assert_close(torch.autograd.grad(output.sum(), captured["inner.body"])[0], 2 * gradient)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    net = Net()
    with mode(), frozen(net):
        with capture(net, ["body"]) as captured:
            output = net(torch.randn(1, 3, 8, 8).clone())
        assert not torch.is_grad_enabled()
    assert torch.autograd.grad(output.sum(), captured["body"])[0].any()


@pytest.mark.parametrize("name", ["body", INPUT])
def test_inference_mode_inside_the_forward_is_named(name):
    net = mixed(Net(torch.inference_mode))
    before = state(net)
    with pytest.raises(GradientError, match=r"runs under torch[.]inference_mode") as error, capture(net, [name]):
        net(torch.randn(1, 3, 8, 8))
    assert "\n" not in str(error.value)
    assert_same(before, state(net))


def test_weights_made_under_inference_mode_are_named():
    with torch.inference_mode():
        net = Net()
    with (
        pytest.raises(GradientError, match=r"made under torch[.]inference_mode"),
        frozen(net),
        capture(net, ["one"]) as found,
    ):
        torch.autograd.grad(net(torch.randn(1, 3, 8, 8)).sum(), found["one"])


def test_a_later_layer_is_a_node_of_the_earlier_ones_graph():
    net, image = Net(), torch.randn(1, 3, 8, 8)
    with frozen(net), capture(net, ["one", "body"]) as captured:
        output = net(image)
    (one,), (body,) = captured["one"], captured["body"]
    assert one.is_leaf
    assert not body.is_leaf
    first, second = torch.autograd.grad(output.sum(), [one, body], retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(body, one, second)[0])


def test_nothing_before_the_leaf_is_differentiated():
    net = Net()
    with frozen(net), capture(net, ["body"]) as captured:
        net(torch.randn(1, 3, 8, 8))
    assert captured["body"][0].is_leaf
    assert captured["body"][0].grad_fn is None


@pytest.mark.parametrize("around", [None, torch.no_grad])
def test_input_is_a_layer(around):
    net, image = Net(around), torch.randn(1, 3, 8, 8)
    with frozen(net), capture(net, [INPUT]) as captured:
        output = net(image)
    leaf = image.clone().requires_grad_()
    with frozen(net):
        expected = torch.autograd.grad(net.run(leaf).sum(), leaf)[0]
    (found,) = captured[INPUT]
    assert torch.equal(found, image)
    assert not image.requires_grad
    torch.testing.assert_close(torch.autograd.grad(output.sum(), found)[0], expected)


def test_hooks_are_gone_after_an_exception():
    net = mixed(Net())
    before = state(net)
    with pytest.raises(RuntimeError, match="expected input"), frozen(net), capture(net, ["body", INPUT]):
        net(torch.randn(1, 5, 8, 8))
    assert_same(before, state(net))


def test_an_unknown_path_gets_a_suggestion():
    net = Net()
    with (
        pytest.raises(UnknownNameError, match=r"unknown layer 'body\.2'; did you mean body\.[01]"),
        capture(net, ["one", "body.2"]),
    ):
        pass
    assert not net.one._forward_hooks
    with pytest.raises(UnknownNameError, match="known: act, body, head, one"):
        submodule(net, "xyzzy")


def test_a_module_that_did_not_run_is_named():
    net = Net()
    net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(GradientError, match="layer 'spare' gave no features"), capture(net, ["spare"]):
        net(torch.randn(1, 3, 8, 8))


Pair = namedtuple("Pair", "maps count")


def wraps():
    yield lambda maps: maps
    yield lambda maps: (maps, torch.zeros(1))
    yield lambda maps: [maps, None, 3]
    yield lambda maps: OrderedDict(p3=maps, mask=torch.ones(2, dtype=torch.bool))
    yield lambda maps: {"feature_maps": (maps,), "hidden_states": (maps * 2,)}
    yield lambda maps: Pair(maps, 3)
    yield lambda maps: (SimpleNamespace(tensors=maps, mask=None), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("wrap", list(wraps()))
def test_features_inside_containers(wrap):
    class Neck(nn.Module):
        def forward(self, maps):
            return wrap(maps)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck = Neck()

        def forward(self, maps):
            self.seen = self.neck(maps)
            return feature_tensors(self.seen)[0].square().sum()

    net, maps = Whole(), torch.randn(1, 2, 3, 4)
    with capture(net, ["neck"]) as captured:
        output = net(maps)
    (features,) = captured["neck"]
    assert type(net.seen) is type(wrap(maps))
    torch.testing.assert_close(torch.autograd.grad(output, features)[0], 2 * maps)


def test_a_module_called_twice_gives_two_tensors():
    net = nn.Sequential(nn.Conv2d(2, 2, 1))
    with capture(net, ["0"]) as captured:
        net(torch.randn(1, 2, 3, 4)), net(torch.randn(1, 2, 5, 6))
    assert [tuple(tensor.shape[2:]) for tensor in captured["0"]] == [(3, 4), (5, 6)]


def test_a_hugging_face_output_keeps_its_type():
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class Encoder(nn.Module):
        def forward(self, tokens):
            return outputs.BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))

    net = nn.Sequential(Encoder())
    with capture(net, ["0"]) as captured:
        output = net(torch.randn(1, 4, 3))
    assert isinstance(output, outputs.BaseModelOutput)
    assert len(captured["0"]) == 1
    assert torch.autograd.grad(output[0].sum(), captured["0"])[0].eq(1).all()


@pytest.mark.parametrize("around", [None, torch.inference_mode])
def test_what_was_recorded_stands_in_for_the_module(around):
    net, image = Net(around, inplace=True), torch.randn(1, 3, 8, 8)
    before = state(net)
    with frozen(net), record(net, "body") as outputs:
        expected = net(image)
    assert not outputs[0].is_inference()
    net.around = None
    net.one.register_forward_pre_hook(lambda part, args: (args[0] * 0,))
    with frozen(net), replay(net, "body", outputs[0]), capture(net, ["body"]) as captured:
        output = net(image)
    assert torch.equal(output, expected)
    assert torch.equal(captured["body"][0], outputs[0])
    assert "forward" not in vars(net.body)
    net.one._forward_pre_hooks.clear()
    assert_same(before, state(net))


def test_a_patched_forward_is_put_back():
    net = Net()
    patched = net.body.forward = lambda x: x * 2
    with pytest.raises(ZeroDivisionError), replay(net, "body", None):
        raise ZeroDivisionError
    assert net.body.forward is patched
