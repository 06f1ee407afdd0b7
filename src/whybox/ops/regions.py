"""The regions of annotated objects on the image's pixels, and how much of a heat map lies inside them."""

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
    """G regions of an image of `size`: every pixel that a box (G,4) xyxy touches, or masks (G,H,W) bool.

    A box touches the pixels from the floor of its start to the ceiling of its end; what lies beyond the image is cut
    off. The pixels of all boxes are never stored together: a crowd of 300 on six million pixels would take 2 GiB.
    """

    boxes: Tensor
    size: Size
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks is not None and tuple(self.masks.shape[1:]) != tuple(self.size):
            came = tuple(self.masks.shape[1:])
            raise WhyboxError(f"masks must have the size of their image, {tuple(self.size)}, got {came}; check the annotations")

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
        return ((down @ maps) * across).sum(-1)

    def counts(self) -> Tensor:
        """How many regions hold each pixel: integers (H,W)."""
        if self.masks is not None:
            # One by one: a sum over booleans first copies them all as 64-bit integers.
            return sum((mask.int() for mask in self.masks), self.masks.new_zeros(self.size, dtype=torch.int32))
        down, across = (span.to(torch.float32) for span in self.spans())
        return (down.T @ across).int()


def _touched(sides: Tensor, length: int) -> Tensor:
    """sides (G,2), start and end along one axis of `length` pixels -> bool (G,length)."""
    pixel = torch.arange(length, device=sides.device)
    return (pixel >= sides[:, :1].floor()) & (pixel < sides[:, 1:].ceil())


def object_regions(maps: Tensor, case: MetricInput, region: Region) -> tuple[Regions, Tensor]:
    """The regions of the G objects that count, and for each detection the row of its own among them, (N,), -1 for none.

    Ignore regions are no objects: they are left out, and a detection that stands for one has none.
    """
    if region == "mask" and case.truth.masks is None:
        raise WhyboxError("region='mask' needs annotated masks, and this image has none; take region='box'")
    counted = ~case.truth.ignore.to(maps.device)
    truth = case.truth if counted.all() else case.truth[~case.truth.ignore]
    # One more place at the end, so that the row -1 finds -1, also where nothing is annotated.
    place = torch.where(counted, counted.cumsum(0) - 1, -1)
    own = torch.cat([place, place.new_full((1,), -1)])[case.matched.to(maps.device)]
    masks = truth.masks.to(maps.device) if region == "mask" and truth.masks is not None else None
    return Regions(truth.boxes.to(maps.device), (maps.shape[-2], maps.shape[-1]), masks), own


def judge_matched(maps: Tensor, own: Tensor, judge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`judge(maps, rows)` -> (n,...) for the n detections that have an object, NaN in the rows of the others: (N,...)."""
    matched = own >= 0
    judged = judge(maps[matched], own[matched])
    values = judged.new_full((len(own), *judged.shape[1:]), torch.nan)
    values[matched] = judged
    return values


def energy(maps: Tensor, floor: Floor = "minimum") -> Tensor:
    """Maps (N,H,W) as amounts >= 0: what is negative counts as 0, and with "minimum" the lowest value is subtracted.

    The papers' code scales every map to 0..1 before it sums it: shares of the sum are then those of "minimum". Without
    that a map with an offset, such as D-RISE's, is judged by its offset. Amounts are scaled to a
    peak of 1, in float32 or better: shares stay what they are, and no sum overflows or vanishes.
    """
    amounts = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=0)
    if floor == "minimum":
        amounts = amounts - amounts.amin((-2, -1), keepdim=True)
    peak = amounts.amax((-2, -1), keepdim=True)
    return amounts / torch.where(peak > 0, peak, 1)


def sum_shares(part: Tensor, whole: Tensor, nothing: float) -> Tensor:
    """part / whole, at most 1; `nothing` where the whole is 0, NaN where it is not a number."""
    # Sums of the same pixels in another order may differ in the last digit.
    return torch.where(whole == 0, nothing, part / whole).clamp(max=1)


def tied_peaks(maps: Tensor) -> Tensor:
    """The pixels of each map (N,H,W) that hold its highest value: bool, at least one a map unless it holds NaN."""
    return maps == maps.amax((-2, -1), keepdim=True)


def check_region(region: str) -> None:
    """A region that is none is the user's mistake."""
    if region not in get_args(Region):
        raise unknown("region", region, get_args(Region))


def check_floor(floor: str) -> None:
    """A floor that is none is the user's mistake."""
    if floor not in get_args(Floor):
        raise unknown("floor", floor, get_args(Floor))
