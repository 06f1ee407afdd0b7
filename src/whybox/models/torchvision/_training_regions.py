"""A training pass of an R-CNN."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from whybox.errors import WhyboxError
from whybox.frame import Size, paste_boxes, resize_maps
from whybox.models.torchvision._embeddings import in_precision
from whybox.models.torchvision._overhearing import overheard, remove_later
from whybox.models.torchvision._training_base import CHUNK_ROWS, Assigned, TrainingPass, best_of_images, no_maps
from whybox.ops.gradients import root
from whybox.ops.hooks import frozen


class RegionPass(TrainingPass):
    """A pass of an R-CNN. The features are those pooled from a prediction's region."""

    two_stage = True

    def __init__(self, network: Any, needs: Collection[str]) -> None:
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
        remove_later(stack, self.network.backbone.register_forward_pre_hook(self._note_canvas))
        remove_later(stack, heads.box_roi_pool.register_forward_hook(self._note_pooled))
        remove_later(stack, heads.box_predictor.register_forward_hook(self._note_predictions))
        for layer in heads.box_head.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                remove_later(stack, layer.register_forward_hook(self._note_statistics))
        stack.enter_context(overheard(heads, "select_training_samples", self._note_samples))

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

    def _assigned(self, most: int) -> Assigned:
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
        return best_of_images(rows, starts, boxes, objects, arguments["targets"], most)

    def _box_of(self, deltas: Tensor, proposals: Tensor, labels: Tensor) -> Tensor:
        """The boxes (n,4) of the assigned labels."""
        decoded: Tensor = self.network.roi_heads.box_coder.decode(deltas, [proposals.float()])
        boxes = decoded.reshape(len(deltas), deltas.shape[1] // 4, 4)
        # A box head may predict one box for all classes.
        column = labels if boxes.shape[1] > 1 else torch.zeros_like(labels)
        return boxes[torch.arange(len(boxes), device=boxes.device), column]

    def _maps(self, found: Assigned, size: Size, differentiable: bool) -> Tensor:
        assert self._pooled is not None
        assert self._samples is not None
        heads = self.network.roi_heads
        weight = next(heads.box_head.parameters(), self._pooled)
        features = self._pooled.to(weight.dtype)[found.row]
        if not len(features):
            return no_maps(self._pooled, size)
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
            for chosen in (level_of == level).nonzero()[:, 0].split(CHUNK_ROWS):
                if len(chosen):
                    placed = paste_boxes(drawn[chosen], proposals[chosen] * scale, grid)
                    maps.append(resize_maps(placed, size, rounded=True))
                    order.append(chosen)
        return torch.cat(maps)[torch.cat(order).argsort()]

    def _embeddings(self, head: Any, found: Assigned) -> Tensor:
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
