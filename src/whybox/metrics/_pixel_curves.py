"""Deletion and insertion curves: the score of an object while pixels of the image are replaced in the order of its map."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.frame import Frame, Size, resize_maps
from whybox.metrics._tracking import LEADING, Score, lead_scores, track_scores
from whybox.ops.perturb import Extent, Fill, Way, batch_of, count_pixels, draw_fill, draw_steps, rank_pixels
from whybox.truth import Metric, MetricInput, MetricResult
from whybox.types import Candidates

Track = Literal["truth", "detection"]
Area = Literal["trapezoid", "mean"]
Resolution = Literal["image", "network"]
CHOICES: dict[str, Any] = {
    "fill": Fill,
    "extent": Extent,
    "track": Track,
    "score": Score,
    "auc": Area,
    "resolution": Resolution,
}


@dataclass(frozen=True)
class Objects:
    """N objects whose scores are tracked.

    Attributes:
        image: The image whose pixels are replaced, (3,H,W) in 0..1.
        boxes: (N,4) xyxy in its pixels.
        labels: (N,) score columns.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor

    @property
    def size(self) -> Size:
        """The image's size, (H, W)."""
        return self.image.shape[-2], self.image.shape[-1]


@dataclass(frozen=True)
class PixelCurves(Metric):
    """The common part of deletion and insertion.

    Attributes:
        fill: What replaces pixels: "random" (drawn anew for every detection), "black", "mean" (the image's mean color) or
            "blurred".
        extent: Where the curve ends: at as many pixels as the object's box has, wherever they are ("box"), at the whole image
            ("image"), or at "half" of it.
        points: Number of points of the curve, including both ends.
        track: The class and box whose score is tracked: those of the matched annotation ("truth"; the detection's own if there
            is none), or the detection's own ("detection"). Ignored for whole-image models.
        score: "class" or "iou_x_probability", see `track_scores`; for whole-image models also "top1" and "top5", see
            `lead_scores`, and there "class" is a text's cosine or a class's probability.
        relative: Divide by the score of the whole image; NaN where that is not positive. Negative scores, which cosines may be,
            count as 0.
        auc: The rule for the area under the curve.
        legacy_iou: Boxes include their last pixel (sides x2 - x1 + 1).
        floor: Only candidates with a class probability above it count.
        most: Only that many of the best candidates of an image count; None: all.
        resolution: "image" replaces pixels of the user's image, which the model then resizes as usual; "network" resizes it
            first (bilinear, the map bicubic within the values around) and replaces the pixels that the network sees.
    """

    fill: Fill = "random"
    extent: Extent = "box"
    points: int = 11
    track: Track = "truth"
    score: Score = "class"
    relative: bool = True
    auc: Area = "trapezoid"
    legacy_iou: bool = False
    floor: float = 0.0
    most: int | None = None
    resolution: Resolution = "image"

    name: ClassVar[str]
    removes: ClassVar[bool]

    def __post_init__(self) -> None:
        for option, choices in CHOICES.items():
            if getattr(self, option) not in get_args(choices):
                raise unknown(option, str(getattr(self, option)), get_args(choices))
        for option, least in (("points", 2), ("most", 1)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise WhyboxError(f"{option} must be at least {least}, got {value}")
        if not 0 <= self.floor < 1:
            raise WhyboxError(f"floor must be a probability below 1, got {self.floor}")

    @property
    def title(self) -> str:
        """The name for tables, with the options that are not the default."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        words = [value if isinstance(value, str) else f"{name} {str(value).lower()}" for name, value in changed.items()]
        return f"{self.name.capitalize()} ({', '.join(words)})" if words else self.name.capitalize()

    @property
    def needs(self) -> frozenset[str]:
        """Predictions for changed images; for ranks, a whole-image model."""
        return frozenset({"predict"} | ({"whole"} if self.score in LEADING else set()))

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value. A relative score may exceed 1, replacing pixels may raise a score."""
        if self.relative:
            return (0.0, float("inf"))
        # A cosine may be negative; ranks, and IoU times a probability, may not.
        return (-1.0 if self.score == "class" else 0.0, 1.0)

    @property
    def across(self) -> str:
        """The label of a curve's x axis."""
        unit = {"box": "box areas", "image": "images", "half": "halves of the image"}[self.extent]
        return f"{'removed' if self.removes else 'shown'}, in {unit}"

    @property
    def starts_at_zero(self) -> bool:
        """Whether the curve's first point is set to 0 instead of measured."""
        return False

    @torch.no_grad()
    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The area under each map's curve.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The image, the detections and the model's predictions for changed images.

        Returns:
            The areas (N,) and the curves (N,points); NaN for maps that are not finite, which give no order of pixels.

        Raises:
            WhyboxError: The maps do not fit the image and the detections, or `inputs` lack what the metric needs.
        """
        self._check(maps, inputs)
        at = torch.linspace(0, 1, self.points, device=inputs.image.device)
        curves = at.new_full((len(inputs), self.points), torch.nan)
        ranked = torch.nonzero(maps.isfinite().all(-1).all(-1))[:, 0]
        if len(ranked):
            curves[ranked.to(at.device)] = self._curves(maps[ranked], inputs[ranked.to(inputs.matched.device)])
        return MetricResult(torch.trapezoid(curves, at) if self.auc == "trapezoid" else curves.mean(1), curves, at)

    def _check(self, maps: Tensor, inputs: MetricInput) -> None:
        wanted = (len(inputs), *inputs.image.shape[-2:])
        if tuple(maps.shape) != wanted:
            raise WhyboxError(
                f"{self.name}: expected one map per detection on the image's pixels, {wanted}, got {tuple(maps.shape)}"
            )
        if self.score in LEADING and not inputs.whole:
            raise WhyboxError(f"{self.name}: score {self.score!r} is for whole-image models; use 'class'")

    def _curves(self, maps: Tensor, inputs: MetricInput) -> Tensor:
        """The curves (N,points). Images that all objects share, the whole one and a start without randomness, are scored once."""
        objects = find_objects(inputs, self.track, self.resolution)
        shared = None if self.fill == "random" else draw_fill(self.fill, objects.image)
        # Scoring costs a pass of the model: only where a point of the curve or the ratio needs it.
        whole = self._score_image(inputs, objects, objects.image) if self.removes or self.relative else None
        begin = whole if self.removes else self._begin(inputs, objects, shared)
        curves = torch.zeros((len(inputs), self.points), device=inputs.image.device)
        first = 0
        if begin is not None:
            curves[:, 0] = begin
            # The point is known: the sequences of images start after it.
            first = 1
        self._follow(curves[:, first:], inputs, objects, self._ways(maps, inputs, objects, shared, first))
        if whole is None or not self.relative:
            return curves
        # score_k / score_0 of the papers.
        return curves.clamp(min=0) / torch.where(whole > 0, whole, torch.nan)[:, None]

    def _begin(self, inputs: MetricInput, objects: Objects, shared: Tensor | None) -> Tensor | None:
        """The first point (N,) of insertion; None if it is a different, random image for every object."""
        if self.starts_at_zero:
            return objects.image.new_zeros(len(inputs))
        return None if shared is None else self._score_image(inputs, objects, shared)

    def _ways(self, maps: Tensor, inputs: MetricInput, objects: Objects, shared: Tensor | None, first: int) -> Iterator[Way]:
        """Each object's sequence of images from point `first` on, generated lazily: all at once would not fit memory."""
        image = objects.image
        for i in range(len(inputs)):
            # The detection's own generator, first for ties and then for the fill, so that batches change no number.
            generator = inputs.generator(i)
            ranks = rank_pixels(_fit(maps[i].to(image.device), objects.size), generator)
            filled = draw_fill(self.fill, image, generator) if shared is None else shared
            start, end = (image, filled) if self.removes else (filled, image)
            yield Way(start, end, ranks, count_pixels(objects.boxes[i], objects.size, self.extent, self.points)[first:])

    def _follow(self, curves: Tensor, inputs: MetricInput, objects: Objects, ways: Iterator[Way]) -> None:
        """Write the scores of all images into the curves (N,P), in place."""
        points = curves.shape[1]
        done = 0
        batch = batch_of(inputs.batch, objects.size, objects.image.device)
        for images in draw_steps(ways, batch):
            for candidates in _predict(inputs, images):
                # The images come object by object, each in the order of its points.
                row, point = divmod(done, points)
                curves[row, point] = self._score(candidates, objects, slice(row, row + 1))[0]
                done += 1

    def _score_image(self, inputs: MetricInput, objects: Objects, image: Tensor) -> Tensor:
        """The scores (N,) of all objects in one image."""
        return self._score(_predict(inputs, image[None])[0], objects, slice(None)).float().to(image.device)

    def _score(self, candidates: Candidates, objects: Objects, rows: slice) -> Tensor:
        if self.score in LEADING:
            return lead_scores(candidates, objects.labels[rows], LEADING[self.score])
        return track_scores(
            candidates,
            objects.boxes[rows],
            objects.labels[rows],
            objects.size,
            score=self.score,
            legacy_iou=self.legacy_iou,
            floor=self.floor,
            most=self.most,
        )


def find_objects(inputs: MetricInput, track: Track, resolution: Resolution) -> Objects:
    """The objects whose scores are tracked, on the image whose pixels are replaced.

    Args:
        inputs: The image, the detections and their matched objects.
        track: "truth" or "detection", see `PixelCurves`.
        resolution: "image", or "network" for the image as the network sees it, resized and not padded.

    Returns:
        N objects.
    """
    boxes, labels = inputs.detections.boxes, inputs.detections.labels
    truth = inputs.truth
    # Only where there is an object: its row 0 stands in for no match, and `where` drops it.
    if track == "truth" and len(truth) and not inputs.whole:
        rows = inputs.matched.to(boxes.device)
        wanted = rows.clamp(min=0).to(truth.boxes.device)
        boxes = torch.where((rows >= 0)[:, None], truth.boxes[wanted].to(boxes), boxes)
        labels = torch.where(rows >= 0, truth.labels[wanted].to(labels), labels)
    if resolution == "image":
        return Objects(inputs.image, boxes, labels)
    size = inputs.frame.resized
    # A frame of the resized image alone: boxes must not be shifted by the canvas's padding.
    return Objects(resize_maps(inputs.image, size), Frame(inputs.frame.image, size, size).boxes_to_network(boxes), labels)


def _fit(values: Tensor, size: Size) -> Tensor:
    """A map (H,W) at another size, bicubic as in the ODAM reference implementation, without its overshoot.

    The overshoot would rank the pixels along the rim of a drawn box first, and the control would be no random order.
    """
    grid = values if values.is_floating_point() else values.float()
    return resize_maps(grid[None], size, mode="bicubic", bounded=True)[0]


def _predict(inputs: MetricInput, images: Tensor) -> list[Candidates]:
    if inputs.predict is None:
        raise WhyboxError("deletion and insertion score changed images: the MetricInput needs `predict`, got None")
    return inputs.predict(images)
