"""Windows of a convolutional head against autograd over the whole level, in double precision."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from whybox.frame import paste_windows, take_windows
from whybox.models.torchvision import _products, _small_windows
from whybox.models.torchvision._conv_heads import (
    Branch,
    Tape,
    flatten_layers,
    pull_windows,
    small_backward,
    small_forward,
    supported,
)
from whybox.models.torchvision._products import SharedProducts, cheapest_split, splits_of

GRID = (9, 12)
CELLS = torch.tensor([[0, 0], [4, 5], [8, 11], [2, 10]])


def conv(size=3, groups=1):
    return nn.Conv2d(8, 8, size, padding=size // 2, groups=groups)


TOWERS = {
    "none": lambda: nn.Sequential(),
    "rectified": lambda: nn.Sequential(conv(), nn.ReLU(inplace=True), conv(), nn.ReLU()),
    "wide and pointwise": lambda: nn.Sequential(conv(5), nn.ReLU(), conv(1)),
    "batch norm": lambda: nn.Sequential(nn.Sequential(conv(groups=8), nn.BatchNorm2d(8), nn.ReLU6()), conv(1)),
    "frozen batch norm": lambda: nn.Sequential(conv(), FrozenBatchNorm2d(8), nn.ReLU()),
    "two in a row": lambda: nn.Sequential(conv(), conv()),
}


def branch_of(tower):
    torch.manual_seed(0)
    layers = tower()
    for part in layers.modules():
        if isinstance(part, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    predictors = nn.ModuleDict({"scores": nn.Conv2d(8, 6, 3, padding=1), "sides": nn.Conv2d(8, 4, 1)})
    return layers.double().eval(), predictors.double()


@pytest.mark.parametrize("name", TOWERS)
def test_windows_equal_autograd(name):
    layers, predictors = branch_of(TOWERS[name])
    branch = Branch(flatten_layers(layers), dict(predictors))
    assert supported(branch)
    assert not branch.frozen
    features = torch.randn(1, 8, *GRID, dtype=torch.float64, requires_grad=True)
    tape = Tape()
    with tape.recording([branch]):
        hidden = layers(features.clone())
    seeds = {"scores": torch.randn(4, 6, dtype=torch.float64), "sides": torch.randn(4, 4, dtype=torch.float64)}
    windows = pull_windows(branch, tape, 0, seeds, CELLS, GRID)
    ours = paste_windows(windows, CELLS - branch.radius, GRID)
    for i, (row, column) in enumerate(CELLS.tolist()):
        value = sum((predictors[key](hidden)[0, :, row, column] * seed[i]).sum() for key, seed in seeds.items())
        theirs = torch.autograd.grad(value, features, retain_graph=True)[0][0]
        assert torch.allclose(ours[i], theirs, atol=1e-12)
        assert windows[i].abs().sum() == pytest.approx(float(theirs.abs().sum())), "nothing may lie beyond the grid"


def test_group_norm_with_its_statistics_held_fixed():
    """Autograd through a GroupNorm whose mean and variance are detached: what "frozen" means, to the last digit."""

    class Held(nn.GroupNorm):
        def forward(self, value):
            groups = value.detach().reshape(self.num_groups, -1)
            mean = groups.mean(1).repeat_interleave(4)[:, None, None]
            scale = (groups.var(1, unbiased=False) + self.eps).rsqrt().repeat_interleave(4)[:, None, None]
            return (value - mean) * scale * self.weight[:, None, None] + self.bias[:, None, None]

    layers, predictors = branch_of(lambda: nn.Sequential(conv(), Held(2, 8), nn.ReLU(), conv(), Held(2, 8), nn.ReLU()))
    for part in layers:
        if isinstance(part, Held):
            nn.init.normal_(part.weight)
    stock = copy.deepcopy(layers)
    for part in stock:
        if isinstance(part, Held):
            part.__class__ = nn.GroupNorm
    branch = Branch(flatten_layers(stock), {"scores": predictors["scores"]})
    assert branch.frozen
    features = torch.randn(1, 8, *GRID, dtype=torch.float64, requires_grad=True)
    tape = Tape()
    with tape.recording([branch]):
        predictors["scores"](stock(features))
    output = predictors["scores"](layers(features))
    seed = torch.zeros(4, 6, dtype=torch.float64)
    seed[:, 2] = 1
    ours = paste_windows(pull_windows(branch, tape, 0, {"scores": seed}, CELLS, GRID), CELLS - branch.radius, GRID)
    for i, (row, column) in enumerate(CELLS.tolist()):
        theirs = torch.autograd.grad(output[0, 2, row, column], features, retain_graph=True)[0][0]
        assert torch.allclose(ours[i], theirs, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.SiLU(),
        nn.Dropout(),
    ],
    ids=str,
)
def test_what_has_no_backward_pass_here_is_known(layer):
    assert not supported(Branch((conv(), layer), {"scores": conv()}))


def test_a_layer_that_stands_twice_is_not_supported():
    shared = nn.ReLU()
    assert not supported(Branch((conv(), shared, conv(), shared), {"scores": conv()}))


def test_recording_leaves_no_hook_and_counts_calls():
    layers = nn.Sequential(conv(), nn.ReLU())
    branch = Branch(flatten_layers(layers), {"scores": conv()})
    tape = Tape()
    with tape.recording([branch]):
        layers(torch.rand(1, 8, 4, 4))
        layers(torch.rand(1, 8, 6, 6))
    assert tape.calls(branch) == 2
    with pytest.raises(RuntimeError, match="channels"), tape.recording([branch]):
        layers(torch.rand(1, 3, 4, 4))
    assert not layers[1]._forward_hooks


def test_cells_of_several_images_at_once():
    """With GroupNorm and rectifiers, whose gates differ from image to image."""
    layers = nn.Sequential(conv(), nn.GroupNorm(2, 8), nn.ReLU(), conv(), nn.ReLU6()).double()
    branch = Branch(flatten_layers(layers), {"scores": conv().double()})
    features, seeds = torch.randn(3, 8, *GRID, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    image = torch.tensor([2, 0, 1, 2])
    tape = Tape()
    with tape.recording([branch]):
        layers(features)
    ours = pull_windows(branch, tape, 0, {"scores": seeds}, CELLS, GRID, image=image)
    for number in range(3):
        rows, alone = image == number, Tape()
        with alone.recording([branch]):
            layers(features[number][None])
        theirs = pull_windows(branch, alone, 0, {"scores": seeds[rows]}, CELLS[rows], GRID)
        torch.testing.assert_close(ours[rows], theirs)


def test_batch_norm_in_training_mode_has_the_statistics_of_its_batch():
    layers = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()).double()
    branch = Branch(flatten_layers(layers), {"scores": conv().double()})
    features, seeds = torch.randn(2, 8, *GRID, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    trained = Tape()
    with trained.recording([branch]):
        hidden = layers[0](features)
        layers[2](layers[1](hidden))
    norm = layers[1].eval()
    norm.running_mean, norm.running_var = hidden.mean((0, 2, 3)).detach(), hidden.var((0, 2, 3), unbiased=False).detach()
    evaluated = Tape()
    with evaluated.recording([branch]):
        layers(features)
    given = {"scores": seeds}, CELLS, GRID
    image = torch.tensor([0, 1, 1, 0])
    ours, theirs = (pull_windows(branch, tape, 0, *given, image=image) for tape in (trained, evaluated))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("enough", [1, 1000], ids=["by points", "by torch"])
@pytest.mark.parametrize("name", [name for name in TOWERS if name != "none"])
def test_products_by_any_split_equal_features_times_gradient(name, enough, monkeypatch):
    monkeypatch.setattr(_small_windows, "_ENOUGH", enough)
    layers, predictors = branch_of(TOWERS[name])
    branch = Branch(flatten_layers(layers), dict(predictors))
    features = torch.randn(1, 8, *GRID, dtype=torch.float64)
    tape = Tape()
    with tape.recording([branch]), torch.no_grad():
        layers(features.clone())
    seeds = {"scores": torch.randn(4, 6, dtype=torch.float64), "sides": torch.randn(4, 4, dtype=torch.float64)}
    gradient = pull_windows(branch, tape, 0, seeds, CELLS, GRID)
    under = take_windows(features[0], CELLS - branch.radius, gradient.shape[-2:])
    expected = (under * gradient).sum(1)
    splits = list(splits_of(branch))
    assert len(splits) == sum(isinstance(layer, nn.Conv2d) for layer in branch.tower)
    for split in splits:
        products = SharedProducts(branch, split, tape, 0, features[0], CELLS)
        assert torch.allclose(products(seeds, CELLS), expected, atol=1e-12)
        none = {name: seed[:0] for name, seed in seeds.items()}
        assert products(none, CELLS[:0]).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 5), nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 3, groups=2)], ids=str
)
@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_small_windows_are_transposed_convolutions(layer, size, count):
    """In double precision to 12 digits; in single precision within a few of its last digits, of the largest value."""
    convolve = small_backward()
    precise = copy.deepcopy(layer).double()
    windows = torch.randn(count, 8, size, size, dtype=torch.float64)
    expected = functional.conv_transpose2d(windows, precise.weight, groups=layer.groups)
    for _ in range(2):
        assert torch.allclose(small_backward()(windows, precise), expected, atol=1e-12)
        single = convolve(windows.float(), layer)
        assert single.shape == expected.shape
        assert single.dtype == torch.float32
        assert not count or (single - expected).abs().max() < 3e-5 * expected.abs().max()


def test_forward_windows_are_convolutions():
    """A window in zeros through a convolution."""
    for layer in (
        nn.Conv2d(6, 8, 3, padding=1, bias=False).double(),
        nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False).double(),
    ):
        windows = torch.randn(40, 6, 3, 3, dtype=torch.float64)
        expected = layer(functional.pad(windows, [1] * 4))
        assert torch.allclose(small_forward()(windows, layer), expected, atol=1e-12)


def test_a_branch_is_split_where_it_costs_least(monkeypatch):
    """For a few outputs gradients cost least; the more outputs share a level, the more of the tower is shared. Where memory
    allows no table, there is no split."""
    tower = tuple(layer for _ in range(4) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()))
    branch = Branch(tower, {"scores": nn.Conv2d(64, 6, 3, padding=1)})
    features = torch.zeros(64, 40, 60)
    every = torch.cartesian_prod(torch.arange(40), torch.arange(60))
    spread = every[::97]

    def convolutions(outputs):
        split = cheapest_split(branch, outputs, features)
        return 0 if split is None else sum(isinstance(layer, nn.Conv2d) for layer in split.lower)

    assert convolutions(every[:0]) == 0
    assert convolutions(every[1000:1001]) == 0
    assert [convolutions(spread), convolutions(every), convolutions(every.repeat(9, 1))] == [0, 2, 3]
    monkeypatch.setattr(_products, "_TABLE_BYTES", 0)
    assert convolutions(every) == 0
