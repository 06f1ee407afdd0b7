"""RISE: a black-box heat map from the model's outputs for thousands of randomly masked images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.method import Method
from whybox.methods._random_masks import draw_grids, draw_masks, grown_canvas
from whybox.model import Kind, Model
from whybox.types import Candidates, Detections, HeatMaps, Target, Trace


def rise_map(scores: Tensor, masks: Tensor, probability: float) -> Tensor:
    """S = sum_i f(I * M_i) M_i / (N p).

    Args:
        scores: f (...,N) of the masked images.
        masks: M (N,H,W).
        probability: p, that a cell of a mask is 1.

    Returns:
        (...,H,W)

    Source: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, eq. 6.
    """
    total = scores @ masks.flatten(1)
    return total.reshape(*scores.shape[:-1], *masks.shape[1:]) / (len(masks) * probability)


@dataclass(frozen=True)
class Rise(Method):
    """RISE, for models that predict for the whole image. One set of masked images serves all texts and targets.

    Attributes:
        masks: Number of masks. Where a mask is 0 the image has the color that is zero after normalization, as in the reference
            implementation.
        grid: A mask has grid x grid cells.
        probability: The probability that a cell is 1.
        seed: Seed of the masks; they do not depend on the device or the batch size.
        batch: Masked images per forward pass.
        progress: Called with the number of masks done and the total.
    """

    masks: int = 2000
    grid: int = 8
    probability: float = 0.5
    seed: int = 0
    batch: int = 16
    progress: Callable[[int, int], None] | None = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "rise"
    title: ClassVar[str] = "RISE"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    not_for: ClassVar[frozenset[Kind]] = frozenset({"detector", "prompted detector"})
    source: ClassVar[str] = "Petsiuk, Das, Saenko: RISE, BMVC 2018, eq. 6"

    def __post_init__(self) -> None:
        for name in ("masks", "grid", "batch"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.probability < 1:
            raise WhyboxError(f"probability must lie between 0 and 1, got {self.probability}")

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each, on the image's pixels.

        Raises:
            WhyboxError: The model predicts boxes rather than for the whole image.
        """
        if len(trace.candidates) != 1:
            raise WhyboxError(
                f"rise explains a model with one prediction for the whole image, and {model.name} gives {len(trace.candidates)} "
                "candidates; for detectors use drise"
            )
        size = (trace.image.shape[-2], trace.image.shape[-1])
        maps = self._accumulate(model, trace, detections, targets, size) if len(detections) else [()] * len(targets)
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "progress"}
        return [
            self.heat_maps(native, Frame.same(size), target, options=options)
            for native, target in zip(maps, targets, strict=True)
        ]

    @torch.no_grad()
    def _accumulate(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target], size: Size) -> Tensor:
        """The maps (T,N,H,W) of T targets. At most one batch of masks is in memory at a time. Parts of the image that a center
        crop removes are 0, as in the maps of other methods."""
        device = trace.candidates.scores.device
        image = trace.image.to(device)
        # Zero after normalization: each family says which color that is.
        fill = image.new_tensor(getattr(model, "fill", (0.0, 0.0, 0.0)))[:, None, None]
        maps = image.new_zeros((len(targets), len(detections), *size))
        done = 0
        for masks in self._batches(size, device):
            # Dimmed towards the fill, which is what multiplying the normalized image does.
            answers = model.predict(fill + masks[:, None] * (image - fill))
            scores = torch.stack([_values(trace, answer, detections, targets) for answer in answers], -1)
            done += len(masks)
            # rise_map divides by the batch's own number of masks.
            maps += len(masks) / self.masks * rise_map(scores.to(maps), masks, self.probability)
            if self.progress is not None:
                self.progress(done, self.masks)
        # Ones on the whole canvas come out as 0 where the image lies outside of it.
        seen = trace.frame.maps_to_image(image.new_ones((1, *trace.frame.network)))
        return maps * (seen > 0)

    def _batches(self, size: Size, device: torch.device) -> Iterator[Tensor]:
        """Masks (b,H,W)."""
        grids, shifts = draw_grids(self.masks, self.grid, self.probability, self.seed)
        canvas, reach = grown_canvas(size, self.grid)
        batches = zip(torch.split(grids, self.batch), torch.split(shifts, self.batch), strict=True)
        for batch_grids, batch_shifts in batches:
            yield draw_masks(batch_grids.to(device), batch_shifts, size, canvas, reach)


def _values(trace: Trace, candidates: Candidates, detections: Detections, targets: Sequence[Target]) -> Tensor:
    """(T,N) each target's value of each detection, for the candidates of a masked image."""
    # The only candidate, once for each detection: targets read one row per detection.
    masked = trace.rows(candidates[torch.zeros_like(detections.source)], detections)
    return torch.stack([target(masked) for target in targets])
