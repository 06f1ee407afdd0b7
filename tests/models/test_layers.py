import pytest
import torch

from whybox.errors import GradientError, UnknownNameError
from whybox.models._layers import choose_layers, find_layers, module_path, same_rows, strongest_layers, token_layer
from whybox.types import Candidates, Detections


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
    scores = torch.stack([near.sum() * 0.1 + far.sum(), near.sum() + far.sum()])[:, None]  # 1.6 to 4, and 16 to 4
    found = Detections(torch.zeros(2, 4), scores[:, 0].detach(), torch.zeros(2).long(), torch.arange(2))
    assert strongest_layers(candidates(torch.zeros(2, 4), scores), found, layers).tolist() == [1, 0]


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
    scores = torch.stack([tokens[:, 16:].sum(), tokens[:, :16].sum()])[:, None]
    found = Detections(torch.zeros(2, 4), scores[:, 0].detach(), torch.zeros(2).long(), torch.arange(2))
    for batched in (False, True):
        chosen = strongest_layers(candidates(torch.zeros(2, 4), scores), found, layers, batched=batched)
        assert chosen.tolist() == [1, 0]
