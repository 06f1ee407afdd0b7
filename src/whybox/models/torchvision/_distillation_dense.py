"""A student's and its teacher's pass of FCOS or RetinaNet."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._distillation_base import DistillationPass, Places
from whybox.models.torchvision._onestage_heads import HEADS
from whybox.models.torchvision._overhearing import overheard


class DensePass(DistillationPass):
    """A pass of FCOS or RetinaNet."""

    def __init__(self, teacher: Any, student: Any, predicting: bool) -> None:
        super().__init__(teacher, student, predicting)
        self._assignment: Mapping[str, Any] | None = None
        self._raw: Mapping[str, Tensor] | None = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the student; the stack takes them away."""
        super().watch(stack)
        stack.enter_context(overheard(self.student.head, "compute_loss", self._note_assignment))

    def _note_assignment(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._assignment = arguments

    def _assigned(self) -> Mapping[str, Any]:
        if self._assignment is None:
            raise self._differs("its head's compute_loss was not called")
        return self._assignment

    def _places(self, least_score: float) -> Places:
        seen = self._assigned()
        logits = seen["head_outputs"]["cls_logits"]
        owner = self._owners(seen["matched_idxs"], [of_image >= 0 for of_image in seen["matched_idxs"]])
        score, first_choice = logits.float().max(2)
        image, row = ((owner >= 0) | (score.sigmoid() > least_score)).nonzero(as_tuple=True)
        cells = [level.shape[-2] * level.shape[-1] for level in self.student_features()]
        per_cell = logits.shape[1] // sum(cells)
        ends = torch.tensor(cells, device=row.device).cumsum(0) * per_cell
        column = self._columns(owner[image, row], first_choice[image, row])
        return Places(row, image, owner[image, row], column, torch.searchsorted(ends, row, right=True))

    def _of_student_at(self, places: Places) -> tuple[Tensor, Tensor]:
        return self._at(self.student, self._assigned()["head_outputs"], places)

    def _of_teacher_at(self, places: Places) -> tuple[Tensor, Tensor]:
        return self._at(self.teacher, self.teacher.head(self.teacher_features()), places)

    def _at(self, network: Any, raw: Mapping[str, Tensor], places: Places) -> tuple[Tensor, Tensor]:
        at = places.image, places.row
        with torch.no_grad():
            anchors = torch.stack(list(self._assigned()["anchors"]))[at].float()
            deltas = {"bbox_regression": raw["bbox_regression"][at].float()}
            decoded = HEADS[module_type(network)](network).network_boxes(deltas, anchors)
        return raw["cls_logits"][(*at, places.column)].float().sigmoid(), decoded
