"""Image classifiers: the scores are class probabilities."""

from collections.abc import Callable, Sequence
from typing import NoReturn

from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.models._image_encoder import ImageEncoder
from whybox.models._whole_image import WholeImage, whole_image, whole_image_detections
from whybox.ops.transformer import widened
from whybox.types import Candidates, Detections


class Classifier(WholeImage):
    """An image classifier. The score of a class is its softmax probability.

    Attributes:
        classify: Embeddings (n,D) -> logits (n,K).
        classes: K names, or None; they can be set.
    """

    kind = "classifier"

    def __init__(
        self,
        make_encoder: Callable[[], ImageEncoder],
        classify: Callable[[Tensor], Tensor],
        classes: Sequence[str] | None,
        name: str,
    ) -> None:
        super().__init__(make_encoder, name)
        self.classify = classify
        self.classes = classes

    def prompt(self, texts: Sequence[str]) -> NoReturn:
        """Refused: a classifier reads no text."""
        raise WhyboxError(f"{self.name} reads no text: it has classes of its own; leave text out")

    def _own_classes(self) -> list[str] | None:
        return None if self.classes is None else list(self.classes)

    def _with_classes(self, names: list[str]) -> "Classifier":
        self.classes = names
        return self

    def _candidates(self, embeddings: Tensor, frame: Frame) -> Candidates:
        # Widened before the softmax, in which half precision would make small probabilities 0.
        logits = widened(self.classify(embeddings))
        return whole_image(logits.softmax(-1), logits, frame)

    def _detections(self, candidates: Candidates) -> Detections:
        """The classes, in descending order of score."""
        labels = candidates.scores[0].detach().argsort(descending=True, stable=True)
        return whole_image_detections(candidates, labels)
