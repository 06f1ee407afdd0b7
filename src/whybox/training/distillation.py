"""Train a student detector with a teacher, in a loop of your own or by `whybox distill`.

distiller = Distiller(teacher, student, OdamKd())  # its parameters are trained, too
with distiller.watching() as seen:
    losses = student(images, targets)
losses |= seen.losses()
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from whybox import registry
from whybox.errors import WhyboxError
from whybox.losses.feature_imitation import FeatureImitation, feature_imitation_loss
from whybox.losses.fgd import Fgd, FgdConstants, GcBlock, fgd_loss
from whybox.losses.mgd import GenerationBlock, Mgd, mgd_loss, random_masks
from whybox.losses.odam_kd import OdamKd, key_predictions, odam_kd_loss, top_down_attention, top_down_map
from whybox.losses.pkd import Pkd, pkd_loss
from whybox.models.torchvision import distillation_pass
from whybox.models.torchvision.distillation_pass import (
    DistillationPass,
    Predictions,
    channels_of,
    check_pair,
    detector_kind,
    level_count,
)
from whybox.network_state import device_of
from whybox.options import options_of, read_options
from whybox.specs import format_spec, split_spec
from whybox.unwrapping import unwrapped


class TeacherLoss(Protocol):
    """The options of a loss that compares a student with its teacher, a frozen dataclass in `losses/`.

    Attributes:
        name: Its name in the registry.
        needs: What it asks of both passes: "features", and "predictions" or not.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]


def make_loss(text: str) -> TeacherLoss:
    """A loss by its name, with settings or without: "odam_kd:form=gradcam:weight=2".

    Raises:
        WhyboxError: An unknown name or option, a value of the wrong type, or a loss of `whybox train`.
    """
    written, texts = split_spec(text)
    name, kind = registry.loss_named(written, needs_teacher=True)
    made: TeacherLoss = kind(**read_options(f"loss {name!r}", options_of(kind), texts))
    return made


def spec_of(loss: TeacherLoss) -> str:
    """The inverse of `make_loss`: the name and the options that differ from the defaults."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(loss)}
    return format_spec(loss.name, {name: value for name, value in asdict(loss).items() if value != defaults[name]})


class Distiller(nn.Module):
    """What a distillation trains beside the student: 1x1 convolutions where numbers of channels differ, and the loss's blocks.

    Its parameters and its state dict are these alone; teacher and student stand beside it.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, loss: TeacherLoss) -> None:
        """Make the blocks, with random weights, on the student's device.

        Args:
            teacher: torchvision's FCOS, RetinaNet or an R-CNN. In a step it is in evaluation mode and its weights get no
                gradient; afterwards it is as it was.
            student: One of these, of any backbone; alone or inside DistributedDataParallel and the like.
            loss: The loss's options.

        Raises:
            WhyboxError: Teacher and student do not fit one another or the loss, or the loss needs no teacher.
        """
        super().__init__()
        if loss.name not in _LOSSES:
            raise WhyboxError(f"loss {loss.name!r} needs no teacher: see whybox.training.pass_losses")
        # In a tuple, because nn.Module registers attributes that are modules: the optimizer would train both by these parameters.
        self._pair: tuple[Any, Any] = (unwrapped(teacher), unwrapped(student))
        self.loss = loss
        check_pair(*self._pair, predicting="predictions" in loss.needs)
        self.kind = detector_kind(self._pair[1])
        theirs, ours = (channels_of(network) for network in self._pair)
        levels = range(level_count(self._pair[1]))
        self.adapters = nn.ModuleList(nn.Conv2d(ours, theirs, 1) if ours != theirs else nn.Identity() for _ in levels)
        self.blocks = nn.ModuleDict(
            {part: nn.ModuleList(_BLOCKS[part](theirs) for _ in levels) for part in _parts(loss, self.kind)}
        )
        self.to(device_of(self._pair[1]))

    @property
    def teacher(self) -> nn.Module:
        """The teacher, without wrappers."""
        teacher: nn.Module = self._pair[0]
        return teacher

    @property
    def student(self) -> nn.Module:
        """The student, without wrappers."""
        student: nn.Module = self._pair[1]
        return student

    @property
    def terms(self) -> dict[str, str]:
        """The loss and the teacher's weights in words, which must be the same when a training is resumed."""
        digest = hashlib.sha256()
        for name, value in self.teacher.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"distillation": spec_of(self.loss), "teacher": digest.hexdigest()[:16]}

    @contextmanager
    def watching(self) -> "Iterator[SeenStudent]":
        """Inside, the student's call in training mode is watched; afterwards the student is as it was, also after an error.

        Yields:
            The pass, with its `losses`.

        Raises:
            WhyboxError: Teacher and student do not fit one another.
        """
        if device_of(self.teacher) != device_of(self.student):
            self.teacher.to(device_of(self.student))
        with distillation_pass.watching(*self._pair, predicting="predictions" in self.loss.needs) as seen:
            yield SeenStudent(self, seen)

    def adapted(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The student's levels with the teacher's number of channels."""
        return [_run(adapter, level) for adapter, level in zip(self.adapters, features, strict=True)]

    def blocks_of(self, part: str) -> list[Callable[[Tensor], Tensor]]:
        """The blocks of each level by the name of their part, as functions."""
        return [partial(_run, block) for block in self.blocks[part].children()]


@dataclass(frozen=True)
class SeenStudent:
    """A student's training pass, and what compares it with the teacher.

    Attributes:
        distiller: The distiller.
        seen: The pass.
    """

    distiller: Distiller
    seen: DistillationPass

    def losses(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The loss by its name, to be added to the student's own, once the student was called. The teacher runs here.

        Args:
            generator: Makes the loss's random choices, on the CPU; None: torch's own.

        Returns:
            A scalar by the loss's name.

        Raises:
            WhyboxError: The student was not called, does not train as torchvision's own, or its grids are not the teacher's.
        """
        loss = self.distiller.loss
        return {loss.name: _LOSSES[loss.name](self.distiller, self.seen, generator)}


def inherit(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Copy the teacher's neck and head into the student, wherever names and shapes fit: all but the backbone's body.

    Args:
        student: A torchvision detector.
        teacher: Another one.

    Returns:
        The names of what was copied.

    Source: Kang et al.: Instance-Conditional Knowledge Distillation for Object Detection, NeurIPS 2021, as FGD uses it.
    """
    own, theirs = unwrapped(student).state_dict(), unwrapped(teacher).state_dict()
    fitting = [
        name
        for name, value in theirs.items()
        if (not name.startswith("backbone.") or name.startswith("backbone.fpn."))
        and name in own
        and own[name].shape == value.shape
    ]
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(theirs[name])
    return fitting


def _parts(loss: TeacherLoss, kind: str) -> tuple[str, ...]:
    """The parts of a loss that have blocks on every level."""
    if isinstance(loss, Mgd):
        return ("generation",)
    return ("student", "teacher") if isinstance(loss, Fgd | OdamKd) and loss.constants(kind).relation else ()


_BLOCKS: dict[str, Callable[[int], nn.Module]] = {"generation": GenerationBlock, "student": GcBlock, "teacher": GcBlock}


def _run(module: nn.Module, values: Tensor) -> Tensor:
    """A module on values of any precision."""
    weight = next(module.parameters(), None)
    result: Tensor = module(values if weight is None else values.to(weight.dtype))
    return result


def _context(distiller: Distiller) -> tuple[list[Callable[[Tensor], Tensor]], list[Callable[[Tensor], Tensor]]] | None:
    """The blocks of the global relation, where there is one."""
    return (distiller.blocks_of("student"), distiller.blocks_of("teacher")) if "student" in distiller.blocks else None


def _fgd(distiller: Distiller, seen: DistillationPass, generator: torch.Generator | None) -> Tensor:
    options, student = distiller.loss, distiller.adapted(seen.student_features())
    assert isinstance(options, Fgd)
    constants = options.constants(distiller.kind)._asdict()
    terms = fgd_loss(student, seen.teacher_features(), seen.boxes, seen.size, _context(distiller), **constants)
    return options.weight * torch.stack(terms).sum()


def _odam_kd(distiller: Distiller, seen: DistillationPass, generator: torch.Generator | None) -> Tensor:
    options = distiller.loss
    assert isinstance(options, OdamKd)
    constants: FgdConstants = options.constants(distiller.kind)
    attention = attend(seen, options)
    terms = odam_kd_loss(
        distiller.adapted(seen.student_features()),
        seen.teacher_features(),
        attention.top_down,
        attention.focused,
        seen.size,
        _context(distiller),
        **constants._asdict(),
        background_attention=options.background_attention,
        channels=options.channels,
        distance=options.distance,
        used=attention.used if options.empty == "skip" else None,
    )
    return options.weight * torch.stack(terms).sum()


@dataclass(frozen=True)
class Attended:
    """Where the explanations of a pass's key predictions point.

    Attributes:
        top_down: Of each level (B,h,w), with the mean 1; 1 everywhere without a key prediction.
        focused: Of each level, of each image (n,4): the boxes of the objects with key predictions there, in pixels of the input.
        used: Of each level (B,), whether there is a key prediction.
    """

    top_down: list[Tensor]
    focused: list[list[Tensor]]
    used: list[Tensor]


def attend(seen: DistillationPass, options: OdamKd) -> Attended:
    """Choose the key predictions of a pass that ran, and draw their maps: one backward pass through the head of each network.

    Args:
        seen: The pass.
        options: The loss's options.

    Raises:
        WhyboxError: The student was not called, or does not train as torchvision's own.
    """
    found = seen.predictions(least_score=options.least_score, judged_by=options.judged_by)
    score = found.student.detach()
    key = key_predictions(
        found.teacher_iou,
        found.student_iou,
        score,
        found.owner,
        found.level,
        most=options.most,
        least_iou=options.least_iou,
        least_score=options.least_score,
    )
    weight = key * (found.teacher.detach() - score).abs()
    maps = [_maps(seen.teacher_features(), weight * found.teacher, options, keep=False)]
    if options.refresh:
        maps.append(_maps(seen.student_features(), weight * found.student, options, keep=True))
    top_down = [
        top_down_attention(of_level, temperature=options.sharpness, scale=options.scale) for of_level in zip(*maps, strict=True)
    ]
    levels = range(len(top_down))
    images = torch.arange(len(seen.boxes), device=key.device)
    used = [(images[:, None] == found.image[key & (found.level == level)]).any(1) for level in levels]
    focused = [_focused(seen.boxes, found, key & (found.level == level)) for level in levels]
    if options.empty == "objects":
        focused = [
            [own if there else boxes for own, there, boxes in zip(of_level, on_level.tolist(), seen.boxes, strict=True)]
            for of_level, on_level in zip(focused, used, strict=True)
        ]
    return Attended(top_down, focused, used)


def _maps(features: list[Tensor], values: Tensor, options: OdamKd, *, keep: bool) -> list[Tensor]:
    """Of each level (B,h,w): the map of the sum of values (n,).

    Levels do not see one another in the head, so the gradient of one sum over all levels is that of each level's own.
    """
    # Without a value in the graph, as of a pass without places.
    if not values.requires_grad:
        return [torch.zeros_like(level[:, 0], dtype=torch.float32) for level in features]
    gradients = torch.autograd.grad(values.sum(), features, retain_graph=keep, allow_unused=True)
    pairs = zip(features, gradients, strict=True)
    return [
        top_down_map(level.detach(), torch.zeros_like(level) if gradient is None else gradient, options.form)
        for level, gradient in pairs
    ]


def _focused(boxes: Sequence[Tensor], found: Predictions, key: Tensor) -> list[Tensor]:
    """Of each image (n,4), the objects of some key predictions: a teacher's own, and the one that a student's is judged by."""
    objects = torch.cat([found.owner[key], found.judge[key]])
    touched = torch.zeros(sum(map(len, boxes)), dtype=torch.bool, device=key.device)
    touched[objects[objects >= 0]] = True
    by_image = torch.split(touched, [len(own) for own in boxes])
    return [own[there] for own, there in zip(boxes, by_image, strict=True)]


def _imitation(distiller: Distiller, seen: DistillationPass, generator: torch.Generator | None) -> Tensor:
    assert isinstance(distiller.loss, FeatureImitation)
    return distiller.loss.weight * feature_imitation_loss(distiller.adapted(seen.student_features()), seen.teacher_features())


def _pkd(distiller: Distiller, seen: DistillationPass, generator: torch.Generator | None) -> Tensor:
    assert isinstance(distiller.loss, Pkd)
    return distiller.loss.weight * pkd_loss(distiller.adapted(seen.student_features()), seen.teacher_features())


def _mgd(distiller: Distiller, seen: DistillationPass, generator: torch.Generator | None) -> Tensor:
    assert isinstance(distiller.loss, Mgd)
    weight, masked = distiller.loss.factors(two_stage=distiller.kind == "faster_rcnn")
    student = distiller.adapted(seen.student_features())
    masks = random_masks(student, masked, generator)
    return weight * mgd_loss(student, seen.teacher_features(), distiller.blocks_of("generation"), masks)


_LOSSES: dict[str, Callable[[Distiller, DistillationPass, torch.Generator | None], Tensor]] = {
    Fgd.name: _fgd,
    OdamKd.name: _odam_kd,
    FeatureImitation.name: _imitation,
    Pkd.name: _pkd,
    Mgd.name: _mgd,
}
