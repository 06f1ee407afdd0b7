"""The backward pass of a convolutional head, on the receptive field of one output cell, for many cells at once.

A head's output at one cell depends on a small window of the features (11x11 for five 3x3 convolutions). Running the
transposed convolutions on that window alone costs a small fraction of a backward pass over the level, and windows of many
detections form one batch. The activations' gates are recorded during the ordinary forward pass, so nothing is computed twice.

Exact where the tower consists of convolutions, pointwise rectifiers and normalizations whose statistics do not depend on the
input (BatchNorm in evaluation mode). With GroupNorm, or BatchNorm in training mode, the statistics of the forward pass are held
fixed ("frozen"): the part of the gradient that flows through mean and variance, which reaches every cell, is omitted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d
from torchvision.ops import FrozenBatchNorm2d

from whybox.frame import take_windows_of_batch
from whybox.models.torchvision._small_windows import SmallWindows, product_multiplications

_FIXED_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True)
class Branch:
    """One branch of a head.

    Attributes:
        tower: Layers that run on one level.
        predictors: The convolutions on the tower's output, by the names of their outputs.
    """

    tower: tuple[nn.Module, ...]
    predictors: Mapping[str, nn.Conv2d]

    @property
    def frozen(self) -> bool:
        """Whether windows omit the gradient through the normalization's statistics."""
        return any(isinstance(layer, nn.GroupNorm) for layer in self.tower)

    @property
    def radius(self) -> int:
        """Cells from the output cell to the edge of its receptive field, at the widest predictor."""
        return radius_of(self.tower) + max(_radius(layer) for layer in self.predictors.values())

    @property
    def multiplications(self) -> int:
        """Multiplications of a backward pass through the tower, for each cell of the level."""
        return sum(layer.weight.numel() for layer in self.tower if isinstance(layer, nn.Conv2d))


def flatten_layers(module: nn.Module) -> tuple[nn.Module, ...]:
    """The layers of nested nn.Sequentials, in order; a subclass with its own forward counts as a layer."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return tuple(layer for child in module for layer in flatten_layers(child))
    return () if isinstance(module, nn.Identity) else (module,)


def supported(branch: Branch) -> bool:
    """Whether every layer of the branch has a backward pass here; no layer may occur twice in the tower."""
    layers = branch.tower
    known = all(_is_known(layer) or _is_plain(layer) for layer in layers)
    # Without groups: `_pull_predictors` multiplies by whole kernels, of which a group's are a part.
    predictors = all(_is_plain(layer) and layer.groups == 1 for layer in branch.predictors.values())
    # Gates are kept by layer: those of one that occurs twice could not be told apart.
    return known and predictors and len(set(map(id, layers))) == len(layers)


def _is_known(layer: nn.Module) -> bool:
    """Whether it is one of the normalizations and rectifiers here; a class derived from one may do something else."""
    return type(layer) in (nn.GroupNorm, *_FIXED_NORMS, *_RECTIFIERS)


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is a convolution with an odd square kernel that keeps its input's size."""
    if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    square = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size[0] % 2 == 1
    return square and layer.stride == layer.dilation == (1, 1) and layer.padding == (_radius(layer),) * 2


def radius_of(layers: Sequence[nn.Module]) -> int:
    """Cells from an output cell to the edge of its receptive field."""
    return sum(_radius(layer) for layer in layers if isinstance(layer, nn.Conv2d))


def window_multiplications(layers: Sequence[nn.Module], radius: int = 0, *, small: int = 0) -> int:
    """Multiplications of a window through layers, in the order given, from a radius on: of one of so many by `SmallWindows`; 0:
    by torch's own convolutions."""
    total = 0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            extent, size = layer.kernel_size[0], 2 * radius + 1
            per_pair = product_multiplications(small, size, extent) if small and layer.groups == 1 else (size * extent) ** 2
            total += per_pair * layer.weight[..., 0, 0].numel()
            radius += _radius(layer)
    return total


def _radius(layer: nn.Conv2d) -> int:
    return int(layer.kernel_size[0]) // 2


@dataclass
class Tape:
    """Recordings of the towers' forward pass for the backward pass: for every layer, one gate per call.

    A gate is a mask (B,C,h,w) where a rectifier passes, or a factor (B,C,1,1) by which a normalization scales; (1,C,1,1) where it
    is the same for all images of the batch.
    """

    gates: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    @contextmanager
    def recording(self, branches: Sequence[Branch]) -> Iterator["Tape"]:
        """Inside, record the calls of the supported branches' towers."""
        handles = []
        towers = [branch.tower for branch in branches if supported(branch)]
        layers = {layer for tower in towers for layer in tower if not isinstance(layer, nn.Conv2d)}
        try:
            for layer in layers:
                self.gates[layer] = []
                handles.append(layer.register_forward_hook(self._note))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.gates[layer].append(_gate(layer, args[0], output))

    def calls(self, branch: Branch) -> int:
        """How often the branch's tower ran; -1 where its layers disagree, so that calls cannot be assigned."""
        counts = {len(self.gates[layer]) for layer in branch.tower if layer in self.gates}
        return counts.pop() if len(counts) == 1 else -1 if counts else 0


def _gate(layer: nn.Module, value: Tensor, output: Tensor) -> Tensor:
    """The gate of one call, from the layer's input and output."""
    # A rectifier's from its output, because an in-place rectifier has overwritten its input.
    # Closed at the kinks themselves, as in torch's backward pass.
    if isinstance(layer, nn.ReLU6):
        return (output > 0) & (output < 6)
    if isinstance(layer, nn.ReLU):
        return output > 0
    # At least in single precision: under autocast the features are in half.
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    if isinstance(layer, nn.GroupNorm):
        # Biased, as GroupNorm computes it.
        variance = value.reshape(len(value), layer.num_groups, -1).var(2, unbiased=False)
        scale = (variance + layer.eps).rsqrt().repeat_interleave(value.shape[1] // layer.num_groups, 1)
        return _times(scale, layer.weight)
    assert isinstance(layer, _FIXED_NORMS)
    running = layer.running_var
    if isinstance(layer, nn.BatchNorm2d) and (layer.training or running is None):
        running = value.var((0, 2, 3), unbiased=False)
    assert isinstance(running, Tensor)
    return _times((running + layer.eps).rsqrt()[None], layer.weight)


def _times(scale: Tensor, weight: Tensor | None) -> Tensor:
    return (scale if weight is None else scale * weight)[:, :, None, None]


def pull_windows(
    branch: Branch,
    tape: Tape,
    call: int,
    seeds: Mapping[str, Tensor],
    cells: Tensor,
    grid: tuple[int, int],
    *,
    image: Tensor | None = None,
    differentiable: bool = False,
    small: SmallWindows | None = None,
) -> Tensor:
    """Gradients at the branch's input, on windows; equal to autograd's where `branch.frozen` is False.

    Args:
        branch: The branch.
        tape: The recordings of its forward pass.
        call: Which of the tower's recorded calls.
        seeds: The predictors' names -> dY/d(output) at the cell, (n, out_channels).
        cells: (n,2) as (row, column).
        grid: (h, w) of the level.
        image: (n,) the image of each cell within the recorded batch; None: all are of the only one.
        differentiable: Whether the result keeps its graph to the seeds, the gates and the weights.
        small: Faster convolutions (`small_backward`); None: torch's own, so that sums are rounded as by autograd. Grad-CAM++
            divides by sums of gradients that nearly cancel: another order of them is another map.

    Returns:
        (n,C,2r+1,2r+1) around each cell, r = branch.radius; zero beyond the grid.
    """
    of = _weight if differentiable else _detached_weight
    gates = {layer: gates[call] if differentiable else gates[call].detach() for layer, gates in tape.gates.items() if gates}
    gradient = _pull_predictors(branch, seeds, of)

    def rounded_alike(windows: Tensor, layer: nn.Conv2d) -> Tensor:
        return conv_transpose2d(windows.contiguous(), of(layer), groups=layer.groups)

    return _through(branch.tower[::-1], gradient, gates, cells, grid, image, small or rounded_alike)


def small_backward() -> SmallWindows:
    """For the `small` of `pull_windows`: convolutions from their outputs to their inputs."""
    return SmallWindows(_detached_weight)


def small_forward() -> SmallWindows:
    """For `push_cells`: convolutions from their inputs to their outputs."""
    return SmallWindows(_forward_kernel)


def push_cells(
    layers: Sequence[nn.Module],
    tape: Tape,
    call: int,
    features: Tensor,
    cells: Tensor,
    grid: tuple[int, int],
    small: SmallWindows,
) -> Tensor:
    """How the last of a tower's first layers answers to the features of one cell, all other cells' zero: the derivative of its
    output along them, on windows. Gates are the forward pass's, as in `pull_windows`.

    Args:
        layers: A tower's layers from its first on.
        tape: The recordings of its forward pass.
        call: Which of the tower's recorded calls.
        features: (C,h,w), the tower's input.
        cells: (n,2) as (row, column).
        grid: (h, w) of the level.
        small: The convolutions, `small_forward`.

    Returns:
        (n,channels,2r+1,2r+1) around each cell, r the layers' radius; zero beyond the grid.
    """
    gates = {layer: gates[call].detach() for layer, gates in tape.gates.items() if gates}
    own = features[:, cells[:, 0], cells[:, 1]].T[:, :, None, None]
    return _through(layers, own, gates, cells, grid, None, small)


def _through(
    layers: Sequence[nn.Module],
    windows: Tensor,
    gates: Mapping[nn.Module, Tensor],
    cells: Tensor,
    grid: tuple[int, int],
    image: Tensor | None,
    convolve: Callable[[Tensor, nn.Conv2d], Tensor],
) -> Tensor:
    """Windows around cells through layers in the order given, forwards or backwards, growing with every convolution.

    Args:
        layers: Convolutions, normalizations and rectifiers.
        windows: (n,C,k,k) around each cell.
        gates: Of the layers that are no convolutions.
        cells: (n,2) as (row, column).
        grid: (h, w) of the level.
        image: (n,) the image of each cell within the recorded batch; None: all are of the only one.
        convolve: (windows, layer) -> the layer's transposed convolution in this direction.

    Returns:
        (n,C,2r+1,2r+1) around each cell; zero beyond the grid.
    """
    # A convolution's zero padding passes nothing to or from cells outside the grid. A rectifier's gate is closed there as well:
    # where one follows, it does for both.
    closed = False
    for layer in layers:
        radius = windows.shape[-1] // 2
        if isinstance(layer, nn.Conv2d):
            inner = windows if closed else windows * _inside(cells, radius, grid)
            windows, closed = convolve(inner, layer), False
            continue
        gate = gates[layer]
        # A mask is the level's and is cut to the window; a factor is the same in every cell.
        if gate.dtype == torch.bool:
            of = torch.zeros_like(cells[:, 0]) if image is None else image
            gate = take_windows_of_batch(gate, of, cells - radius, (2 * radius + 1,) * 2)
            closed = True
        elif image is not None and len(gate) > 1:
            gate = gate[image]
        windows = windows * gate
    return windows if closed else windows * _inside(cells, windows.shape[-1] // 2, grid)


def _weight(layer: nn.Conv2d) -> Tensor:
    return layer.weight


def _detached_weight(layer: nn.Conv2d) -> Tensor:
    return layer.weight.detach()


def _forward_kernel(layer: nn.Conv2d) -> Tensor:
    """A convolution is the transpose of one with mirrored kernels, whose inputs and outputs are exchanged (in each group)."""
    weight = layer.weight.detach()
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1).flip(-2, -1)


def _pull_predictors(branch: Branch, seeds: Mapping[str, Tensor], of: Callable[[nn.Conv2d], Tensor]) -> Tensor:
    """Sum over the predictors of seed times kernel, all padded to the widest kernel."""
    widest = max(_radius(branch.predictors[name]) for name in branch.predictors)
    total: Tensor | None = None
    for name, seed in seeds.items():
        layer = branch.predictors[name]
        # Most targets depend on few output channels: only their kernels are multiplied.
        used = seed.ne(0).any(0)
        weight = of(layer)[used]
        part = (seed[:, used] @ weight.flatten(1)).reshape(len(seed), *layer.weight.shape[1:])
        part = nn.functional.pad(part, [widest - _radius(layer)] * 4)
        total = part if total is None else total + part
    assert total is not None
    return total


def _inside(cells: Tensor, radius: int, grid: tuple[int, int]) -> Tensor:
    """Whether a window's cell lies on the grid, (n,1,k,k)."""
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    rows, columns = cells[:, :1] + reach, cells[:, 1:] + reach
    down = ((rows >= 0) & (rows < grid[0]))[:, None, :, None]
    across = ((columns >= 0) & (columns < grid[1]))[:, None, None, :]
    return down & across
