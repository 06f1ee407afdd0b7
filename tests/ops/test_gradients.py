import pytest
import torch

from whybox.errors import GradientError
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
