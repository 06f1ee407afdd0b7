"""A training pass of FCOS or RetinaNet."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.frame import Size, paste_windows, resize_maps, take_windows_of_batch
from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._conv_heads import Branch, Tape, pull_windows, supported
from whybox.models.torchvision._embeddings import in_precision
from whybox.models.torchvision._onestage_heads import HEADS
from whybox.models.torchvision._overhearing import overheard, remove_later
from whybox.models.torchvision._training_base import CHUNK_ROWS, Assigned, TrainingPass, best_of_images, no_maps
from whybox.ops.gradients import recording


class DensePass(TrainingPass):
    """A pass of FCOS or RetinaNet."""

    two_stage = False

    def __init__(self, network: Any, needs: Collection[str]) -> None:
        super().__init__(network)
        self._head = HEADS[module_type(network)](network)
        self._branch = _classification_branch(self._head, network) if "maps" in needs else None
        self._tape = Tape()
        self._levels: list[Tensor] | None = None
        self._assignment: Mapping[str, Any] | None = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the network; the stack takes them away."""
        net = self.network
        remove_later(stack, net.backbone.register_forward_pre_hook(self._note_canvas))
        remove_later(stack, net.head.register_forward_pre_hook(self._note_levels))
        stack.enter_context(self._tape.recording([self._branch] if self._branch else []))
        stack.enter_context(overheard(net.head, "compute_loss", self._note_assignment))

    def _note_levels(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._levels = list(args[0])

    def _note_assignment(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._assignment = arguments

    def _assigned(self, most: int) -> Assigned:
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
        return best_of_images(rows, starts, boxes, objects, self._assignment["targets"], most)

    def _maps(self, found: Assigned, size: Size, differentiable: bool) -> Tensor:
        assert self._levels is not None
        assert self._assignment is not None
        logits = self._assignment["head_outputs"]["cls_logits"]
        cells = [level.shape[-2] * level.shape[-1] for level in self._levels]
        per_cell = logits.shape[1] // sum(cells)
        row, maps, order, start = found.row % logits.shape[1], [], [], 0
        for level, count in enumerate(cells):
            end = start + count * per_cell
            for chosen in ((row >= start) & (row < end)).nonzero()[:, 0].split(CHUNK_ROWS):
                if len(chosen):
                    channel = (row[chosen] - start) % per_cell * logits.shape[2] + found.labels[chosen]
                    cell = (row[chosen] - start) // per_cell
                    drawn = self._draw(level, cell, channel, found.image[chosen], differentiable)
                    maps.append(resize_maps(drawn, size, rounded=True))
                    order.append(chosen)
            start = end
        if not maps:
            return no_maps(self._levels[0], size)
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

    def _embeddings(self, head: Any, found: Assigned) -> Tensor:
        assert self._levels is not None
        embeddings: Tensor = head([in_precision(level, head) for level in self._levels])
        return embeddings.flatten(0, 1)[found.row]


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
