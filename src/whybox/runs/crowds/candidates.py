"""The candidates of annotated images, from which every rule of duplicate removal can be tried."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from whybox import api
from whybox.duplicates import map_vectors
from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.model import Model
from whybox.ops.matching import pairwise_iou
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.rule import Rule, Suppressed, Vectors
from whybox.runs.labels import check_columns, match_classes, to_columns
from whybox.suppression.odam import unit_rows
from whybox.truth import DataSet


@dataclass(frozen=True)
class ImageCandidates:
    """One image.

    Attributes:
        name: The image's name.
        boxes: (N,4) candidates, highest scores first.
        scores: (N,).
        labels: (N,) score columns.
        maps: (N,D) their maps, of length 1, in half precision; None where they were not asked for.
        embeddings: (N,D) their learned embeddings; None where the model gives none.
        truth: (G,4) boxes of the objects.
        columns: (G,) their score columns.
        ignore: (G,) objects that do not count.
        size: (H, W).
    """

    name: str
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    maps: Tensor | None
    embeddings: Tensor | None
    truth: Tensor
    columns: Tensor
    ignore: Tensor
    size: tuple[int, int]

    def apply(self, rule: Rule) -> Suppressed:
        """What the rule keeps of the candidates."""
        values = self.embeddings if "embeddings" in rule.needs else self.maps
        vectors = None if values is None else Vectors(lambda rows: values[rows].float())
        return rule(self.boxes, self.scores, self.labels, vectors)

    def owners(self, overlap: float = 0.5) -> Tensor:
        """(N,) which object each candidate found: the one of its class with the highest IoU above `overlap`; -1: none."""
        iou = self.overlaps()
        if not iou.numel():
            return torch.full((len(self.boxes),), -1)
        best, owner = iou.max(1)
        return torch.where(best > overlap, owner, -1)

    def excused(self, overlap: float = 0.5) -> Tensor:
        """(N,) bool, whether more than `overlap` of a candidate lies in an ignored object of its class."""
        regions, mine = self.truth[self.ignore], self.labels[:, None] == self.columns[self.ignore]
        sides = torch.minimum(self.boxes[:, None, 2:], regions[:, 2:]) - torch.maximum(self.boxes[:, None, :2], regions[:, :2])
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).clamp(min=1e-6)
        inside: Tensor = ((sides.clamp(min=0).prod(2) / areas[:, None] > overlap) & mine).any(1)
        return inside

    def overlaps(self) -> Tensor:
        """(N,G) IoU with the objects, 0 with those of other classes and those that do not count."""
        iou: Tensor = pairwise_iou(self.boxes, self.truth) * (self.labels[:, None] == self.columns) * ~self.ignore
        return iou


def collect_candidates(
    model: Model,
    data: DataSet,
    *,
    maps: bool,
    limit: int | None = None,
    most: int | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning,
) -> Iterator[ImageCandidates]:
    """Run the model over annotated images.

    Args:
        model: A detector.
        data: Annotated images.
        maps: Whether to draw the maps of all candidates.
        limit: Use only the first images; None: all.
        most: Candidates per image, those with the highest scores; None: all, as a model's rule gets them that lowers scores.
        on_progress: Called after each image.
        on_warning: Called for an image that cannot be used.

    Yields:
        The candidates and objects of each image.

    Raises:
        WhyboxError: The model predicts for whole images, or knows none of the data's classes.
    """
    if model.whole_image:
        raise WhyboxError(f"{model.name} predicts for the whole image: there are no boxes to suppress")
    match_classes(model, data)
    for index in range(min(len(data), limit or len(data))):
        name = f"image {index}"
        try:
            sample = data[index]
            name = sample.name
            trace = api.trace(model, sample.image)
            check_columns(model, trace.candidates.scores.shape[1], data)
            found = model.unsuppressed(trace)
            found = found[found.scores.argsort(descending=True, stable=True)[:most]]
            # In half precision, for 500 maps of CrowdHuman are 8 MB; scaled first, because raw maps may be of the order of 1e-20.
            drawn = unit_rows(map_vectors(model, trace, found).float()).half().cpu() if maps else None
            embeddings = model.embed_detections(trace, found).detach().cpu() if model.embeds else None
        except FATAL:
            raise
        except Exception as error:
            on_warning(f"{name}: {reason_of(error)}")
            continue
        truth = to_columns(sample.truth, data.classes, model.classes, first_column=model.first_column)
        boxes, scores, labels = (value.detach().cpu() for value in (found.boxes, found.scores, found.labels))
        objects = (truth.boxes, truth.labels, truth.ignore, trace.frame.image)
        yield ImageCandidates(name, boxes, scores, labels, drawn, embeddings, *objects)
        on_progress(name, 1)
