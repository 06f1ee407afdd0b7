import pytest
import torch

from whybox.errors import GradientError, UnknownNameError
from whybox.frame import Frame
from whybox.models._layers import (
    choose_layers,
    exact_pullbacks,
    find_layers,
    module_path,
    same_rows,
    strongest_layers,
    token_layer,
)
from whybox.targets import ClassLogit, ClassScore
from whybox.types import Candidates, Detections, Trace


def candidates(boxes, scores):
    return Candidates(boxes, scores, torch.zeros(len(boxes), dtype=torch.long))


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 7, 10, 15), (10, 15)),
        ((1, 10, 15, 7), (10, 15)),  # channels last
        ((1, 150, 7), (10, 15)),  # tokens
        ((1, 151, 7), (10, 15)),  # behind a class token
        ((1, 155, 7), (10, 15)),  # behind a class token and four registers
        ((1, 10, 10, 15), (10, 15)),  # as many channels as rows
    ],
)
def test_the_grid_is_found_by_the_aspect_ratio(shape, grid):
    (layer,) = find_layers("neck", [torch.randn(shape)], (160, 240))
    channels = 10 if shape == (1, 10, 10, 15) else 7
    assert layer.features().shape == (channels, *grid)
    assert layer.stride == 16
    assert layer.name == "neck"


def test_a_rounded_grid_does_not_turn_channels_into_rows():
    (layer,) = find_layers("neck", [torch.randn(1, 25, 25, 26)], (800, 820))
    assert layer.features().shape == (25, 25, 26)
    assert layer.stride == 32


def test_channels_last_and_tokens_keep_their_places():
    maps = torch.randn(1, 7, 10, 15)
    tokens = torch.cat([torch.zeros(1, 1, 7), maps.flatten(2).transpose(1, 2)], 1)
    for tensor in (maps, maps.permute(0, 2, 3, 1), tokens):
        (layer,) = find_layers("neck", [tensor], (160, 240))
        assert torch.equal(layer.features(), maps[0])


def test_gradients_are_laid_out_like_the_features():
    tokens = torch.randn(1, 31, 2, requires_grad=True)
    layer = token_layer("tokens", tokens, (50, 60), (5, 6), first=1)
    weight = torch.randn(3, 2, 5, 6)
    values = (weight * layer.arrange(tokens)).sum((1, 2, 3))
    torch.testing.assert_close(layer.gradient(values), weight)
    assert layer.feature_map().grid == (5, 6)
    assert not layer.features().requires_grad


@pytest.mark.parametrize("shape", [(1, 7), (2, 7, 10, 15), (1, 1, 7), (1, 149, 7, 1, 1), (4, 150, 7)])
def test_what_has_no_grid_is_named(shape):
    with pytest.raises(GradientError, match=r"layer 'head' gives .*, no feature map"):
        find_layers("head", [torch.randn(shape)], (160, 240))


def test_layers_are_chosen_by_name():
    layers = find_layers("neck", [torch.randn(1, 2, 10, 15), torch.randn(1, 2, 5, 8)], (160, 240))
    assert [layer.name for layer in choose_layers(layers, "neck")] == ["neck[0]", "neck[1]"]
    assert [layer.name for layer in choose_layers(layers, "neck[1]")] == ["neck[1]"]
    assert module_path("neck[1]") == module_path("neck") == "neck"
    with pytest.raises(UnknownNameError, match=r"unknown layer 'neck\[2\]'; did you mean"):
        choose_layers(layers, "neck[2]")


def test_the_strongest_layer_has_the_largest_share_of_the_score():
    near, far = torch.ones(1, 1, 4, 4, requires_grad=True), torch.ones(1, 1, 2, 2, requires_grad=True)
    layers = find_layers("neck", [near, far], (16, 16))
    values = torch.stack([near.sum() * 0.1 + far.sum(), near.sum() + far.sum()])  # 1.6 to 4, and 16 to 4
    assert strongest_layers(values, layers).tolist() == [1, 0]


def test_rows_are_followed_through_a_changed_order():
    boxes, scores = torch.rand(6, 4) * 100, torch.rand(6, 3)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    source = torch.tensor([0, 2, 5])
    before, live = candidates(boxes, scores), candidates(boxes[order], scores[order])
    assert torch.equal(order[same_rows(live, before, source)], source)
    assert torch.equal(same_rows(before, before, source), source)
    with pytest.raises(GradientError, match="different candidates"):
        same_rows(candidates(boxes + 50, 1 - scores), before, source)


def test_levels_of_tokens_in_one_tensor_are_told_apart():
    tokens = torch.ones(1, 20, 2, requires_grad=True)
    layers = [token_layer("encoder[0]", tokens, (16, 16), (4, 4), 0), token_layer("encoder[1]", tokens, (16, 16), (2, 2), 16)]
    values = torch.stack([tokens[:, 16:].sum(), tokens[:, :16].sum()])
    for batched in (False, True):
        assert strongest_layers(values, layers, batched=batched).tolist() == [1, 0]


def test_the_gradient_that_chose_the_level_is_not_taken_again():
    tokens = torch.ones(1, 20, 2, requires_grad=True)
    layers = [token_layer("encoder[0]", tokens, (16, 16), (4, 4), 0), token_layer("encoder[1]", tokens, (16, 16), (2, 2), 16)]
    passes = []
    tokens.register_hook(lambda gradient: passes.append(1))
    scores = torch.stack([tokens[:, 16:].sum() ** 2, tokens[:, :16].sum(), tokens[:, 17].sum()])[:, None]
    boxes = torch.zeros(3, 4)
    made = Candidates(boxes, scores, torch.zeros(3).long(), logits=3 * scores)
    found = Detections(boxes, scores[:, 0].detach(), torch.zeros(3).long(), torch.arange(3))
    trace = Trace(torch.zeros(3, 16, 16), Frame.same((16, 16)), (), made, found)
    one, other = exact_pullbacks(trace, found, layers)
    assert (one.layer, one.rows.tolist(), other.layer, other.rows.tolist()) == ("encoder[0]", [1], "encoder[1]", [0, 2])
    assert len(passes) == 3
    score = other.gradient(ClassScore()).gradient
    assert len(passes) == 3
    torch.testing.assert_close(score[0], torch.full((2, 2, 2), 16.0))
    assert torch.equal(score[1].sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(other.gradient(ClassLogit()).gradient, 3 * score)
    assert len(passes) == 5
