"""What a student and its teacher, both torchvision detectors, show in one training step of the student: the features of their
pyramids, and their predictions at the same places."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.models.torchvision import twostage
from whybox.models.torchvision._common import module_type
from whybox.models.torchvision._onestage_heads import HEADS
from whybox.models.torchvision.training_pass import _hook, _iou_of_pairs, _overheard
from whybox.ops.gradients import gradients_on, recording
from whybox.ops.hooks import frozen

_DENSE: Mapping[str, str] = {"fcos.FCOS": "fcos", "retinanet.RetinaNet": "retinanet"}
"""One-stage detectors, and what their constants are called in `whybox.losses.fgd.CONSTANTS`."""


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
class _Places:
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
        _hook(stack, self.student.transform.register_forward_hook(self._note_images))
        _hook(stack, self.student.backbone.register_forward_hook(self._note_features))

    def _note_images(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        self._images = output

    def _note_features(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._input, self._features = args[0], _by_name(output)

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
        return _levels_of(self.student, self._seen())

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
                levels = _levels_of(self.teacher, _by_name(self.teacher.backbone(self._input.to(weight))))
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
    def _places(self, least_score: float) -> _Places:
        """Where an object was assigned, or the student's confidence in a class is over `least_score`."""

    @abstractmethod
    def _of_student_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        """Confidences (n,) and boxes (n,4) in pixels of the networks' input."""

    @abstractmethod
    def _of_teacher_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        """Confidences (n,) and boxes (n,4) in pixels of the networks' input."""

    def _best(self, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The object (n,) of its image that a box overlaps most, -1 for none; and the IoU (n,)."""
        judge, iou, first = torch.full_like(image, -1), boxes.new_zeros(len(boxes)), 0
        for number, objects in enumerate(self.boxes):
            mine = (image == number).nonzero()[:, 0]
            if len(objects) and len(mine):
                best = box_iou(boxes[mine], objects.to(boxes)).max(1)
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


class DensePass(DistillationPass):
    """A pass of FCOS or RetinaNet."""

    def __init__(self, teacher: Any, student: Any, predicting: bool) -> None:
        super().__init__(teacher, student, predicting)
        self._assignment: Mapping[str, Any] | None = None
        self._raw: Mapping[str, Tensor] | None = None

    def watch(self, stack: ExitStack) -> None:
        """Put hooks on the student; the stack takes them away."""
        super().watch(stack)
        stack.enter_context(_overheard(self.student.head, "compute_loss", self._note_assignment))

    def _note_assignment(self, arguments: Mapping[str, Any], result: Any) -> None:
        self._assignment = arguments

    def _assigned(self) -> Mapping[str, Any]:
        if self._assignment is None:
            raise self._differs("its head's compute_loss was not called")
        return self._assignment

    def _places(self, least_score: float) -> _Places:
        seen = self._assigned()
        logits = seen["head_outputs"]["cls_logits"]
        owner = self._owners(seen["matched_idxs"], [of_image >= 0 for of_image in seen["matched_idxs"]])
        score, first_choice = logits.float().max(2)
        image, row = ((owner >= 0) | (score.sigmoid() > least_score)).nonzero(as_tuple=True)
        cells = [level.shape[-2] * level.shape[-1] for level in self.student_features()]
        per_cell = logits.shape[1] // sum(cells)
        ends = torch.tensor(cells, device=row.device).cumsum(0) * per_cell
        column = self._columns(owner[image, row], first_choice[image, row])
        return _Places(row, image, owner[image, row], column, torch.searchsorted(ends, row, right=True))

    def _of_student_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        return self._at(self.student, self._assigned()["head_outputs"], places)

    def _of_teacher_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        return self._at(self.teacher, self.teacher.head(self.teacher_features()), places)

    def _at(self, network: Any, raw: Mapping[str, Tensor], places: _Places) -> tuple[Tensor, Tensor]:
        at = places.image, places.row
        with torch.no_grad():
            anchors = torch.stack(list(self._assigned()["anchors"]))[at].float()
            deltas = {"bbox_regression": raw["bbox_regression"][at].float()}
            decoded = HEADS[module_type(network)](network).network_boxes(deltas, anchors)
        return raw["cls_logits"][(*at, places.column)].float().sigmoid(), decoded


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
        _hook(stack, heads.box_roi_pool.register_forward_pre_hook(self._note_sizes))
        _hook(stack, heads.box_predictor.register_forward_hook(self._note_outputs))
        stack.enter_context(_overheard(heads, "select_training_samples", self._note_samples))

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

    def _places(self, least_score: float) -> _Places:
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
        return _Places(row, image[row], owner[row], self._columns(owner[row], first_choice[row] + 1), level)

    def _of_student_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        logits, deltas = self._sampled()[3]
        return self._read(self.student, logits[places.row], deltas[places.row], places)

    def _of_teacher_at(self, places: _Places) -> tuple[Tensor, Tensor]:
        heads = self.teacher.roi_heads
        proposals = self._regions(places)
        levels = dict(zip(heads.box_roi_pool.featmap_names, self.teacher_features(), strict=True))
        by_image = [proposals[places.image == number].to(self.teacher_features()[0]) for number in range(len(self.boxes))]
        pooled = heads.box_roi_pool(levels, by_image, self._sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return self._read(self.teacher, logits, deltas, places)

    def _regions(self, places: _Places) -> Tensor:
        return torch.cat(list(self._sampled()[0]))[places.row]

    def _read(self, network: Any, logits: Tensor, deltas: Tensor, places: _Places) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(logits), device=logits.device)
        with torch.no_grad():
            coder = network.roi_heads.box_coder
            decoded = coder.decode(deltas.float(), [self._regions(places).float()]).reshape(len(rows), deltas.shape[1] // 4, 4)
            # A box head may predict one box for all classes.
            boxes = decoded[rows, places.column if decoded.shape[1] > 1 else torch.zeros_like(rows)]
        return logits.float().softmax(1)[rows, places.column], boxes


def watched(teacher: Any, student: Any, *, predicting: bool) -> DistillationPass:
    """A pass of a student with its teacher, which have still to run.

    Args:
        teacher: torchvision's FCOS, RetinaNet, or an R-CNN.
        student: One of these; of the same kind where predictions are wanted.
        predicting: Whether the predictions of both are wanted, not their features alone.

    Raises:
        WhyboxError: One of them is another network, or they do not fit one another.
    """
    check_pair(teacher, student, predicting=predicting)
    return (DensePass if module_type(student) in _DENSE else RegionPass)(teacher, student, predicting)


@contextmanager
def watching(teacher: Any, student: Any, *, predicting: bool) -> Iterator[DistillationPass]:
    """Inside, one call of the student in training mode is watched; afterwards it is as it was.

    Args:
        teacher: See `watched`.
        student: See `watched`.
        predicting: See `watched`.

    Yields:
        The pass; its features and predictions are there once the student was called.

    Raises:
        WhyboxError: See `watched`.
    """
    seen = watched(teacher, student, predicting=predicting)
    with ExitStack() as stack:
        seen.watch(stack)
        yield seen


def detector_kind(network: Any) -> str:
    """What the constants of this detector are called in `whybox.losses.fgd.CONSTANTS`.

    Raises:
        WhyboxError: It is none of torchvision's FCOS, RetinaNet and R-CNNs.
    """
    kind = module_type(network)
    if kind not in (*_DENSE, *twostage._KINDS):
        raise WhyboxError(f"distillation is there for torchvision's FCOS, RetinaNet and R-CNNs, not for {type(network).__name__}")
    return _DENSE.get(kind, "faster_rcnn")


def level_count(network: Any) -> int:
    """How many levels of the pyramid are compared: those that predictions are computed from."""
    if detector_kind(network) == "faster_rcnn":
        return len(network.roi_heads.box_roi_pool.featmap_names)
    return len(network.anchor_generator.sizes)


def channels_of(network: Any) -> int:
    """Channels of a detector's levels; torchvision's detectors ask it of every backbone."""
    return int(network.backbone.out_channels)


def check_pair(teacher: Any, student: Any, *, predicting: bool) -> None:
    """Refuse a teacher and a student that do not fit one another, as far as can be said before they run.

    Args:
        teacher: See `watched`.
        student: See `watched`.
        predicting: See `watched`.

    Raises:
        WhyboxError: What differs, in one line.
    """
    kinds = [detector_kind(network) for network in (teacher, student)]
    inputs = [tuple(map(tuple, (net.transform.image_mean, net.transform.image_std))) for net in (teacher, student)]
    if inputs[0] != inputs[1]:
        raise WhyboxError("teacher and student normalize images with different means or deviations: give both the same transform")
    counts = [level_count(network) for network in (teacher, student)]
    if counts[0] != counts[1]:
        raise WhyboxError(f"the teacher has {counts[0]} levels of features, the student {counts[1]}: both need the same strides")
    if not predicting:
        return
    if kinds[0] != kinds[1]:
        raise WhyboxError(
            f"the teacher is a {kinds[0]}, the student a {kinds[1]}: their predictions are not at the same places; "
            "use a loss on features alone (fgd, pkd, mgd, feature_imitation)"
        )
    classes = [_column_count(network) for network in (teacher, student)]
    if classes[0] != classes[1]:
        raise WhyboxError(
            f"the teacher has {classes[0]} columns of classes, the student {classes[1]}: both need the same classes"
        )
    if kinds[0] == "faster_rcnn":
        # Else a region's gradient would lie on another level than the student's.
        places = [network.roi_heads.box_roi_pool.featmap_names for network in (teacher, student)]
    else:
        places = [(network.anchor_generator.sizes, network.anchor_generator.aspect_ratios) for network in (teacher, student)]
    if places[0] != places[1]:
        raise WhyboxError(f"teacher and student have different places of predictions: {places[0]} and {places[1]}")


def _column_count(network: Any) -> int | None:
    """Columns of the classification; None where the network does not say."""
    if detector_kind(network) == "faster_rcnn":
        return getattr(getattr(network.roi_heads.box_predictor, "cls_score", None), "out_features", None)
    return getattr(network.head.classification_head, "num_classes", None)


def _by_name(output: Any) -> Mapping[str, Tensor]:
    """A backbone's levels by name; a backbone may give a tensor alone."""
    return {"0": output} if isinstance(output, Tensor) else output


def _levels_of(network: Any, features: Mapping[str, Tensor]) -> list[Tensor]:
    """The levels that are compared."""
    if detector_kind(network) == "faster_rcnn":
        return [features[name] for name in network.roi_heads.box_roi_pool.featmap_names]
    return list(features.values())


def _assigned_iou(boxes: Tensor, objects: Tensor, owner: Tensor) -> Tensor:
    """IoU (n,) of boxes (n,4) with their objects among (m,4); 0 without one."""
    if not len(objects):
        return boxes.new_zeros(len(boxes))
    return torch.where(owner >= 0, _iou_of_pairs(boxes, objects[owner.clamp(min=0)].to(boxes)), 0)


def _words(grids: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, grid)) for grid in grids)
