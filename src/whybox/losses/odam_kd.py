"""ODAM-KD: a student's features become like its teacher's where explanations of the predictions that differ point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.frame import Size
from whybox.losses.fgd import (
    Blocks,
    Features,
    FgdConstants,
    FgdTerms,
    attention_difference,
    box_masks,
    channel_attention,
    check_constants,
    compared,
    constants_of,
    precise,
    relation_difference,
    spatial_attention,
)

Form = Literal["odam", "gradcam"]
Scale = Literal["peak", "mean", "none"]
Attention = Literal["combined", "bottom_up"]
Empty = Literal["background", "objects", "skip"]
Distance = Literal["squared", "plain"]
Judge = Literal["best", "assigned"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "form": ("odam", "gradcam"),
    "scale": ("peak", "mean", "none"),
    "background_attention": ("combined", "bottom_up"),
    "empty": ("background", "objects", "skip"),
    "distance": ("squared", "plain"),
    "judged_by": ("best", "assigned"),
}
"""The options with a choice of words, and the words."""


def key_predictions(
    teacher_iou: Tensor,
    student_iou: Tensor,
    student_score: Tensor,
    owner: Tensor,
    level: Tensor,
    *,
    most: int = 10,
    least_iou: float = 0.5,
    least_score: float = 0.1,
) -> Tensor:
    """The predictions whose explanations are compared, among those of both networks at the same n places.

    On each level, an object's predictions by the teacher that fit it best, and the student's confident ones that fit no object.

    Args:
        teacher_iou: (n,) IoU of the teacher's box with the object that the place was assigned.
        student_iou: (n,) IoU of the student's box with the object that it is judged by.
        student_score: (n,) the student's confidence.
        owner: (n,) the object that the place was assigned, counted through the batch; -1: none.
        level: (n,) the level of the pyramid.
        most: At most this many of the teacher's predictions, per object and level: those with the highest IoU.
        least_iou: Only those of the teacher's with more than this, and those of the student's with less.
        least_score: Only those of the student's with more than this confidence.

    Returns:
        (n,) whether a place is used.

    Source: Zhao, Hsiao, Chan: Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination, "key prediction selection".
    """
    wrong = (student_score > least_score) & (student_iou < least_iou)
    fitting = ((owner >= 0) & (teacher_iou > least_iou)).nonzero()[:, 0]
    # Sorted by object and level, and within these by IoU: the rank is the distance from the first of the same.
    order = fitting[teacher_iou[fitting].argsort(descending=True, stable=True)]
    group = owner[order] * (int(level.max()) + 1 if len(level) else 1) + level[order]
    by_group = group.argsort(stable=True)
    group, order = group[by_group], order[by_group]
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    used = wrong.clone()
    used[order[rank < most]] = True
    return used


def top_down_map(features: Tensor, gradient: Tensor, form: Form = "odam") -> Tensor:
    """The heat map of a level, from the gradient of the sum of weighted confidences: equations 3 and 4.

    Args:
        features: (B,C,h,w).
        gradient: (B,C,h,w).
        form: "odam": the gradient at each cell; "gradcam": its mean over all cells.

    Returns:
        (B,h,w), not negative.
    """
    if form == "gradcam":
        gradient = gradient.mean((2, 3), keepdim=True)
    return (precise(features) * precise(gradient)).sum(1).relu()


def top_down_attention(maps: Sequence[Tensor], *, temperature: float = 2.0, scale: Scale = "peak") -> Tensor:
    """The largest of the networks' maps at each cell, as an attention with the mean 1: equation 5.

    Args:
        maps: Of each network (B,h,w), not negative.
        temperature: What the map is divided by before the softmax.
        scale: What the map is divided by before that: "peak", its largest value, "mean", its mean, or "none".

    Returns:
        (B,h,w); 1 everywhere for a map of zeros.
    """
    joined = torch.stack(list(maps)).amax(0)
    flat = joined.flatten(1)
    if scale != "none":
        size = flat.amax(1, keepdim=True) if scale == "peak" else flat.mean(1, keepdim=True)
        # A map of zeros stays one. Products of features and gradients may be of the order of 1e-20.
        flat = flat / size.clamp(min=torch.finfo(flat.dtype).tiny)
    return flat.shape[1] * (flat / temperature).softmax(1).view_as(joined)


def odam_kd_loss(
    student: Features,
    teacher: Features,
    top_down: Sequence[Tensor],
    focused: Sequence[Sequence[Tensor]],
    image_size: Size,
    blocks: tuple[Blocks, Blocks] | None = None,
    *,
    temperature: float = 0.5,
    foreground: float = 1e-3,
    background: float = 5e-4,
    attention: float = 5e-4,
    relation: float = 5e-6,
    background_attention: Attention = "combined",
    channels: bool = True,
    distance: Distance = "squared",
    used: Sequence[Tensor] | None = None,
) -> FgdTerms:
    """FGD's loss with the combined attention in the place of the spatial one, and the focused objects in that of all.

    Args:
        student: The student's levels, each (B,C,h,w), with the teacher's channels; gradients flow to them and to the blocks.
        teacher: The teacher's levels, of the same shapes; constants.
        top_down: Of each level (B,h,w), see `top_down_attention`; constants.
        focused: Of each level, of each image (n,4): the boxes of the objects with key predictions there, xyxy in pixels.
        image_size: Height and width of the pixels over which the grids lie.
        blocks: The student's and the teacher's `GcBlock`s, one per level; None: without the global relation.
        temperature: As in `fgd_loss`.
        foreground: As in `fgd_loss`.
        background: As in `fgd_loss`.
        attention: As in `fgd_loss`.
        relation: As in `fgd_loss`.
        background_attention: What weights cells outside of focused objects: "combined", or "bottom_up" alone, as in FGD.
        channels: Whether channels are weighted by the teacher's channel attention, as in FGD; equation 7 has no such weight.
        distance: Of a cell's channels: "squared", as in FGD's code, or "plain", its square root, as equation 7 is written.
        used: Of each level (B,), the images whose features are compared; None: all.

    Returns:
        The terms, as of `fgd_loss`.

    Raises:
        WhyboxError: Shapes differ.

    Source: Zhao, Hsiao, Chan: Gradient-based Instance-Specific Visual Explanations for Object Specification and Object
    Discrimination, equations 6 and 7; Yang et al.: FGD, CVPR 2022, for the rest.
    """
    student, teacher = compared(student, teacher)
    inside = outside = attentions = torch.stack([level.flatten()[:0].sum() for level in student]).sum()
    for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        masks = box_masks(focused[number], image_size, (ours.shape[-2], ours.shape[-1]))
        bottom_up = spatial_attention(theirs, temperature)
        combined = bottom_up * top_down[number].detach().to(bottom_up)
        weight = channel_attention(theirs, temperature)[:, :, None, None] if channels else theirs.new_ones(())
        difference = ((ours - theirs).square() * weight).sum(1)
        if distance == "plain":
            # The root has no finite gradient at 0.
            apart = difference > 0
            difference = torch.where(apart, torch.where(apart, difference, 1).sqrt(), 0)
        if used is not None:
            difference = difference * used[number][:, None, None]
        inside = inside + (difference * combined * masks.foreground).sum()
        elsewhere = bottom_up if background_attention == "bottom_up" else combined
        outside = outside + (difference * elsewhere * masks.background).sum()
        attentions = attentions + attention_difference(ours, theirs, temperature)
    related = 0 * inside if blocks is None else relation_difference(student, teacher, blocks)
    images = len(student[0])
    return FgdTerms(
        foreground / images * inside, background / images * outside, attention / images * attentions, relation / images * related
    )


@dataclass(frozen=True)
class OdamKd:
    """Options of ODAM-KD. A constant of FGD that is None is that of the detector's kind, see `whybox.losses.fgd.CONSTANTS`.

    Attributes:
        temperature: T of the bottom-up and channel attentions.
        foreground: The factor alpha of the features in focused objects.
        background: The factor beta of the features elsewhere.
        attention: The factor gamma of the attentions.
        relation: The factor lambda of the global relation; 0 leaves its blocks out.
        weight: A factor of the whole.
        most: The teacher's best predictions of an object on a level, at most this many.
        least_iou: The IoU that these need, and below which a prediction of the student is wrong.
        least_score: The confidence above which a wrong prediction of the student counts.
        judged_by: The object that a prediction of the student is judged by: the one that it overlaps "best", or the one that its
            place was "assigned" (none: IoU 0).
        form: "odam", or "gradcam" for Grad-CAM's maps, whose gradients are means over all cells.
        refresh: Whether the student's own map, of its present state, joins the teacher's, as in equation 5; without it only the
            teacher's is used, and a backward pass is saved.
        sharpness: The temperature of the top-down softmax.
        scale: See `top_down_attention`.
        background_attention: See `odam_kd_loss`.
        channels: See `odam_kd_loss`.
        distance: See `odam_kd_loss`.
        empty: What an image without key predictions on a level is there: all "background", its "objects" focused as in
            FGD, or "skip": its features are not compared.
    """

    temperature: float | None = None
    foreground: float | None = None
    background: float | None = None
    attention: float | None = None
    relation: float | None = None
    weight: float = 1.0
    most: int = 10
    least_iou: float = 0.5
    least_score: float = 0.1
    judged_by: Judge = "best"
    form: Form = "odam"
    refresh: bool = True
    sharpness: float = 2.0
    scale: Scale = "peak"
    background_attention: Attention = "combined"
    channels: bool = True
    distance: Distance = "squared"
    empty: Empty = "background"

    name: ClassVar[str] = "odam_kd"
    title: ClassVar[str] = "ODAM-KD"
    source: ClassVar[str] = (
        "Zhao, Hsiao, Chan: Gradient-based Instance-Specific Visual Explanations for Object Specification and Object "
        "Discrimination"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "predictions"})
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_constants(self)
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise unknown(name, getattr(self, name), words)
        if self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
        if self.most < 1:
            raise WhyboxError(f"most must be at least 1, got {self.most}")
        if self.sharpness <= 0:
            raise WhyboxError(f"sharpness must be positive, got {self.sharpness}")
        for name in ("least_iou", "least_score"):
            if not 0 <= getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def constants(self, detector: str) -> FgdConstants:
        """The constants for a kind of detector, a key of `whybox.losses.fgd.CONSTANTS`."""
        given = {name: getattr(self, name) for name in FgdConstants._fields}
        return constants_of(detector, **given)
