"""The regions of annotated objects in pixels, and the energy of heat maps inside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.frame import Size
from whybox.truth import MetricInput

Region = Literal["box", "mask"]
Floor = Literal["minimum", "zero"]


@dataclass(frozen=True)
class Regions:
    """G regions of an image: boxes or masks. A box covers the pixels from the floor of its start to the ceiling of its end,
    clipped to the image.

    Attributes:
        boxes: (G,4) xyxy.
        size: (height, width) of the image.
        masks: (G,H,W) bool, used instead of the boxes; or None.
    """

    # Boxes are never rasterized all at once: a crowd of 300 on six million pixels would take 2 GiB.

    boxes: Tensor
    size: Size
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks is not None and tuple(self.masks.shape[1:]) != tuple(self.size):
            given = tuple(self.masks.shape[1:])
            raise WhyboxError(f"masks must have the size of their image, {tuple(self.size)}, got {given}; check the annotations")

    def __len__(self) -> int:
        return len(self.boxes)

    def spans(self) -> tuple[Tensor, Tensor]:
        """Which rows and which columns of pixels the boxes touch: bool (G,H) and (G,W)."""
        height, width = self.size
        return _touched(self.boxes[:, 1::2], height), _touched(self.boxes[:, ::2], width)

    def of(self, rows: Tensor) -> Tensor:
        """The regions chosen by indices (n,), as bool (n,H,W)."""
        if self.masks is not None:
            return self.masks[rows]
        down, across = Regions(self.boxes[rows], self.size).spans()
        return down[:, :, None] & across[:, None, :]

    def sums(self, maps: Tensor) -> Tensor:
        """The sum of each map (N,H,W) inside each region: (N,G)."""
        if self.masks is not None:
            # In slices of 2**24 numbers: the masks as floats take four times the memory.
            step = max(1, 2**24 // (self.size[0] * self.size[1]))
            flat = [part.flatten(1).to(maps) for part in torch.split(self.masks, step)]
            return torch.cat([maps.flatten(1) @ part.T for part in flat], 1)
        down, across = (span.to(maps) for span in self.spans())
        # Rows, then columns: the boxes' masks are never made.
        return ((down @ maps) * across).sum(-1)

    def counts(self) -> Tensor:
        """The number of regions that contain each pixel: integers (H,W)."""
        if self.masks is not None:
            # One by one: torch's sum over booleans first copies them all as 64-bit integers.
            return sum((mask.int() for mask in self.masks), self.masks.new_zeros(self.size, dtype=torch.int32))
        down, across = (span.to(torch.float32) for span in self.spans())
        # As floats: CUDA has no matrix product of integers, and float32 counts exactly up to 2**24.
        return (down.T @ across).int()


def _touched(sides: Tensor, length: int) -> Tensor:
    """sides (G,2), start and end along one axis of `length` pixels -> bool (G,length)."""
    pixel = torch.arange(length, device=sides.device)
    return (pixel >= sides[:, :1].floor()) & (pixel < sides[:, 1:].ceil())


def object_regions(maps: Tensor, case: MetricInput, region: Region) -> tuple[Regions, Tensor]:
    """The regions of an image's objects, without ignore regions.

    Args:
        maps: (N,H,W), for size and device.
        case: The metric's inputs.
        region: "box" or "mask".

    Returns:
        G regions, and (N,) the row of each detection's object among them, -1 for none or an ignore region.
    """
    if region == "mask" and case.truth.masks is None:
        raise WhyboxError("region='mask' needs annotated masks, and this image has none; take region='box'")
    counted = ~case.truth.ignore.to(maps.device)
    truth = case.truth if counted.all() else case.truth[~case.truth.ignore]
    # One more entry at the end, so that index -1 (no match) yields -1, also where nothing is annotated.
    place = torch.where(counted, counted.cumsum(0) - 1, -1)
    own = torch.cat([place, place.new_full((1,), -1)])[case.matched.to(maps.device)]
    masks = truth.masks.to(maps.device) if region == "mask" and truth.masks is not None else None
    return Regions(truth.boxes.to(maps.device), (maps.shape[-2], maps.shape[-1]), masks), own


def judge_matched(maps: Tensor, own: Tensor, judge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(N,...) the result `judge(maps, rows)` -> (n,...) for the n detections with an object; NaN for the others."""
    matched = own >= 0
    judged = judge(maps[matched], own[matched])
    values = judged.new_full((len(own), *judged.shape[1:]), torch.nan)
    values[matched] = judged
    return values


def energy(maps: Tensor, floor: Floor = "minimum") -> Tensor:
    """Maps as non-negative energy with a peak of 1: negative values count as 0.

    Args:
        maps: (N,H,W).
        floor: "minimum" subtracts each map's lowest value, as the papers' code does by scaling every map to 0..1; otherwise
            maps with an offset, such as D-RISE's, would be measured by their offset. "zero" does not.

    Returns:
        (N,H,W), in float32 or better.
    """
    # Scaled to a peak of 1, so that sums neither overflow nor underflow; shares of the energy do not change.
    amounts = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=0)
    if floor == "minimum":
        amounts = amounts - amounts.amin((-2, -1), keepdim=True)
    peak = amounts.amax((-2, -1), keepdim=True)
    return amounts / torch.where(peak > 0, peak, 1)


def sum_shares(part: Tensor, whole: Tensor, nothing: float) -> Tensor:
    """part / whole, at most 1; `nothing` where the whole is 0, NaN where it is NaN."""
    # Clamped, because sums of the same pixels in another order may differ in the last digit.
    return torch.where(whole == 0, nothing, part / whole).clamp(max=1)


def tied_peaks(maps: Tensor) -> Tensor:
    """The pixels of each map (N,H,W) with its highest value: bool, at least one per map unless it contains NaN."""
    return maps == maps.amax((-2, -1), keepdim=True)


def check_region(region: str) -> None:
    """Refuse an unknown region."""
    if region not in get_args(Region):
        raise unknown("region", region, get_args(Region))


def check_floor(floor: str) -> None:
    """Refuse an unknown floor."""
    if floor not in get_args(Floor):
        raise unknown("floor", floor, get_args(Floor))
