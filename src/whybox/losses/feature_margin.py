"""The loss of FeatureNMS: embeddings of boxes of one object become close, those of neighboring objects distant."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.matching import pairwise_iou


class MarginTerms(NamedTuple):
    """The two terms, scalars, each a mean over its pairs.

    Attributes:
        same: Of pairs of boxes of the same object.
        different: Of pairs of boxes of different objects.
    """

    same: Tensor
    different: Tensor


def margin_loss(
    embeddings: Tensor,
    boxes: Tensor,
    owner: Tensor,
    image: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    alpha: float = 0.2,
    beta: float = 1.0,
    low: float = 0.1,
    high: float = 0.9,
    most_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> MarginTerms:
    """The margin loss of n boxes, each of which was assigned an object.

    With the Euclidean distance d of two embeddings, a pair of the same object has the loss max(0, alpha + d - beta), a pair of
    different objects max(0, alpha - d + beta). Pairs are those that FeatureNMS decides by their embeddings: of one image and
    class, with an IoU over `low` and up to `high`.

    The form, alpha and beta are the paper's. What was not found there is chosen here: which pairs are used, and that
    pairs of the same object and of different objects are averaged apart, because in a crowd one kind outnumbers the other.

    Args:
        embeddings: (n,D). Gradients flow to them alone; a pair at distance 0 has gradient 0.
        boxes: (n,4) the predicted boxes, xyxy in pixels.
        owner: (n,) the object of each box; objects of different images need different numbers.
        image: (n,) the image of each box; None: all are of one.
        labels: (n,) the class of each box; None: all are of one.
        alpha: The margin on both sides of `beta`.
        beta: The distance that tells the same object from different ones.
        low: Pairs with at most this IoU are left out.
        high: Pairs with more than this IoU are left out.
        most_pairs: A random part of an image's pairs is used where there are more.
        generator: Of the random choice, on the CPU; None: torch's own.

    Returns:
        Both terms, at least in float32. Without a pair of its kind a term is 0, still with a graph.

    Source: Salscheider: FeatureNMS, ICPR 2020, section III; the loss is that of Wu et al.: Sampling Matters in Deep Embedding
    Learning, ICCV 2017, equation 4.
    """
    values = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    image = torch.zeros_like(owner) if image is None else image
    labels = torch.zeros_like(owner) if labels is None else labels
    group = torch.stack([image, labels], 1)
    parts = [
        _some(_compared(rows, boxes, group, low, high), most_pairs, generator)
        for rows in ((image == number).nonzero()[:, 0] for number in sorted(set(image.tolist())))
    ]
    first, second = torch.cat([owner.new_zeros((2, 0), dtype=torch.long), *parts], 1)
    distance = _distances(values[first], values[second])
    same = owner[first] == owner[second]
    return MarginTerms(_mean((alpha + distance[same] - beta).relu()), _mean((alpha - distance[~same] + beta).relu()))


def _compared(rows: Tensor, boxes: Tensor, group: Tensor, low: float, high: float) -> Tensor:
    """(2,P) the pairs among an image's rows (n,) whose boxes are of one group and overlap by low < IoU <= high."""
    iou = pairwise_iou(boxes[rows].detach().float(), boxes[rows].detach().float())
    alike = (group[rows, None] == group[rows]).all(-1)
    return rows[((iou > low) & (iou <= high) & alike).triu(1).nonzero().T]


def _some(pairs: Tensor, most: int | None, generator: torch.Generator | None) -> Tensor:
    """A random part of (2,P) pairs, where there are more than `most`."""
    if most is None or pairs.shape[1] <= most:
        return pairs
    # On the CPU, so that the choice is the same on every device.
    return pairs[:, torch.randperm(pairs.shape[1], generator=generator)[:most].to(pairs.device)]


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances (P,) of vectors (P,D), with the gradient 0 at 0, where the square root's is infinite."""
    squared = (first - second).square().sum(1)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 of no values."""
    return values.sum() / max(1, len(values))


@dataclass(frozen=True)
class FeatureMargin:
    """Options of FeatureNMS's loss.

    Attributes:
        weight: The factor of the loss. The paper's was not found; with 1, as here, it counts as much as each of the detector's
            own losses.
        alpha: The margin; see `margin_loss`.
        beta: The distance that tells the same object from different ones: the rule's `distance`.
        low: As the rule's `low`.
        high: As the rule's `high`.
        most_samples: An image's predictions with the highest IoU, at most this many, are compared.
        most_pairs: At most this many pairs of an image are compared, chosen at random.
        size: Numbers in an embedding, of a head that `whybox train` adds.
        layers: 3x3 convolutions before the last one of such a head, for one-stage detectors.
    """

    weight: float = 1.0
    alpha: float = 0.2
    beta: float = 1.0
    low: float = 0.1
    high: float = 0.9
    most_samples: int = 300
    most_pairs: int = 10_000
    size: int = 32
    layers: int = 4

    name: ClassVar[str] = "feature_margin"
    title: ClassVar[str] = "FeatureNMS margin loss"
    source: ClassVar[str] = "Salscheider: FeatureNMS, ICPR 2020, section III"
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("weight", "alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise WhyboxError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.alpha > self.beta:
            raise WhyboxError(f"alpha must be at most beta, else equal embeddings have a loss, got {self.alpha} and {self.beta}")
        if not 0 <= self.low < self.high <= 1:
            raise WhyboxError(f"0 <= low < high <= 1 is needed, got low {self.low} and high {self.high}")
        for name in ("most_samples", "most_pairs", "size"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.layers < 0:
            raise WhyboxError(f"layers must not be negative, got {self.layers}")

    def due(self, step: int) -> bool:
        """Whether the loss is computed in a step: in every one, so that the head always has a gradient."""
        return True

    @property
    def head(self) -> dict[str, int]:
        """The options of a head that it trains, as `add_embedding_head` takes them."""
        return {"size": self.size, "layers": self.layers}
