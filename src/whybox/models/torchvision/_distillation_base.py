"""What a student and its teacher show in one training step of the student: the part that all detectors share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.models.torchvision._distilled_pair import by_name, levels_of
from whybox.models.torchvision._overhearing import remove_later
from whybox.ops.gradients import gradients_on, recording
from whybox.ops.hooks import frozen
from whybox.ops.matching import iou_of_pairs, pairwise_iou


@dataclass(frozen=True)
class Predictions:
    """Predictions of both networks at the same n places: those that were assigned an object, and where the student is sure.

    Attributes:
        teacher: (n,) the teacher's confidence in the place's class: the object's, or else the student's first; its graph reaches
            the teacher's features.
        student: (n,) the student's confidence in the same class, in the graph of its pass.
        teacher_iou: (n,) IoU of the teacher's box with the object that the place was assigned; 0 without one.
        student_iou: (n,) IoU of the student's box with the object that it is judged by.
        owner: (n,) the object that the place was assigned, counted through the batch; -1: none.
        judge: (n,) the object that the student's box is judged by; -1: none.
        level: (n,) the level of the pyramid.
        image: (n,) the image of the batch.
    """

    teacher: Tensor
    student: Tensor
    teacher_iou: Tensor
    student_iou: Tensor
    owner: Tensor
    judge: Tensor
    level: Tensor
    image: Tensor


@dataclass(frozen=True)
class Places:
    """Places (n,) before the teacher has looked at them.

    Attributes:
        row: The row within the image's rows.
        image: The image of the batch.
        owner: The object that was assigned, counted through the batch; -1: none.
        column: The column of the class among the logits.
        level: The level of the pyramid.
    """

    row: Tensor
    image: Tensor
    owner: Tensor
    column: Tensor
    level: Tensor


class DistillationPass(ABC):
    """One training pass of a student, kept, and its teacher's pass of the same input."""

    def __init__(self, teacher: Any, student: Any, predicting: bool) -> None:
        self.teacher, self.student, self.predicting = teacher, student, predicting
        self._input: Tensor | None = None
        self._images: tuple[Any, Sequence[Mapping[str, Tensor]]] | None = None
        self._features: Mapping[str, Tensor] | None = None
        self._of_teacher: list[Tensor] | None = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the student; the stack takes them away."""
        remove_later(stack, self.student.transform.register_forward_hook(self._note_images))
        remove_later(stack, self.student.backbone.register_forward_hook(self._note_features))

    def _note_images(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        self._images = output

    def _note_features(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._input, self._features = args[0], by_name(output)

    @property
    def size(self) -> Size:
        """Height and width of the networks' input, over which the grids of all levels lie."""
        assert self._seen() is not None
        return self._input.shape[-2], self._input.shape[-1]  # type: ignore[union-attr]

    @property
    def boxes(self) -> list[Tensor]:
        """Of each image (n,4): the objects, xyxy in pixels of the networks' input."""
        return [target["boxes"] for target in self._targets()]

    def student_features(self) -> list[Tensor]:
        """The student's levels, each (B,C,h,w), in the graph of its pass.

        Raises:
            WhyboxError: The student did not run.
        """
        return levels_of(self.student, self._seen())

    def teacher_features(self) -> list[Tensor]:
        """The teacher's levels for the same input, each (B,C,h,w): leaves, that require gradients where predictions are wanted.

        Raises:
            WhyboxError: The student did not run, or the grids differ.
        """
        if self._of_teacher is None:
            ours = self.student_features()
            assert self._input is not None
            weight = next(self.teacher.parameters(), self._input)
            with frozen(self.teacher), recording(False):
                levels = levels_of(self.teacher, by_name(self.teacher.backbone(self._input.to(weight))))
            grids = [[tuple(level.shape[-2:]) for level in one] for one in (ours, levels)]
            if grids[0] != grids[1]:
                raise WhyboxError(
                    f"the student's features have the grids {_words(grids[0])}, the teacher's {_words(grids[1])}: "
                    "both need the same strides"
                )
            self._of_teacher = [level.detach().requires_grad_(self.predicting) for level in levels]
        return self._of_teacher

    def predictions(self, *, least_score: float, judged_by: Literal["best", "assigned"]) -> Predictions:
        """The predictions of both networks where an object was assigned, and where the student is sure of one.

        Args:
            least_score: The student is sure over this confidence.
            judged_by: The object that a box of the student is judged by: the one in its image that it overlaps "best", or the one
                that its place was "assigned".

        Raises:
            WhyboxError: The student did not run, or not as torchvision's own detectors do.
        """
        self._seen()
        objects = torch.cat(self.boxes)
        with gradients_on():
            with torch.no_grad():
                places = self._places(least_score)
            student, boxes = self._of_student_at(places)
            with frozen(self.teacher):
                teacher, teacher_boxes = self._of_teacher_at(places)
        with torch.no_grad():
            of_teacher = _assigned_iou(teacher_boxes, objects, places.owner)
            judge, of_student = places.owner, _assigned_iou(boxes, objects, places.owner)
            if judged_by == "best":
                judge, of_student = self._best(boxes, places.image)
        return Predictions(teacher, student, of_teacher, of_student, places.owner, judge, places.level, places.image)

    @abstractmethod
    def _places(self, least_score: float) -> Places:
        """Where an object was assigned, or the student's confidence in a class is over `least_score`."""

    @abstractmethod
    def _of_student_at(self, places: Places) -> tuple[Tensor, Tensor]:
        """Confidences (n,) and boxes (n,4) in pixels of the networks' input."""

    @abstractmethod
    def _of_teacher_at(self, places: Places) -> tuple[Tensor, Tensor]:
        """Confidences (n,) and boxes (n,4) in pixels of the networks' input."""

    def _best(self, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The object (n,) of its image that a box overlaps most, -1 for none; and the IoU (n,)."""
        judge, iou, first = torch.full_like(image, -1), boxes.new_zeros(len(boxes)), 0
        for number, objects in enumerate(self.boxes):
            mine = (image == number).nonzero()[:, 0]
            if len(objects) and len(mine):
                best = pairwise_iou(boxes[mine], objects.to(boxes)).max(1)
                iou[mine] = best.values
                judge[mine] = torch.where(best.values > 0, best.indices + first, -1)
            first += len(objects)
        return judge, iou

    def _targets(self) -> Sequence[Mapping[str, Tensor]]:
        self._seen()
        assert self._images is not None
        return self._images[1]

    def _owners(self, matched: Sequence[Tensor], is_object: Sequence[Tensor]) -> Tensor:
        """(B,M) the object of each row, counted through the batch; -1: none."""
        owners, first = [], 0
        for of_image, there, boxes in zip(matched, is_object, self.boxes, strict=True):
            owners.append(torch.where(there, of_image + first, -1))
            first += len(boxes)
        return torch.stack(owners)

    def _columns(self, owner: Tensor, first_choice: Tensor) -> Tensor:
        """(n,) the object's label, or else the student's first choice."""
        labels = torch.cat([target["labels"] for target in self._targets()])
        if not len(labels):
            return first_choice
        return torch.where(owner >= 0, labels[owner.clamp(min=0)], first_choice)

    def _seen(self) -> Mapping[str, Tensor]:
        if self._features is None or self._images is None or self._images[1] is None:
            raise self._differs("its transform and its backbone were not called with targets")
        return self._features

    def _differs(self, how: str) -> WhyboxError:
        return WhyboxError(
            f"this student {type(self.student).__name__} was not seen training as torchvision's own does: {how}; call it once, "
            "uncompiled and in training mode, with images and targets"
        )


def _assigned_iou(boxes: Tensor, objects: Tensor, owner: Tensor) -> Tensor:
    """IoU (n,) of boxes (n,4) with their objects among (m,4); 0 without one."""
    if not len(objects):
        return boxes.new_zeros(len(boxes))
    return torch.where(owner >= 0, iou_of_pairs(boxes, objects[owner.clamp(min=0)].to(boxes)), 0)


def _words(grids: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, grid)) for grid in grids)
