from contextlib import nullcontext

import pytest
import torch

from whybox.errors import GradientError
from whybox.ops import gradients
from whybox.ops.gradients import chunk_rows, level_gradients, row_gradients


def test_a_row_is_the_gradient_of_its_value():
    features = torch.randn(1, 3, 4, 5, requires_grad=True)
    weight = torch.randn(6, 3, 4, 5)
    values = (weight * features.square()).sum((1, 2, 3))
    torch.testing.assert_close(row_gradients(values, features), (2 * weight * features.detach())[:, None])


def test_the_graph_serves_again_and_grad_stays_empty():
    weight = torch.randn(4, requires_grad=True)
    features = torch.randn(4, requires_grad=True)
    values = (weight * features)[:2]
    first = row_gradients(values, features)
    assert torch.equal(first, row_gradients(values, features))
    assert weight.grad is None
    assert features.grad is None


def test_a_level_that_is_not_reached_gets_zeros():
    near, far = torch.randn(2, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    to_near, to_far = level_gradients(near.sum(1), [near, far])
    assert to_near.shape == (2, 2, 3)
    assert to_near.sum() == 6
    assert torch.equal(to_far, torch.zeros(2, 4))


def test_no_values_give_no_rows():
    assert row_gradients(torch.zeros(0), torch.zeros(3, 4)).shape == (0, 3, 4)


@pytest.mark.parametrize("cut", [torch.Tensor.detach, torch.Tensor.round, lambda t: t.long().float()])
def test_what_blocks_the_gradient_is_one_line(cut):
    features = torch.randn(5, requires_grad=True)
    values = cut(features)[:2]
    if cut is torch.Tensor.round:  # differentiable with gradient zero: not an error
        assert not row_gradients(values, features).any()
        return
    with pytest.raises(GradientError, match=r"does not depend on neck[.]0 through differentiable operations") as error:
        row_gradients(values, features, name="neck.0")
    assert "\n" not in str(error.value)


def test_a_value_of_other_tensors_is_an_error():
    with pytest.raises(GradientError, match="the features"):
        row_gradients(torch.randn(2, requires_grad=True), torch.randn(2, requires_grad=True))


def test_chunks_hold_every_row_once_and_stay_under_the_limit():
    rows = torch.arange(10)
    chunks = list(chunk_rows(rows, 30, limit=100))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    assert torch.equal(torch.cat(chunks), rows)
    assert [len(chunk) for chunk in chunk_rows(rows, 1000, limit=100)] == [1] * 10
    assert list(chunk_rows(rows[:0], 30)) == []


class Doubled(torch.autograd.Function):
    """It looks into its gradient, as compiled kernels do."""

    @staticmethod
    def forward(ctx, values):
        return 2 * values

    @staticmethod
    def backward(ctx, gradient):
        assert gradient.data_ptr()
        return 2 * gradient


@pytest.mark.parametrize(("part", "expected"), [(torch.nn.Identity(), 3), (Doubled.apply, 7)], ids=["batched", "one by one"])
def test_rows_in_batches_are_those_of_one_backward_pass_each(part, expected, monkeypatch):
    """Also where they are chunked, and where some operation takes no batch."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.GroupNorm(2, 4), torch.nn.GELU())
    net.requires_grad_(False)
    near, far = torch.randn(1, 3, 4, 5, requires_grad=True), torch.randn(2, requires_grad=True)
    passes = []
    values = part(net(near)).flatten()[:7]
    near.register_hook(lambda gradient: passes.append(1))
    one_by_one = level_gradients(values, [near, far])
    assert len(passes) == 7
    monkeypatch.setattr(gradients, "_AT_ONCE", {"cpu": 3 * 80})
    batched = level_gradients(values, [near, far], batched=True)
    assert len(passes) == 7 + expected
    for one, other in zip(batched, one_by_one, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Batching rule not implemented for aten::item", None),
        ("CUDA out of memory. Tried", "memory does not hold 3 gradients at once"),
        ("a hook's own\nand more", r"an operation failed \(a hook's own\) on 3 gradients at once"),
    ],
)
def test_where_batches_fail_single_passes_are_taken_and_what_is_not_usual_is_told(words, told):
    batches = [1]

    class Fails(Doubled):
        @staticmethod
        def backward(ctx, gradient):
            if batches:
                batches.clear()
                raise RuntimeError(words)
            return 2 * gradient

    features = torch.randn(3, requires_grad=True)
    values = Fails.apply(features)
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        (found,) = level_gradients(values, [features], batched=True)
    assert torch.equal(found, 2 * torch.eye(3))
