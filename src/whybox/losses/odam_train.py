"""ODAM-Train: the maps of predictions of one object become alike, and differ from those of other objects."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown

Form = Literal["reference", "paper"]
Order = Literal["first", "second"]

FORMS = ("reference", "paper")
ORDERS = ("first", "second")
REFERENCE_IMAGES = 2
"""Images per device in the authors' training."""
_CLAMP = 1e-4
"""The reference code's bound of a cosine: to [1e-4, 1 - 1e-4]."""
_SOFT = 1e-4
"""What is added inside the paper's logarithms, which have no bound: they then end where the reference's do, at 9.21."""


class OdamTrainTerms(NamedTuple):
    """The two terms, scalars, divided by the number of pairs.

    Attributes:
        consistency: Of pairs of predictions of the same object.
        separation: Of pairs of predictions of different objects in the same image.
    """

    consistency: Tensor
    separation: Tensor


def odam_train_loss(
    maps: Tensor,
    boxes: Tensor,
    truth_iou: Tensor,
    owner: Tensor,
    image: Tensor | None = None,
    *,
    form: Form = "reference",
    two_stage: bool = False,
    most_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> OdamTrainTerms:
    """The consistency and the separation loss of n predictions, each of which was assigned an object.

    An object's best prediction b is the one with the highest IoU. Consistency is the sum of -log cos(b, n) over predictions n of
    the same object, separation that of -log(1 - cos(b, m)) over predictions m of other objects in the same image.

    Args:
        maps: (n,...) not negative; compared as vectors, whatever their scale. Gradients flow to them alone. An all-zero map has
            cosine 0 with every other, and gradient 0.
        boxes: (n,4) the predicted boxes, xyxy in pixels.
        truth_iou: (n,) IoU of each predicted box with its object.
        owner: (n,) the object of each prediction; objects of different images need different numbers.
        image: (n,) the image of each prediction; None: all are of one.
        form: "paper": all pairs count alike, and both sums are divided by the number of pairs. "reference": as in the authors'
            code, cosines are clamped to [1e-4, 1 - 1e-4], which stops the gradient outside; only predictions whose box overlaps
            b's are separated; the pair (b, b) counts; objects whose best IoU is 0 are left out.
        two_stage: In the reference form, a pair of the same object is weighted by IoU(n) / IoU(b), and the pairs of all images
            are averaged together; without it each image's terms are divided by its own number of pairs, and added.
        most_pairs: A random part of an image's pairs is used where there are more.
        generator: Of the random choice, on the CPU; None: torch's own.

    Returns:
        Both terms, at least in float32. Without a pair they are 0, still with a graph.

    Source: Zhao, Hsiao, Chan: ODAM, ICLR 2023, section 3.3; the authors' code for what the paper does not say.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    vectors = _unit_vectors(maps)
    image = torch.zeros_like(owner) if image is None else image
    parts = [
        _pairs_of_image(vectors[rows], boxes[rows], truth_iou[rows], owner[rows], form).some(most_pairs, generator)
        for rows in _rows_by_image(image)
    ]
    terms = [part.terms(form, weighted=form == "reference" and two_stage) for part in parts]
    nothing = vectors[:0].sum()
    if form == "reference" and not two_stage:
        scales = [1 / max(1, len(part.cosine)) for part in parts]
    else:
        scales = [1 / max(1, sum(len(part.cosine) for part in parts))] * len(parts)
    consistency = sum((scale * same for scale, (same, _) in zip(scales, terms, strict=True)), nothing)
    separation = sum((scale * other for scale, (_, other) in zip(scales, terms, strict=True)), nothing)
    return OdamTrainTerms(consistency, separation)


def _rows_by_image(image: Tensor) -> Iterator[Tensor]:
    for number in sorted(set(image.tolist())):
        yield (image == number).nonzero()[:, 0]


def _unit_vectors(maps: Tensor) -> Tensor:
    """Maps (n,...) as vectors (n,D) of length 1; an all-zero map stays zero, and gets gradient 0."""
    flat = maps.flatten(1).to(torch.promote_types(maps.dtype, torch.float32))
    # Divided by the peak first: raw maps may be of the order of 1e-20, whose squares underflow. A unit vector does not depend on
    # the scale, so the peak can be a constant.
    peak = flat.detach().abs().amax(1, keepdim=True)
    alive = peak >= torch.finfo(flat.dtype).tiny
    scaled = flat * torch.where(alive, 1 / torch.where(alive, peak, 1), 0)
    return scaled / torch.where(alive, scaled.square().sum(1, keepdim=True), 1).sqrt()


@dataclass(frozen=True)
class _Pairs:
    """Pairs (best prediction of an object, prediction) of one image.

    Attributes:
        cosine: (k,) of their maps.
        same: (k,) whether both are of one object.
        weight: (k,) IoU of the prediction over that of the best.
    """

    cosine: Tensor
    same: Tensor
    weight: Tensor

    def some(self, most: int | None, generator: torch.Generator | None) -> "_Pairs":
        """A random part, where there are more than `most`."""
        if most is None or len(self.cosine) <= most:
            return self
        # On the CPU, so that the choice is the same on every device.
        kept = torch.randperm(len(self.cosine), generator=generator)[:most].to(self.cosine.device)
        return _Pairs(self.cosine[kept], self.same[kept], self.weight[kept])

    def terms(self, form: Form, *, weighted: bool) -> tuple[Tensor, Tensor]:
        """The sums of both logarithms."""
        cosine = self.cosine.clamp(_CLAMP, 1 - _CLAMP) if form == "reference" else self.cosine
        alike, apart = _penalty(cosine[self.same], form), _penalty(1 - cosine[~self.same], form)
        return (alike * self.weight[self.same] if weighted else alike).sum(), apart.sum()


def _penalty(likeness: Tensor, form: Form) -> Tensor:
    """-log of values in 0..1. The paper's form is finite at 0, with a gradient there."""
    return -likeness.log() if form == "reference" else -((likeness + _SOFT) / (1 + _SOFT)).log()


def _pairs_of_image(vectors: Tensor, boxes: Tensor, truth_iou: Tensor, owner: Tensor, form: Form) -> _Pairs:
    """The pairs of one image's n predictions. vectors: (n,D)."""
    mine = owner.new_tensor(sorted(set(owner.tolist())))[:, None] == owner
    best = torch.where(mine, truth_iou, -1).argmax(1)
    if form == "reference":
        used = (mine | _overlap(boxes[best], boxes)) & (truth_iou[best] > 0)[:, None]
    else:
        used = torch.arange(len(owner), device=owner.device) != best[:, None]
    cosine = vectors[best] @ vectors.T
    weight = truth_iou / truth_iou[best].clamp(min=torch.finfo(truth_iou.dtype).tiny)[:, None]
    return _Pairs(cosine[used], mine[used], weight[used])


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """(p,n): whether boxes share a pixel, where a box has x2 - x1 + 1 pixels across."""
    shared = torch.minimum(first[:, None, 2:], second[:, 2:]) - torch.maximum(first[:, None, :2], second[:, :2]) + 1
    return (shared > 0).all(-1)


@dataclass(frozen=True)
class OdamTrain:
    """Options of ODAM-Train.

    Attributes:
        weight: The factor of the loss. None: in the reference form that of the authors' code, 0.5 for one-stage and 0.2 for
            two-stage detectors; in the paper's form 1.
        form: "reference" or "paper"; see `odam_train_loss`.
        order: "first": the gradient in a map is a constant, as in the authors' code; the loss trains what computes the features.
            "second": it is differentiated, too, as the paper says; the loss also trains the head.
        warmup: Steps in which the factor grows from 0 to its full value; the authors' code has none.
        every: The loss is computed in every n-th step, from step 0 on.
        most_samples: An image's predictions with the highest IoU, at most this many, get maps.
        most_pairs: At most this many pairs of an image are compared, chosen at random; the authors' code has no limit.
        stride: Pixels of the network's input per cell of the grid on which maps are compared.
    """

    weight: float | None = None
    form: Form = "reference"
    order: Order = "first"
    warmup: int = 0
    every: int = 1
    most_samples: int = 300
    most_pairs: int = 10_000
    stride: int = 16

    name: ClassVar[str] = "odam_train"
    title: ClassVar[str] = "ODAM-Train"
    source: ClassVar[str] = "Zhao, Hsiao, Chan: ODAM, ICLR 2023, section 3.3"
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form", self.form, FORMS)
        if self.order not in ORDERS:
            raise unknown("order", self.order, ORDERS)
        if self.weight is not None and self.weight < 0:
            raise WhyboxError(f"weight must not be negative, got {self.weight}")
        if self.warmup < 0:
            raise WhyboxError(f"warmup must not be negative, got {self.warmup}")
        for name in ("every", "most_samples", "most_pairs", "stride"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")

    def due(self, step: int) -> bool:
        """Whether the loss is computed in a step, counted from 0."""
        return step % self.every == 0

    def factor(self, step: int, *, two_stage: bool, images: int = REFERENCE_IMAGES) -> float:
        """The factor of the loss in a step.

        Args:
            step: The number of the step, from 0.
            two_stage: Whether the detector has two stages.
            images: Images of the pass. What the reference form adds up over the two images of a device is twice their mean, so
                that the weight means the same in batches of any size, on one device or on several.

        Returns:
            The factor of both terms of `odam_train_loss`.
        """
        usual = 1.0 if self.form == "paper" else 0.2 if two_stage else 0.5
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        # Only the reference form for one-stage detectors is a sum over images; the others are means.
        share = REFERENCE_IMAGES / max(1, images) if self.form == "reference" and not two_stage else 1.0
        return ramp * share * (usual if self.weight is None else self.weight)
