"""Layers for gradients: a recorded tensor, and how its entries lie on a grid over the image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt, log
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import GradientError, WhyboxError, unknown
from whybox.frame import Size
from whybox.ops.gradients import chunk_rows, gradients_on, level_gradients, row_gradients
from whybox.pullback import DensePullback, FeatureGradient
from whybox.targets import ClassScore, MaskLogit
from whybox.types import Candidates, Detections, FeatureMap, Target, Trace

Arrange = Callable[[Tensor], Tensor]
"""(n, *shape of the layer's tensor without its batch axis) -> (n,C,h,w), by permuting and slicing alone."""

SCORE = ClassScore()
"""What decides on a detection's layer where a family says nothing else."""

_LOW = 0.01
"""Differences of lower scores are judged as of this one."""
_SPECIAL_TOKENS = 5
"""The most class and register tokens expected before the patch tokens: one class token, four registers."""


@dataclass(frozen=True)
class Layer:
    """A recorded layer.

    Attributes:
        name: Its name for users.
        tensor: (1, ...) as recorded.
        arrange: Puts its entries on the grid.
        stride: Network pixels per cell.
    """

    name: str
    tensor: Tensor
    arrange: Arrange
    stride: float

    def features(self, *, graph: bool = False) -> Tensor:
        """(C,h,w). graph: whether they keep their autograd graph."""
        return self.arrange(self.tensor if graph else self.tensor.detach())[0]

    def feature_map(self, *, graph: bool = False) -> FeatureMap:
        """The layer as a trace stores it."""
        return FeatureMap(self.features(graph=graph), self.stride, self.name)

    def gradient(self, values: Tensor, *, create_graph: bool = False, batched: bool = False) -> Tensor:
        """dY/dA for values (n,) -> (n,C,h,w). batched: see `row_gradients`."""
        rows = row_gradients(values, self.tensor, name=f"layer {self.name!r}", create_graph=create_graph, batched=batched)
        return self.arrange(rows[:, 0])


def find_layers(name: str, tensors: Sequence[Tensor], network: Size) -> list[Layer]:
    """The layers of one module: `name` where it returns one tensor (1, ...), `name[0]`, `name[1]` ... where it returns several.

    The aspect ratio of the network's input distinguishes (1,C,h,w) from (1,h,w,C), and determines the grid of patch tokens
    (1,T,C).

    Args:
        name: The module's name.
        tensors: Its recorded feature tensors.
        network: (height, width) of the network's input.

    Raises:
        GradientError: A tensor lies on no grid.
    """
    return [
        layer_on_grid(name if len(tensors) == 1 else f"{name}[{i}]", tensor, network, *_find_grid(name, tensor, network))
        for i, tensor in enumerate(tensors)
    ]


def layer_on_grid(name: str, tensor: Tensor, network: Size, grid: Size, arrange: Arrange) -> Layer:
    """A layer whose grid (h, w) is known."""
    return Layer(name, tensor, arrange, network[0] / grid[0])


def token_layer(name: str, tensor: Tensor, network: Size, grid: Size, first: int) -> Layer:
    """Tokens (1,T,C), of which those from `first` on lie on the grid (h, w) row by row; tokens after these are left out."""
    return layer_on_grid(name, tensor, network, grid, partial(_tokens_to_grid, grid=grid, first=first))


def choose_layers(layers: Iterable[Layer], wanted: str) -> list[Layer]:
    """The layers with the name `wanted`: one of `name[i]`, or all of a module's."""
    known = list(layers)
    chosen = [layer for layer in known if layer.name == wanted or layer.name.rpartition("[")[0] == wanted]
    if not chosen:
        raise unknown("layer", wanted, (layer.name for layer in known))
    return chosen


def module_path(layer: str) -> str:
    """The module of a layer's name: `neck` of `neck[1]`."""
    return layer.rpartition("[")[0] if layer.endswith("]") else layer


def exact_pullbacks(
    live: Trace,
    detections: Detections,
    layers: Sequence[Layer],
    chosen: Tensor | None = None,
    *,
    leading: Target = SCORE,
    batched: bool = False,
) -> Iterator[DensePullback]:
    """The general route: autograd from a trace whose candidates keep their graph down to the layers.

    Args:
        live: The trace with its graph.
        detections: N detections, whose `source` is a row of its candidates.
        layers: The layers that gradients are taken at.
        chosen: (N,) index into `layers`; None: for each detection the layer where the leading target's sum |gradient o features|
            is largest. With several layers that is a backward pass per detection, and the only one where it is this target that
            is explained.
        leading: The target that decides on the layer.
        batched: Whether detections may share a backward pass: for networks whose operations are known to have a batched one.
    """
    if not len(detections):
        return
    if chosen is None and len(layers) > 1:
        yield from _strongest_pullbacks(live, detections, layers, leading, batched)
        return
    chosen = torch.zeros_like(detections.source) if chosen is None else chosen
    for i, layer in enumerate(layers):
        for rows in chunk_rows((chosen == i).nonzero()[:, 0], layer.tensor.numel()):
            yield _pullback(live, detections, layer, rows, batched)


@dataclass(frozen=True)
class _LedPullback(DensePullback):
    """A pullback to the layer that the leading target chose.

    Attributes:
        leading: That target.
        known: Its gradient (n,C,h,w), which the choice took; None where it has to have a graph of its own.
    """

    leading: Target = SCORE
    known: Tensor | None = None

    def gradients(self, target: Target) -> Iterator[tuple[Tensor, FeatureGradient]]:
        """Of the leading target the gradient that is known."""
        known, pullback = self.known, self
        if known is not None and type(target) is type(self.leading) and target == self.leading:
            pullback = replace(self, backward=lambda values: known)
        return super(_LedPullback, pullback).gradients(target)


def _strongest_pullbacks(
    live: Trace, detections: Detections, layers: Sequence[Layer], leading: Target, batched: bool
) -> Iterator[DensePullback]:
    """Every detection's pullback to its strongest layer."""
    for rows, chosen, gradients in _choices(leading_values(live, detections, leading), layers, batched):
        for i, layer in enumerate(layers):
            mine = chosen == i
            if not mine.any():
                continue
            # No inference tensor, whatever the caller is under.
            with gradients_on():
                known = None if live.differentiable else gradients[i][mine]
            pullback = _pullback(live, detections, layer, rows[mine], batched)
            yield _LedPullback(**vars(pullback), leading=leading, known=known)


def _pullback(live: Trace, detections: Detections, layer: Layer, rows: Tensor, batched: bool) -> DensePullback:
    """That of some detections, `rows` (n,), to one layer."""
    with gradients_on():
        part = detections[rows]
        # A clone, because autograd cannot save an index that is an inference tensor.
        trace = live.rows(live.candidates[part.source.clone()], part)
        features = layer.features(graph=live.differentiable)
    backward = partial(layer.gradient, create_graph=live.differentiable, batched=batched)
    return DensePullback(rows, trace, "exact", layer.stride, features, backward, layer.name)


def strongest_layers(values: Tensor, layers: Sequence[Layer], *, batched: bool = False) -> Tensor:
    """(n,) for each of the values Y (n,) the layer where sum |dY/dA o A| is largest."""
    if len(layers) == 1:
        return torch.zeros(len(values), dtype=torch.long, device=values.device)
    return torch.cat([chosen for _, chosen, _ in _choices(values, layers, batched)])


def _choices(values: Tensor, layers: Sequence[Layer], batched: bool) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """In parts whose gradients memory holds: rows (m,) of the values, the strongest layer (m,) of each, and the gradients at
    every layer, (m,C,h,w) each."""
    # Levels of tokens share one tensor.
    tensors = {id(layer.tensor): layer.tensor for layer in layers}
    name = "layers " + " or ".join(repr(layer.name) for layer in layers)
    every = torch.arange(len(values), device=values.device)
    for rows in chunk_rows(every, sum(tensor.numel() for tensor in tensors.values())):
        with gradients_on():
            # A clone, because autograd cannot save an index that is an inference tensor.
            asked = values[rows.clone()]
        given = dict(zip(tensors, level_gradients(asked, list(tensors.values()), name=name, batched=batched), strict=True))
        gradients = [layer.arrange(given[id(layer.tensor)][:, 0]) for layer in layers]
        products = (gradient * layer.features() for gradient, layer in zip(gradients, layers, strict=True))
        yield rows, torch.stack([terms.abs().sum((1, 2, 3)) for terms in products], 1).argmax(1), gradients


def leading_values(live: Trace, detections: Detections, leading: Target) -> Tensor:
    """(n,) the values that decide on which layer each detection is explained."""
    with gradients_on():
        # Clones, because autograd cannot save an index that is an inference tensor.
        return leading(replace(live, detections=detections.map(Tensor.clone)))


def leading_target(branch: str) -> Target:
    """What decides on which layer a detection is explained: its score; for targets on masks its mask, for those on keypoints
    their scores."""
    if branch == "mask":
        return MaskLogit()
    return _keypoint_scores if branch == "keypoint" else SCORE


def _keypoint_scores(trace: Trace) -> Tensor:
    points = trace.candidates.keypoints
    assert points is not None  # a family gives this branch where it has keypoints
    return points[trace.detections.source, :, 2].sum(1)


def first_channels(network: nn.Module) -> int:
    """The channels of the images that a network takes, as its first convolution says; 3 where it has none.

    A convolution of 12, 27, 48, ... channels is taken for one behind a rearrangement of blocks of 2x2, 3x3, 4x4, ... pixels of
    three channels (YOLOX's Focus, pixel unshuffle).
    """
    # In the order in which they were made, which is the order in which they run in nearly every network.
    first = next((taken for part in network.modules() if (taken := channels_taken(part)) is not None), 3)
    return 3 if in_blocks(first, 3) else first


def channels_taken(part: nn.Module) -> int | None:
    """The channels that a convolution takes, also a scripted or a traced one; None where the module is no convolution."""
    if isinstance(part, nn.Conv2d):
        return part.in_channels
    if getattr(part, "original_name", "") != "Conv2d":
        return None
    # A traced one has lost its number of groups; what takes images has one.
    weight: Any = part.weight
    return int(weight.shape[1]) * int(getattr(part, "groups", 1))


def in_blocks(taken: int, channels: int) -> bool:
    """Whether a convolution of `taken` channels may take blocks of k x k pixels, each of `channels` channels."""
    area, rest = divmod(taken, channels)
    return rest == 0 and isqrt(area) ** 2 == area


def same_rows(live: Candidates, before: Candidates, source: Tensor) -> Tensor:
    """The rows (n,) in `live` of the candidates `source` (n,) in `before`, of two passes over the same image.

    They are the same rows unless a top-k in the network broke a near tie differently; then the nearest candidate is taken.

    Raises:
        WhyboxError: A detection's `source` is not a row of the candidates.
        GradientError: A candidate has no counterpart, because the network is not deterministic.
    """
    if not len(source):
        return source
    check_rows(before, source)
    scores = before.scores[source]
    rounding = _rounding(scores)
    if len(live) == len(before):
        moved = (live.scores[source] - scores).abs() <= rounding * scores.abs().amax(1, keepdim=True).clamp(min=_LOW)
        if moved.all():
            return source
    score_distance = torch.cdist(live.scores.float(), scores.float(), p=torch.inf) / scores.float().amax(1).clamp(min=_LOW)
    nearest = (score_distance + _box_distance(live, before, source)).min(0)
    if not nearest.values.max() <= rounding:
        raise GradientError("two passes over the same image gave different candidates: make the network's forward deterministic")
    return nearest.indices


def _rounding(scores: Tensor) -> float:
    """The relative difference that rounding alone makes between two passes: fused kernels and their plain forms add in other
    orders, and a GPU may multiply in TF32."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        return 0.05
    return 1e-3 if scores.device.type == "cpu" else 5e-3


def check_rows(candidates: Candidates, source: Tensor) -> None:
    """Refuse detections whose rows (n,) are not among the candidates."""
    if len(source) and (source.min() < 0 or source.max() >= len(candidates)):
        raise WhyboxError("detections to explain need `source`, their row among the candidates: take them from trace.detections")


def _box_distance(live: Candidates, before: Candidates, source: Tensor) -> Tensor:
    """(M,n) the largest difference of a side, relative to the box's size."""
    # Where every class has its own box, their mean stands for the candidate.
    boxes, reference = ((c.boxes if c.boxes.ndim == 2 else c.boxes.mean(1)).float() for c in (live, before))
    size = (reference[source, 2:] - reference[source, :2]).amax(1).clamp(min=1)
    return torch.cdist(boxes, reference[source], p=torch.inf) / size


def no_map(name: str, tensor: Tensor) -> GradientError:
    """The error for a layer whose tensor lies on no grid."""
    shape = tuple(tensor.shape)
    return GradientError(f"layer {name!r} gives {shape}, no feature map: choose one that gives (1, C, h, w) or patch tokens")


def _find_grid(name: str, tensor: Tensor, network: Size) -> tuple[Size, Arrange]:
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and len(tensor) == 1:
        channels_last, channels_first = (shape[1], shape[2]), (shape[2], shape[3])
        # With a margin, because grids are rounded up to whole cells.
        if _misfit(channels_last, network) < _misfit(channels_first, network) - 0.1:
            return channels_last, _channels_first
        return channels_first, _as_it_is
    if tensor.ndim == 3 and len(tensor) == 1 and shape[1] > 1:
        # Of grids that fit equally well the one with the fewest special tokens is taken.
        misfit, first, grid = min((_misfit(grid, network), first, grid) for grid, first in _token_grids(shape[1]))
        # Cells up to e**0.2 = 1.2 times as long as wide: sides that are no multiple of the patch make them a little oblong.
        if misfit < 0.2:
            return grid, partial(_tokens_to_grid, grid=grid, first=first)
    raise no_map(name, tensor)


def _token_grids(count: int) -> Iterator[tuple[Size, int]]:
    """Every grid (h, w) of `count` tokens, with the number of special tokens before them."""
    for first in range(min(_SPECIAL_TOKENS, count - 1) + 1):
        for height in range(1, count - first + 1):
            if (count - first) % height == 0:
                yield (height, (count - first) // height), first


def _misfit(grid: Size, network: Size) -> float:
    """The absolute logarithm of the cells' aspect ratio: 0 where they are square."""
    return abs(log(network[0] / grid[0] / (network[1] / grid[1])))


def _as_it_is(values: Tensor) -> Tensor:
    return values


def _channels_first(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2)


def _tokens_to_grid(tokens: Tensor, grid: Size, first: int) -> Tensor:
    """(n,T,C) -> (n,C,h,w)"""
    height, width = grid
    return tokens[:, first : first + height * width].transpose(1, 2).reshape(len(tokens), tokens.shape[2], height, width)
