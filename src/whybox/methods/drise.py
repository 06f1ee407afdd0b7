"""D-RISE: a black-box heat map from the detector's outputs for thousands of randomly masked images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size, resize_maps
from whybox.method import Method
from whybox.methods._random_masks import draw_grids, draw_masks, grown_canvas
from whybox.model import Kind, Model
from whybox.ops.matching import pairwise_iou
from whybox.types import Candidates, Detections, HeatMaps, Target, Trace, target_name


def drise_weights(
    candidates: Candidates,
    boxes: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    *,
    size: Size,
    objectness: bool = True,
    candidate_threshold: float = 0.0,
) -> Tensor:
    """w_t = max_j IoU(L_t, L_j) * cos(P_t, P_j) * O_j over the candidates j of one masked image.

    Args:
        candidates: Of the masked image. With class-specific boxes, L_j is the one of the detection's class.
        boxes: L_t (N,4) of the detections to explain, xyxy in image pixels.
        labels: (N,) their classes.
        probabilities: P_t (N,K) their class probabilities.
        size: (height, width) of the image; the candidates' boxes are clipped to it, as those of detections are.
        objectness: Whether O_j is the candidates' objectness; else, and for detectors without one, it is 1.
        candidate_threshold: Candidates whose highest class score is lower are ignored.

    Returns:
        (N,); 0 where no candidate is left.

    Source: Petsiuk et al., CVPR 2021, the similarity metric.
    """
    rows = (candidates.scores.amax(1) >= candidate_threshold).nonzero()[:, 0]
    if not len(rows):
        return boxes.new_zeros(len(boxes))
    kept = candidates[rows]
    places: Tensor = clip_boxes_to_image(kept.boxes, size)
    cosine = _unit(probabilities) @ _unit(class_probabilities(kept)).T
    if objectness:
        cosine = cosine * objectness_of(kept)
    return (_overlap(boxes, labels, places) * cosine).amax(1)


def _overlap(boxes: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    """IoU (N,M) of boxes (N,4) with places (M,4), or with those of their labels among (M,K,4)."""
    if places.ndim == 2:
        overlap: Tensor = pairwise_iou(boxes, places)
        return overlap
    pairs = zip(boxes, labels.tolist(), strict=True)
    # A detection is compared with the boxes of its own class.
    return torch.cat([pairwise_iou(box[None], places[:, label]) for box, label in pairs])


def class_probabilities(candidates: Candidates) -> Tensor:
    """The "class" factor of the scores where there is one, else the scores.

    Args:
        candidates: M candidates.

    Returns:
        (M,K)
    """
    # A score may hold the objectness already, which would then count twice.
    return candidates.factors.get("class", candidates.scores)


def objectness_of(candidates: Candidates) -> Tensor:
    """The "objectness" among the scores' factors, else the product of the class-agnostic factors (such as a centerness).

    Args:
        candidates: M candidates.

    Returns:
        (M,); 1 where no factor is class-agnostic.
    """
    if "objectness" in candidates.factors:
        return candidates.factors["objectness"]
    value = candidates.scores.new_ones(len(candidates))
    for factor in candidates.factors.values():
        # One value per candidate: the same for all classes.
        if factor.ndim == 1:
            value = value * factor
    return value


def _unit(rows: Tensor) -> Tensor:
    # Clamped to the smallest normal number, so that rows of zeros stay zero.
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / length.clamp(min=torch.finfo(rows.dtype).tiny)


@dataclass(frozen=True)
class DRise(Method):
    """D-RISE: map = sum_i w_i mask_i, raw, on the image's pixels. One set of masked images serves all detections.

    Attributes:
        masks: Number of masks. The image is black where a mask is 0.
        grid: A mask has grid x grid cells.
        probability: The probability that a cell is 1.
        seed: Seed of the masks; they do not depend on the device or the batch size.
        batch: Masked images per forward pass.
        candidate_threshold: Candidates whose highest class score is lower are ignored, as detectors filter their outputs. 0.05
            is the value in the reference implementation of ODAM.
        objectness: False leaves O out, as that implementation does.
        canvas: None: masks are upsampled to grid+1 cells of ceil(side / grid) pixels and shifted by less than a cell. A number:
            to a square of so many pixels, whatever the image's size, of which the mask is a random crop, as that
            implementation does with 1343, whose cells are 84 pixels wide.
        stop_when_settled: Stop early once, for every map, 1 - its correlation with itself `check_every` masks ago is below this
            (an empty map has not settled); the result's options hold the number of masks used, as masks_used.
        check_every: Masks between two checks of `stop_when_settled`.
        progress: Called with the number of masks done and the total.
    """

    masks: int = 5000
    grid: int = 16
    probability: float = 0.5
    seed: int = 0
    batch: int = 8
    candidate_threshold: float = 0.05
    objectness: bool = True
    canvas: int | None = None
    stop_when_settled: float | None = None
    check_every: int = 500
    progress: Callable[[int, int], None] | None = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "drise"
    title: ClassVar[str] = "D-RISE"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    not_for: ClassVar[frozenset[Kind]] = frozenset({"classifier", "image-text"})
    targets: ClassVar[frozenset[str]] = frozenset({"score"})
    source: ClassVar[str] = "Petsiuk et al.: Black-box Explanation of Object Detectors via Saliency Maps, CVPR 2021"

    def __post_init__(self) -> None:
        for name in ("masks", "grid", "batch", "check_every"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.probability < 1:
            raise WhyboxError(f"probability must lie between 0 and 1, got {self.probability}")

    def remark(self, trace: Trace) -> str:
        """That O is 1, where the candidates do not say what their scores are made of."""
        if not self.objectness or trace.candidates.factors:
            return ""
        return "the candidates give no factors of their scores, so drise counts the objectness as 1"

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection; the only target is "score".

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each, on the image's pixels.

        Raises:
            WhyboxError: Another target than "score", or a canvas smaller than the image.
        """
        for name in map(target_name, targets):
            if name not in self.targets:
                raise WhyboxError(f"drise explains a detection as a whole, not {name!r} alone; use target 'score'")
        maps, used = self._accumulate(model, trace, detections) if len(detections) else (trace.image[:0], 0)
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "progress"} | {"masks_used": used}
        frame = Frame.same((trace.image.shape[-2], trace.image.shape[-1]))
        return [self.heat_maps(tuple(maps), frame, target, options=options) for target in targets]

    @torch.no_grad()
    def _accumulate(self, model: Model, trace: Trace, detections: Detections) -> tuple[Tensor, int]:
        """The maps (N,H,W), and the number of masks used. At most one batch of masks is in memory at a time."""
        device = trace.candidates.scores.device
        image = trace.image.to(device)
        size = (image.shape[-2], image.shape[-1])
        labels = detections.labels.to(device)
        weigh = partial(
            drise_weights,
            boxes=detections.boxes.to(device),
            labels=labels,
            probabilities=_probabilities(trace.candidates, labels, detections.source.to(device)),
            size=size,
            objectness=self.objectness,
            candidate_threshold=self.candidate_threshold,
        )
        maps = image.new_zeros((len(detections), *size))
        before: Tensor | None = None
        done = 0
        for masks in self._batches(size, device):
            # Black where the mask is 0, as in the reference code of ODAM; RISE takes the color that is zero after normalization.
            weights = [weigh(candidates) for candidates in model.predict(image * masks[:, None])]
            # One matrix product for all detections; in place, because `flatten` of a contiguous tensor is a view.
            maps.flatten(1).addmm_(torch.stack(weights, 1).to(maps), masks.flatten(1))
            done += len(masks)
            if self.progress is not None:
                self.progress(done, self.masks)
            if self.stop_when_settled is not None and done % self.check_every == 0:
                now = self._outline(maps)
                # An empty map has length 0, hence a correlation of 0 with itself: it never counts as settled.
                if before is not None and float((1 - (now * before).sum(1)).max()) < self.stop_when_settled:
                    break
                before = now
        return maps, done

    def _batches(self, size: Size, device: torch.device) -> Iterator[Tensor]:
        """Masks (b,H,W) in batches that end at each check of `stop_when_settled`."""
        grids, shifts = draw_grids(self.masks, self.grid, self.probability, self.seed)
        canvas, reach = self._canvas(size)
        start = 0
        while start < self.masks:
            # A batch ends at the next check, so that the maps compared differ by `check_every` masks whatever the batch size.
            to_check = self.check_every - start % self.check_every
            rows = slice(start, min(start + min(self.batch, to_check), self.masks))
            yield draw_masks(grids[rows].to(device), shifts[rows], size, canvas, reach)
            start = rows.stop

    def _canvas(self, size: Size) -> tuple[Size, Size]:
        """The size that a grid is upsampled to, and the range of a crop's corner on it, down and across."""
        if self.canvas is None:
            return grown_canvas(size, self.grid)
        if self.canvas < max(size):
            raise WhyboxError(f"canvas must be at least the image's longer side, {max(size)}, got {self.canvas}")
        # At least 1: of a canvas as large as the image there is one crop.
        return (self.canvas, self.canvas), (max(1, self.canvas - size[0]), max(1, self.canvas - size[1]))

    def _outline(self, maps: Tensor) -> Tensor:
        """Maps (N,H,W) -> (N,P) for the check's correlation: 4x4 points per cell, mean 0, length 1."""
        points = min(4 * self.grid, maps.shape[-2]), min(4 * self.grid, maps.shape[-1])
        rows = resize_maps(maps, points).flatten(1)
        return _unit(rows - rows.mean(1, keepdim=True))


def _probabilities(candidates: Candidates, labels: Tensor, source: Tensor) -> Tensor:
    """Class probabilities (N,K) of the detections; one-hot for a detection whose candidate is not known."""
    # Row 0 stands in for an unknown candidate; `where` drops it.
    known = class_probabilities(candidates)[source.clamp(min=0)]
    certain = torch.nn.functional.one_hot(labels, candidates.scores.shape[1]).to(known)
    return torch.where((source >= 0)[:, None], known, certain)
