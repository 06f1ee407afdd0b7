"""What a torchvision detector does in a training step, seen from outside: which predictions were assigned which object, and their
heat maps and embeddings, from the same forward pass and with its graph."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from whybox.errors import WhyboxError
from whybox.frame import Size, paste_boxes, paste_windows, resize_maps, take_windows_of_batch
from whybox.models.torchvision import twostage
from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._conv_heads import Branch, Tape, pull_windows, supported
from whybox.models.torchvision._embeddings import in_precision
from whybox.models.torchvision._onestage_heads import HEADS
from whybox.network_state import exclusive
from whybox.ops.embedding_heads import NAME, embedding_head
from whybox.ops.gradients import gradients_on, recording, root
from whybox.ops.hooks import frozen

MAPS = frozenset({"maps"})
"""What a pass is asked for, of "maps" and "embeddings", where nothing is said."""
_DENSE = ("fcos.FCOS", "retinanet.RetinaNet")
_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Positives:
    """n predictions of a batch that the detector itself assigned an object in its training pass.

    Attributes:
        maps: (n,h,w) heat maps of the logit of the assigned object's class, on a grid over the batch's canvas; with a graph.
        boxes: (n,4) predicted boxes xyxy, in pixels of the network's input.
        truth_iou: (n,) IoU of the predicted box and the object's.
        owner: (n,) number of the object, counted through the batch.
        image: (n,) number of the image in the batch.
        labels: (n,) the object's label, as in the targets.
    """

    maps: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Embedded:
    """The same predictions with the embeddings that the network's embedding head gives them.

    Attributes:
        embeddings: (n,D), with a graph.
        boxes: (n,4) predicted boxes xyxy, in pixels of the network's input.
        truth_iou: (n,) IoU of the predicted box and the object's.
        owner: (n,) number of the object, counted through the batch.
        image: (n,) number of the image in the batch.
        labels: (n,) the object's label, as in the targets.
    """

    embeddings: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Assigned:
    """Positives without their maps. row: (n,) among the rows of all images."""

    row: Tensor
    boxes: Tensor
    truth_iou: Tensor
    owner: Tensor
    image: Tensor
    labels: Tensor


class TrainingPass(ABC):
    """One training pass of a detector, kept."""

    two_stage: bool

    def __init__(self, network: Any) -> None:
        self.network = network
        self.canvas: Size | None = None
        self.images = 0

    @abstractmethod
    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the network; the stack takes them away."""

    @abstractmethod
    def _assigned(self, most: int) -> _Assigned:
        """The positives, at most `most` of an image: those with the highest IoU."""

    @abstractmethod
    def _maps(self, found: _Assigned, size: Size, differentiable: bool) -> Tensor:
        """(n,h,w)"""

    @abstractmethod
    def _embeddings(self, head: Any, found: _Assigned) -> Tensor:
        """(n,D)"""

    def positives(self, *, most: int, stride: int, second_order: bool = False) -> Positives:
        """The positives of the pass with their maps.

        Args:
            most: At most this many of an image, those with the highest IoU.
            stride: Pixels of the network's input per cell of the maps.
            second_order: Whether the gradient in a map keeps its graph to the head's weights; else only the features do.

        Raises:
            WhyboxError: The network did not run, or not as torchvision's own detectors do.
        """
        height, width = self._canvas()
        size = max(1, height // stride), max(1, width // stride)
        # Under the user's autocast the maps would have a few digits.
        with exclusive(self.network), gradients_on():
            with torch.no_grad():
                found = self._assigned(most)
            maps = self._maps(found, size, second_order)
        return Positives(maps, found.boxes, found.truth_iou, found.owner, found.image, found.labels)

    def embedded(self, *, most: int) -> Embedded:
        """The positives of the pass with their embeddings, whose graph reaches the head and, through the features, the rest.

        Args:
            most: At most this many of an image, those with the highest IoU.

        Raises:
            WhyboxError: The network did not run, or not as torchvision's own detectors do.
        """
        self._canvas()
        with exclusive(self.network), gradients_on():
            with torch.no_grad():
                found = self._assigned(most)
            embeddings = self._embeddings(embedding_head(self.network), found)
        return Embedded(embeddings, found.boxes, found.truth_iou, found.owner, found.image, found.labels)

    def _canvas(self) -> Size:
        """The size of the network's input."""
        if self.canvas is None:
            raise self._differs("its backbone was not called")
        return self.canvas

    def _note_canvas(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.images, self.canvas = len(args[0]), (args[0].shape[-2], args[0].shape[-1])

    def _differs(self, how: str) -> WhyboxError:
        return WhyboxError(
            f"this {type(self.network).__name__} was not seen training as torchvision's own does: {how}; call it once, "
            "uncompiled and in training mode, with images and targets"
        )


class DensePass(TrainingPass):
    """A pass of FCOS or RetinaNet."""

    two_stage = False

    def __init__(self, network: Any, needs: Collection[str] = MAPS) -> None:
        super().__init__(network)
        self._head = HEADS[module_type(network)](network)
        self._branch = _classification_branch(self._head, network) if "maps" in needs else None
        self._tape = Tape()
        self._levels: list[Tensor] | None = None
        self._assignment: Mapping[str, Any] | None = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the network; the stack takes them away."""
        net = self.network
        _hook(stack, net.backbone.register_forward_pre_hook(self._note_canvas))
        _hook(stack, net.head.register_forward_pre_hook(self._note_levels))
        stack.enter_context(self._tape.recording([self._branch] if self._branch else []))
        stack.enter_context(_overheard(net.head, "compute_loss", self._note_assignment))

    def _note_levels(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._levels = list(args[0])

    def _note_assignment(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._assignment = arguments

    def _assigned(self, most: int) -> _Assigned:
        if self._assignment is None or self._levels is None:
            raise self._differs("its head's compute_loss was not called")
        if self._branch and self._tape.calls(self._branch) not in (0, len(self._levels)):
            raise self._differs("its head ran more than once")
        regression = self._assignment["head_outputs"]["bbox_regression"].float()
        matched = list(self._assignment["matched_idxs"])
        rows = [(of_image >= 0).nonzero()[:, 0] for of_image in matched]
        boxes = [
            self._head.network_boxes({"bbox_regression": regression[i][chosen]}, self._assignment["anchors"][i][chosen].float())
            for i, chosen in enumerate(rows)
        ]
        objects = [of_image[chosen] for of_image, chosen in zip(matched, rows, strict=True)]
        starts = [i * regression.shape[1] for i in range(len(rows))]
        return _best_of_images(rows, starts, boxes, objects, self._assignment["targets"], most)

    def _maps(self, found: _Assigned, size: Size, differentiable: bool) -> Tensor:
        assert self._levels is not None
        assert self._assignment is not None
        logits = self._assignment["head_outputs"]["cls_logits"]
        cells = [level.shape[-2] * level.shape[-1] for level in self._levels]
        per_cell = logits.shape[1] // sum(cells)
        row, maps, order, start = found.row % logits.shape[1], [], [], 0
        for level, count in enumerate(cells):
            end = start + count * per_cell
            for chosen in ((row >= start) & (row < end)).nonzero()[:, 0].split(_CHUNK_ROWS):
                if len(chosen):
                    channel = (row[chosen] - start) % per_cell * logits.shape[2] + found.labels[chosen]
                    cell = (row[chosen] - start) // per_cell
                    drawn = self._draw(level, cell, channel, found.image[chosen], differentiable)
                    maps.append(resize_maps(drawn, size, rounded=True))
                    order.append(chosen)
            start = end
        if not maps:
            return _no_maps(self._levels[0], size)
        return torch.cat(maps)[torch.cat(order).argsort()]

    def _draw(self, level: int, cell: Tensor, channel: Tensor, image: Tensor, differentiable: bool) -> Tensor:
        """The maps (n,h,w) of one level, from windows around the cells.

        Args:
            level: Which level.
            cell: (n,) index of the cell within the level.
            channel: (n,) output channel of the classification that is explained.
            image: (n,) image of the batch.
            differentiable: Whether the gradient keeps its graph.
        """
        assert self._levels is not None
        assert self._branch is not None
        predictor = self._branch.predictors["cls_logits"]
        features = self._levels[level].to(predictor.weight.dtype)
        grid = (features.shape[-2], features.shape[-1])
        place = torch.stack([cell // grid[1], cell % grid[1]], 1)
        seed = features.new_zeros((len(cell), predictor.out_channels))
        seed[torch.arange(len(cell), device=cell.device), channel] = 1
        with recording(differentiable):
            gradient = pull_windows(
                self._branch, self._tape, level, {"cls_logits": seed}, place, grid, image=image, differentiable=differentiable
            )
        origin, window = place - self._branch.radius, (gradient.shape[-2], gradient.shape[-1])
        drawn = (take_windows_of_batch(features, image, origin, window) * gradient).sum(1).relu()
        return paste_windows(drawn.to(torch.promote_types(drawn.dtype, torch.float32)), origin, grid)

    def _embeddings(self, head: Any, found: _Assigned) -> Tensor:
        assert self._levels is not None
        embeddings: Tensor = head([in_precision(level, head) for level in self._levels])
        return embeddings.flatten(0, 1)[found.row]


class RegionPass(TrainingPass):
    """A pass of an R-CNN. The features are those pooled from a prediction's region."""

    two_stage = True

    def __init__(self, network: Any, needs: Collection[str] = MAPS) -> None:
        super().__init__(network)
        if "maps" in needs and not hasattr(network.roi_heads.box_roi_pool, "map_levels"):
            pool = type(network.roi_heads.box_roi_pool).__name__
            raise WhyboxError(f"maps during training need torchvision's MultiScaleRoIAlign as box_roi_pool, not {pool}")
        self._samples: tuple[Mapping[str, Any], Sequence[Any]] | None = None
        self._pooled: Tensor | None = None
        self._grids: list[Size] = []
        self._deltas: Tensor | None = None
        self._boxed: Tensor | None = None
        self._statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the network; the stack takes them away."""
        heads = self.network.roi_heads
        _hook(stack, self.network.backbone.register_forward_pre_hook(self._note_canvas))
        _hook(stack, heads.box_roi_pool.register_forward_hook(self._note_pooled))
        _hook(stack, heads.box_predictor.register_forward_hook(self._note_predictions))
        for layer in heads.box_head.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                _hook(stack, layer.register_forward_hook(self._note_statistics))
        stack.enter_context(_overheard(heads, "select_training_samples", self._note_samples))

    def _note_samples(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._samples = arguments, result

    def _note_pooled(self, pool: Any, args: tuple[Any, ...], pooled: Tensor) -> None:
        self._pooled = pooled
        features: Mapping[str, Tensor] = args[0]
        levels = [value for name, value in features.items() if name in pool.featmap_names]
        self._grids = [(value.shape[-2], value.shape[-1]) for value in levels]

    def _note_predictions(self, module: nn.Module, args: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
        self._boxed, self._deltas = args[0], outputs[1].detach()

    def _note_statistics(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if layer.training:
            across = [axis for axis in range(args[0].ndim) if axis != 1]
            value = args[0].detach().to(torch.promote_types(args[0].dtype, torch.float32))
            self._statistics[layer] = value.mean(across), value.var(across, unbiased=False)

    def _assigned(self, most: int) -> _Assigned:
        if self._samples is None or self._pooled is None or self._deltas is None:
            raise self._differs("its roi_heads did not select training samples, pool and classify them")
        arguments, (proposals, matched, labels, *_) = self._samples
        rows = [(of_image > 0).nonzero()[:, 0] for of_image in labels]
        objects = [of_image[chosen] for of_image, chosen in zip(matched, rows, strict=True)]
        starts = [0, *torch.tensor([len(of_image) for of_image in labels]).cumsum(0).tolist()][:-1]
        deltas = torch.split(self._deltas.float(), [len(of_image) for of_image in labels])
        boxes = [
            self._box_of(part[chosen], regions[chosen], of_image[chosen])
            for part, regions, chosen, of_image in zip(deltas, proposals, rows, labels, strict=True)
        ]
        return _best_of_images(rows, starts, boxes, objects, arguments["targets"], most)

    def _box_of(self, deltas: Tensor, proposals: Tensor, labels: Tensor) -> Tensor:
        """The boxes (n,4) of the assigned labels."""
        decoded: Tensor = self.network.roi_heads.box_coder.decode(deltas, [proposals.float()])
        boxes = decoded.reshape(len(deltas), deltas.shape[1] // 4, 4)
        # A box head may predict one box for all classes.
        column = labels if boxes.shape[1] > 1 else torch.zeros_like(labels)
        return boxes[torch.arange(len(boxes), device=boxes.device), column]

    def _maps(self, found: _Assigned, size: Size, differentiable: bool) -> Tensor:
        assert self._pooled is not None
        assert self._samples is not None
        heads = self.network.roi_heads
        weight = next(heads.box_head.parameters(), self._pooled)
        features = self._pooled.to(weight.dtype)[found.row]
        if not len(features):
            return _no_maps(self._pooled, size)
        leaf = root(features, differentiable)
        # Regions are independent, so one backward pass of the sum gives every region's gradient.
        value = self._logits(leaf).gather(1, found.labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=differentiable)
        drawn = (features * gradient).sum(1).relu()
        drawn = drawn.to(torch.promote_types(drawn.dtype, torch.float32))
        proposals = torch.cat(list(self._samples[1][0]))[found.row].to(drawn)
        pool = heads.box_roi_pool
        level_of = pool.map_levels([proposals]) if len(pool.scales) > 1 else torch.zeros_like(found.row)
        maps, order = [], []
        for level, (scale, grid) in enumerate(zip(pool.scales, self._grids, strict=True)):
            for chosen in (level_of == level).nonzero()[:, 0].split(_CHUNK_ROWS):
                if len(chosen):
                    placed = paste_boxes(drawn[chosen], proposals[chosen] * scale, grid)
                    maps.append(resize_maps(placed, size, rounded=True))
                    order.append(chosen)
        return torch.cat(maps)[torch.cat(order).argsort()]

    def _embeddings(self, head: Any, found: _Assigned) -> Tensor:
        assert self._boxed is not None
        embeddings: Tensor = head(in_precision(self._boxed[found.row], head))
        return embeddings

    def _logits(self, pooled: Tensor) -> Tensor:
        """The box head once more, on the positives alone and in evaluation mode: without dropout, and with the statistics that
        the pass's batch normalizations had, so that regions are independent."""
        heads = self.network.roi_heads
        kept = {
            f"{name}.{which}": value.to(pooled)
            for name, layer in heads.box_head.named_modules()
            if layer in self._statistics
            for which, value in zip(("running_mean", "running_var"), self._statistics[layer], strict=True)
        }
        with frozen(heads, weights=False):
            logits: Tensor = heads.box_predictor(functional_call(heads.box_head, kept, (pooled,)))[0]
        return logits


def watched(network: Any, needs: Collection[str] = MAPS) -> TrainingPass:
    """A pass of this detector, which has still to run.

    Args:
        network: torchvision's FCOS, RetinaNet, or an R-CNN.
        needs: What the pass will be asked for: "maps", "embeddings", or both.

    Raises:
        WhyboxError: It is another network, its head has layers of which there are no maps, or it has no embedding head.
    """
    kind = module_type(network)
    if kind not in (*_DENSE, *twostage._KINDS):
        raise WhyboxError(
            f"{' and '.join(sorted(needs, reverse=True))} during training are there for torchvision's FCOS, RetinaNet and "
            f"R-CNNs, not for {type(network).__name__}; for another network write a loss on "
            "whybox.trace(model, image, differentiable=True)"
        )
    if "embeddings" in needs and embedding_head(network) is None:
        raise WhyboxError(
            f"this {type(network).__name__} has no {NAME}: add one before the optimizer is made, "
            "whybox.ops.embedding_heads.add_embedding_head(network)"
        )
    return DensePass(network, needs) if kind in _DENSE else RegionPass(network, needs)


@contextmanager
def watching(network: Any, needs: Collection[str] = MAPS) -> Iterator[TrainingPass]:
    """Inside, one call of the network in training mode is watched; afterwards the network is as it was.

    Args:
        network: torchvision's FCOS, RetinaNet, or an R-CNN.
        needs: What the pass will be asked for: "maps", "embeddings", or both.

    Yields:
        The pass; its `positives` or `embedded` are there once the network was called.

    Raises:
        WhyboxError: See `watched`.
    """
    seen = watched(network, needs)
    with ExitStack() as stack:
        seen.watch(stack)
        yield seen


def _hook(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


@contextmanager
def _overheard(module: Any, name: str, note: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Inside, `note` is called with the arguments and the result of each call of a method of the module."""
    own = vars(module).get(name)
    method = getattr(module, name)
    # Of the class: the user's own in its place may take *args.
    parameters = inspect.signature(getattr(type(module), name))

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        note(parameters.bind(module, *args, **kwargs).arguments, result)
        return result

    setattr(module, name, call)
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)


def _classification_branch(head: Any, network: Any) -> Branch:
    """The head's branch that gives the logits."""
    branch: Branch | None = next((branch for branch in head.branches if "cls_logits" in branch.predictors), None)
    if branch is None or not supported(branch):
        raise WhyboxError(
            f"the head of this {type(network).__name__} is not made as torchvision's own, of plain convolutions, GroupNorm or "
            "BatchNorm, and ReLU without hooks: there are no maps of it during training; write a loss on "
            "whybox.trace(model, image, differentiable=True)"
        )
    return branch


def _best_of_images(
    rows: Sequence[Tensor],
    starts: Sequence[int],
    boxes: Sequence[Tensor],
    objects: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    most: int,
) -> _Assigned:
    """The positives of all images, those with the highest IoU where there are more than `most`.

    Args:
        rows: Per image (n,), the rows that were assigned an object.
        starts: Per image, its first row among those of all images.
        boxes: Per image (n,4), predicted.
        objects: Per image (n,), the index of the object in the image's target.
        targets: torchvision's targets, in pixels of the network's input.
        most: The largest number per image.
    """
    parts, first = [], 0
    for image, (row, box, index, target) in enumerate(zip(rows, boxes, objects, targets, strict=True)):
        iou = _iou_of_pairs(box, target["boxes"][index].to(box))
        kept = iou.topk(min(most, len(iou))).indices.sort().values
        number = torch.full_like(kept, image)
        labels = target["labels"][index[kept]]
        parts.append((row[kept] + starts[image], box[kept], iou[kept], index[kept] + first, number, labels))
        first += len(target["boxes"])
    return _Assigned(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _iou_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """IoU (n,) of boxes (n,4) with boxes (n,4); 0 where one has no area."""
    shared = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def _no_maps(features: Tensor, size: Size) -> Tensor:
    """(0,h,w), in the graph of the features: a loss of no maps can be differentiated like any other."""
    return features.flatten()[:0].float().reshape(0, *size)
