"""FGD: a student's features become like its teacher's, objects and background apart, where the teacher attends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError, unknown
from whybox.frame import Size

Features = Sequence[Tensor]
"""The levels of a feature pyramid, each (B,C,h,w)."""
Blocks = Sequence[Callable[[Tensor], Tensor]]
"""A function per level, (B,C,h,w) -> (B,C,h,w): `GcBlock`s."""


class FgdConstants(NamedTuple):
    """The constants of FGD, in the paper's letters T, alpha, beta, gamma and lambda.

    Attributes:
        temperature: T, by which mean magnitudes are divided before the softmax of both attentions.
        foreground: alpha, the factor of the difference inside objects.
        background: beta, of the difference elsewhere.
        attention: gamma, of the difference of the attentions.
        relation: lambda, of the difference of the global relations.
    """

    temperature: float
    foreground: float
    background: float
    attention: float
    relation: float


CONSTANTS: Mapping[str, FgdConstants] = {
    "retinanet": FgdConstants(0.5, 1e-3, 5e-4, 5e-4, 5e-6),
    "fcos": FgdConstants(0.8, 1.6e-3, 8e-4, 8e-4, 8e-6),
    "reppoints": FgdConstants(0.5, 1.6e-3, 8e-4, 8e-4, 8e-6),
    "faster_rcnn": FgdConstants(0.5, 5e-5, 2.5e-5, 5e-5, 5e-7),
}
"""The authors' constants by the kind of detector."""


class FgdTerms(NamedTuple):
    """The terms, scalars, with their factors; the loss is their sum.

    Attributes:
        foreground: Of the features inside objects.
        background: Of the features elsewhere.
        attention: Of the attentions.
        relation: Of the global relations.
    """

    foreground: Tensor
    background: Tensor
    attention: Tensor
    relation: Tensor


class BoxMasks(NamedTuple):
    """Where the objects of B images lie on a grid.

    Attributes:
        foreground: (B,h,w) in every box's cells 1 over their number, the largest where boxes overlap; 0 elsewhere.
        background: (B,h,w) 1 over the number of the other cells in these; 0 in boxes.
    """

    foreground: Tensor
    background: Tensor


class GcBlock(nn.Module):
    """Global context: an attended mean of all cells, through a bottleneck, is added to every cell.

    Its last layer starts at 0, so that a new block changes nothing.

    Source: Cao et al.: GCNet, ICCV Workshops 2019, as FGD uses it.
    """

    def __init__(self, channels: int) -> None:
        """Make a block for features of that many channels."""
        super().__init__()
        hidden = max(1, channels // 2)
        self.attend = nn.Conv2d(channels, 1, 1)
        self.narrow = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.widen = nn.Conv2d(hidden, channels, 1)
        nn.init.kaiming_normal_(self.attend.weight, nonlinearity="relu")
        nn.init.zeros_(self.attend.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.widen.weight)
        nn.init.zeros_(self.widen.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Add the context.

        Args:
            features: (B,C,h,w).

        Returns:
            (B,C,h,w).
        """
        weight = self.attend(features).flatten(2).softmax(-1)
        context = (features.flatten(2) @ weight.transpose(1, 2))[..., None]
        added: Tensor = features + self.widen(self.norm(self.narrow(context)).relu())
        return added


def fgd_loss(
    student: Features,
    teacher: Features,
    boxes: Sequence[Tensor],
    image_size: Size,
    blocks: tuple[Blocks, Blocks] | None = None,
    *,
    temperature: float = 0.5,
    foreground: float = 1e-3,
    background: float = 5e-4,
    attention: float = 5e-4,
    relation: float = 5e-6,
) -> FgdTerms:
    """FGD's loss of the features of B images.

    Inside objects and elsewhere, squared differences are weighted by the teacher's spatial and channel attention, and by 1 over
    the number of cells of the smallest object or of the background; the attentions themselves are compared by their absolute
    differences; and the features with their global context by squared differences. Everything is summed over cells,
    channels and levels, and divided by B.

    Args:
        student: The student's levels, each (B,C,h,w), with the teacher's channels; gradients flow to them and to the blocks.
        teacher: The teacher's levels, of the same shapes; constants.
        boxes: Of each image (n,4), xyxy in pixels.
        image_size: Height and width of the pixels over which the grids lie.
        blocks: The student's and the teacher's `GcBlock`s, one per level; None: without the global relation.
        temperature: T.
        foreground: alpha.
        background: beta.
        attention: gamma.
        relation: lambda.

    Returns:
        The terms, at least in float32.

    Raises:
        WhyboxError: Shapes differ.

    Source: Yang et al.: Focal and Global Knowledge Distillation for Detectors, CVPR 2022, equations 2 to 11; the authors' code
    for sums, divisors and the cells of a box.
    """
    student, teacher = compared(student, teacher)
    inside = outside = attentions = torch.stack([level.flatten()[:0].sum() for level in student]).sum()
    for ours, theirs in zip(student, teacher, strict=True):
        masks = box_masks(boxes, image_size, (ours.shape[-2], ours.shape[-1]))
        spatial, channel = spatial_attention(theirs, temperature), channel_attention(theirs, temperature)
        difference = ((ours - theirs).square() * channel[:, :, None, None]).sum(1) * spatial
        inside = inside + (difference * masks.foreground).sum()
        outside = outside + (difference * masks.background).sum()
        attentions = attentions + attention_difference(ours, theirs, temperature)
    related = 0 * inside if blocks is None else relation_difference(student, teacher, blocks)
    images = len(student[0])
    return FgdTerms(
        foreground / images * inside, background / images * outside, attention / images * attentions, relation / images * related
    )


def compared(student: Features, teacher: Features) -> tuple[list[Tensor], list[Tensor]]:
    """The levels of both networks at least in float32, the teacher's as constants.

    Raises:
        WhyboxError: There are no levels, or their shapes differ.
    """
    shapes = [[tuple(level.shape) for level in levels] for levels in (student, teacher)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise WhyboxError(f"the student's features are {shapes[0]}, the teacher's {shapes[1]}: they must have the same shapes")
    return [precise(level) for level in student], [precise(level.detach()) for level in teacher]


def precise(values: Tensor) -> Tensor:
    """The values at least in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def spatial_attention(features: Tensor, temperature: float) -> Tensor:
    """Where features (B,C,h,w) are large: (B,h,w), with the mean 1."""
    strength = features.abs().mean(1)
    return strength[0].numel() * (strength.flatten(1) / temperature).softmax(1).view_as(strength)


def channel_attention(features: Tensor, temperature: float) -> Tensor:
    """Which channels of features (B,C,h,w) are large: (B,C), with the mean 1."""
    return features.shape[1] * (features.abs().mean((2, 3)) / temperature).softmax(1)


def attention_difference(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The absolute differences of both attentions of features (B,C,h,w), summed."""
    spatial = spatial_attention(student, temperature) - spatial_attention(teacher, temperature)
    channel = channel_attention(student, temperature) - channel_attention(teacher, temperature)
    return spatial.abs().sum() + channel.abs().sum()


def relation_difference(student: Features, teacher: Features, blocks: tuple[Blocks, Blocks]) -> Tensor:
    """The squared differences of features with their global context, summed. Gradients flow to both networks' blocks."""
    parts = [
        (precise(of_student(ours)) - precise(of_teacher(theirs))).square().sum()
        for ours, theirs, of_student, of_teacher in zip(student, teacher, *blocks, strict=True)
    ]
    return torch.stack(parts).sum()


def box_masks(boxes: Sequence[Tensor], image_size: Size, grid: Size) -> BoxMasks:
    """Where objects lie on a grid over images of that size.

    A box covers the cells from the floor of its left and upper side to the ceiling of its right and lower side, both included.

    Args:
        boxes: Of each image (n,4), xyxy in pixels.
        image_size: Height and width of an image.
        grid: Height and width of the grid.
    """
    rows, columns = (torch.arange(length, device=boxes[0].device) for length in grid)
    masks = []
    for of_image in map(precise, boxes):
        scale = of_image.new_tensor([grid[1] / image_size[1], grid[0] / image_size[0]]).repeat(2)
        left, top, right, bottom = (*(of_image * scale)[:, :2].floor().T, *(of_image * scale)[:, 2:].ceil().T)
        down = (rows >= top[:, None]) & (rows <= bottom[:, None])
        across = (columns >= left[:, None]) & (columns <= right[:, None])
        # Of the whole box, also where it ends outside of the grid, as in the authors' code.
        weight = 1 / ((bottom - top + 1) * (right - left + 1))
        covered = (down[:, :, None] & across[:, None]) * weight[:, None, None]
        masks.append(torch.cat([covered.new_zeros((1, *grid)), covered]).amax(0))
    foreground = torch.stack(masks)
    outside = (foreground == 0).to(foreground)
    return BoxMasks(foreground, outside / outside.sum((1, 2), keepdim=True).clamp(min=1))


def constants_of(detector: str, **given: float | None) -> FgdConstants:
    """The constants of a kind of detector, but for those that are given.

    Args:
        detector: A key of `CONSTANTS`.
        **given: Constants by name; None: the detector's.

    Raises:
        WhyboxError: Nothing is known of this kind.
    """
    if detector not in CONSTANTS:
        raise unknown("detector", detector, CONSTANTS)
    return CONSTANTS[detector]._replace(**{name: value for name, value in given.items() if value is not None})


def check_constants(options: object) -> None:
    """Refuse options with a temperature that is not positive, or a negative factor.

    Raises:
        WhyboxError: The option and its value.
    """
    for name in FgdConstants._fields:
        value = getattr(options, name)
        if value is not None and (value <= 0 if name == "temperature" else value < 0):
            raise WhyboxError(f"{name} must {'be positive' if name == 'temperature' else 'not be negative'}, got {value}")


@dataclass(frozen=True)
class Fgd:
    """Options of FGD. A constant that is None is that of the detector's kind, see `CONSTANTS`.

    Attributes:
        temperature: T of both attentions.
        foreground: The factor alpha of the features inside objects.
        background: The factor beta of the features elsewhere.
        attention: The factor gamma of the attentions.
        relation: The factor lambda of the global relation; 0 leaves its blocks out.
        weight: A factor of the whole.
    """

    temperature: float | None = None
    foreground: float | None = None
    background: float | None = None
    attention: float | None = None
    relation: float | None = None
    weight: float = 1.0

    name: ClassVar[str] = "fgd"
    title: ClassVar[str] = "FGD"
    source: ClassVar[str] = "Yang et al.: Focal and Global Knowledge Distillation for Detectors, CVPR 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_constants(self)
        if self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")

    def constants(self, detector: str) -> FgdConstants:
        """The constants for a kind of detector, a key of `CONSTANTS`."""
        given = {name: getattr(self, name) for name in FgdConstants._fields}
        return constants_of(detector, **given)
