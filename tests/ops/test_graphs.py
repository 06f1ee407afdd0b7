import pytest
import torch
from torch import nn

from whybox.ops.gradients import row_gradients

SHAPE = (1, 6, 3, 4)


def layouts(values):
    """The same numbers in the orders in which they may lie in memory."""
    tokens = values.flatten(2).transpose(1, 2).contiguous()
    return {
        "contiguous": values.contiguous(),
        "channels_last": values.contiguous(memory_format=torch.channels_last),
        "of tokens": tokens.transpose(1, 2).reshape(values.shape),
    }


def norms():
    torch.manual_seed(0)
    batch = nn.BatchNorm2d(6).double().eval()
    batch.running_var.uniform_(0.5, 2)
    return {"batch": batch, "instance": nn.InstanceNorm2d(6).double()}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("order", ["contiguous", "channels_last", "of tokens"])
@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_a_map_that_becomes_tokens_has_the_right_gradient_before_a_norm(kind, order, batched):
    """Torch's own is wrong on a CPU; held to differences of the values."""
    norm = norms()[kind]
    features = layouts(torch.randn(SHAPE, dtype=torch.double))[order].requires_grad_()
    weight = torch.randn(6, 5, dtype=torch.double)

    def values_of(features):
        return (norm(features).flatten(2).transpose(1, 2).tanh() @ weight)[0].sum(0)

    gradients = row_gradients(values_of(features), features, batched=batched)
    way = torch.randn(SHAPE, dtype=torch.double)
    with torch.no_grad():
        differences = (values_of(features + 1e-5 * way) - values_of(features - 1e-5 * way)) / 2e-5
    torch.testing.assert_close((gradients[:, 0] * way[0]).sum((1, 2, 3)), differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "of tokens"])
def test_no_hook_is_left_on_a_norm(order):
    """A second way back through the same graph, by torch alone, is as it was."""
    features = torch.randn(SHAPE, requires_grad=True)
    values = norms()["batch"].float()(features).flatten(2).transpose(1, 2)[0, :, 0]
    before = torch.autograd.grad(values.sum(), features, retain_graph=True)[0]
    row_gradients(values, features)
    assert torch.equal(torch.autograd.grad(values.sum(), features, retain_graph=True)[0], before)
