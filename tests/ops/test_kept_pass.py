"""One pass is kept while somebody asks on, and none outside."""

import copy

import pytest
import torch

from whybox.ops.kept_pass import KeptPass, keeping, kept_or_made

NETWORK = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


def test_the_last_pass_alone_is_kept_and_only_where_it_is_wanted():
    kept, made = KeptPass(), []
    # Equal, and not the same.
    first, second = [0], [0]

    def ask(owner, key):
        return kept_or_made(owner, key, NETWORK, lambda: made.append(key) or len(made))

    assert [ask(first, "a"), ask(first, "a")] == [1, 2]
    with keeping(kept):
        assert [ask(first, "a"), ask(first, "a"), ask(first, "b"), ask(first, "b")] == [3, 3, 4, 4]
        assert [ask(second, "b"), ask(first, "b")] == [5, 6]
    with keeping(kept):
        assert ask(first, "b") == 6
    assert ask(first, "b") == 7


def test_a_pass_that_fails_is_not_kept():
    kept, owner = KeptPass(), object()
    with keeping(kept), pytest.raises(ZeroDivisionError):
        kept_or_made(owner, "a", NETWORK, lambda: 1 // 0)
    with keeping(kept):
        assert kept_or_made(owner, "a", NETWORK, lambda: 2) == 2


def written(net):
    with torch.no_grad():
        net[0].weight.mul_(2)


def replaced(net):
    net[0].weight = torch.nn.Parameter(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "change",
    [
        written,
        replaced,
        lambda net: net[1].running_mean.add_(1),
        lambda net: net.double(),
        lambda net: net.append(torch.nn.ReLU()),
        lambda net: net[0].register_forward_hook(lambda *given: None),
        lambda net: net[0].register_full_backward_hook(lambda *given: None),
    ],
    ids=["weight", "other weight", "buffer", "dtype", "part", "hook", "gradient hook"],
)
def test_of_a_network_in_another_state_there_is_none(change):
    net, made = copy.deepcopy(NETWORK), []

    def ask():
        return kept_or_made(net, "a", net, lambda: made.append(1) or len(made))

    with keeping(KeptPass()):
        assert [ask(), ask()] == [1, 1]
        change(net)
        assert [ask(), ask()] == [2, 2]
