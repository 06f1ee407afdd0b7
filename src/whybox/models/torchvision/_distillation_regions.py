"""A student's and its teacher's pass of an R-CNN."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from whybox.models.torchvision._distillation_base import DistillationPass, Places
from whybox.models.torchvision._overhearing import overheard, remove_later


class RegionPass(DistillationPass):
    """A pass of an R-CNN. The places are the student's sampled proposals; the teacher looks at those that matter alone."""

    def __init__(self, teacher: Any, student: Any, predicting: bool) -> None:
        super().__init__(teacher, student, predicting)
        self._samples: tuple[Any, ...] | None = None
        self._outputs: tuple[Tensor, Tensor] | None = None
        self._sizes: Any = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the student; the stack takes them away."""
        super().watch(stack)
        heads = self.student.roi_heads
        remove_later(stack, heads.box_roi_pool.register_forward_pre_hook(self._note_sizes))
        remove_later(stack, heads.box_predictor.register_forward_hook(self._note_outputs))
        stack.enter_context(overheard(heads, "select_training_samples", self._note_samples))

    def _note_sizes(self, pool: nn.Module, args: tuple[Any, ...]) -> None:
        self._sizes = args[2]

    def _note_outputs(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        self._outputs = output

    def _note_samples(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._samples = result

    def _sampled(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], tuple[Tensor, Tensor]]:
        """Proposals, matched objects and labels of each image, and the student's logits and deltas of all."""
        if self._samples is None or self._outputs is None:
            raise self._differs("its roi_heads did not select training samples and classify them")
        proposals, matched, labels = self._samples[:3]
        return proposals, matched, labels, self._outputs

    def _places(self, least_score: float) -> Places:
        proposals, matched, labels, (logits, _) = self._sampled()
        first, owners = 0, []
        for of_image, label, boxes in zip(matched, labels, self.boxes, strict=True):
            owners.append(torch.where(label > 0, of_image + first, -1))
            first += len(boxes)
        owner = torch.cat(owners)
        image = torch.cat([torch.full_like(label, number) for number, label in enumerate(labels)])
        # Column 0 is the background.
        score, first_choice = logits.float().softmax(1)[:, 1:].max(1)
        row = ((owner >= 0) | (score > least_score)).nonzero()[:, 0]
        pool = self.student.roi_heads.box_roi_pool
        regions = torch.cat(list(proposals))[row]
        level = pool.map_levels([regions]) if len(pool.scales) > 1 else torch.zeros_like(row)
        return Places(row, image[row], owner[row], self._columns(owner[row], first_choice[row] + 1), level)

    def _of_student_at(self, places: Places) -> tuple[Tensor, Tensor]:
        logits, deltas = self._sampled()[3]
        return self._read(self.student, logits[places.row], deltas[places.row], places)

    def _of_teacher_at(self, places: Places) -> tuple[Tensor, Tensor]:
        heads = self.teacher.roi_heads
        proposals = self._regions(places)
        levels = dict(zip(heads.box_roi_pool.featmap_names, self.teacher_features(), strict=True))
        by_image = [proposals[places.image == number].to(self.teacher_features()[0]) for number in range(len(self.boxes))]
        pooled = heads.box_roi_pool(levels, by_image, self._sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return self._read(self.teacher, logits, deltas, places)

    def _regions(self, places: Places) -> Tensor:
        return torch.cat(list(self._sampled()[0]))[places.row]

    def _read(self, network: Any, logits: Tensor, deltas: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(logits), device=logits.device)
        with torch.no_grad():
            coder = network.roi_heads.box_coder
            decoded = coder.decode(deltas.float(), [self._regions(places).float()]).reshape(len(rows), deltas.shape[1] // 4, 4)
            # A box head may predict one box for all classes.
            boxes = decoded[rows, places.column if decoded.shape[1] > 1 else torch.zeros_like(rows)]
        return logits.float().softmax(1)[rows, places.column], boxes
