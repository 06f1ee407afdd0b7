import pytest
import torch
from torch import nn

from whybox.ops.calls import Recorder, fill, play


def recorded(run, *tensors):
    recorder = Recorder()
    with recorder:
        roots = [recorder.start(tensor) for tensor in tensors]
        result = run(*tensors)
    return recorder, recorder.finish(result), roots, result


def maps(channels=3):
    return torch.rand(1, channels, 7, 9).requires_grad_()


def test_local_calls_end_where_the_layout_changes():
    conv = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    x = maps()
    recorder, recording, (root,), result = recorded(lambda x: conv(x).relu().flatten(1).sum(1), x)
    assert not recorder.broken
    assert [call.local for call in recording.calls] == [True, True, False, False]
    ((index, raw),) = recording.raw.items()
    torch.testing.assert_close(raw, conv(x).relu().detach())
    other = torch.rand(5, 3, 4, 6)
    tensors = {root: other}
    play(recording.local(root), tensors)
    torch.testing.assert_close(tensors[index], conv(other).relu())
    tensors = {index: raw}
    play(recording.rest(), tensors)
    assert torch.equal(fill(recording.outputs, tensors), result)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + torch.ones(1, 3, 7, 9),
        lambda x: x.permute(0, 1, 3, 2),
        lambda x: x.view(1, 3, 7, 9),
        lambda x: nn.functional.interpolate(x, size=(7, 9)),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x[:, :, 1:],
    ],
)
def test_what_depends_on_the_size_is_not_local(call):
    _, recording, (root,), _ = recorded(call, maps())
    assert not recording.local(root)
    assert set(recording.raw) == {root}


def test_equal_sizes_of_axes_do_not_hide_a_permutation():
    _, recording, (root,), _ = recorded(lambda x: x.permute(0, 2, 3, 1), torch.rand(1, 7, 7, 7).requires_grad_())
    assert not recording.local(root)


def test_only_what_leads_to_the_outputs_is_kept():
    _, recording, _, _ = recorded(lambda x: (x.exp(), x.sin() * 2)[1], maps())
    assert [call.function.__name__ for call in recording.calls] == ["sin", "mul"]


def test_changes_in_place_are_made_again():
    def run(x):
        boxes = torch.zeros(7 * 9, 2)
        boxes[:, 0] = x[0, 0].flatten()
        boxes[:, 1] = boxes[:, 0] * 2
        return boxes

    x = maps()
    recorder, recording, _, result = recorded(run, x)
    assert not recorder.broken
    tensors = dict(recording.raw)
    play(recording.rest(), tensors)
    again = fill(recording.outputs, tensors)
    assert torch.equal(again, result)
    assert again is not result


def test_two_roots_are_kept_apart():
    _, recording, (one, other), _ = recorded(lambda x, y: [x.exp(), y.sin(), x.exp() + y.sin()], maps(), maps())
    assert [call.function.__name__ for call in recording.local(one)] == ["exp", "exp"]
    assert [call.function.__name__ for call in recording.local(other)] == ["sin", "sin"]
    assert {frozenset({one}), frozenset({other}), frozenset({one, other})} == {recording.roots[index] for index in recording.raw}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    "around",
    [
        Double.apply,
        lambda x: Double.apply(x) + x,
        lambda x: (x * 2).register_hook(print) and x,
        lambda x: {"hidden": ({1: x * 2}, type("Named", (), {"tensors": x * 2})())},
    ],
)
def test_ways_around_the_recorded_calls_are_noticed(around):
    assert recorded(around, maps())[0].broken


def test_nothing_is_recorded_before_a_start_or_of_other_tensors():
    x, y = maps(), torch.rand(3)
    _, recording, _, _ = recorded(lambda x: [y.exp(), x.exp()], x)
    assert len(recording.calls) == 1
    assert torch.equal(recording.outputs[0], y.exp())
