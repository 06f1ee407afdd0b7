"""Maps as classifiers of pixels: which pixels of an image count, and which of them are the object's."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.ops.regions import Region, Regions, judge_matched, object_regions
from whybox.truth import MetricInput
from whybox.types import min_max

Threshold = float | Literal["mean"]


def judge_pixels(maps: Tensor, inputs: MetricInput, region: Region, judge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`judge(values (P,), own (P,) bool)` of each map's pixels that count -> (N,). NaN for a map that is not finite, for a
    detection without an object, and for an object without a pixel in the image.

    Pixels of an ignored region of the object's own class do not count, unless they are the object's.
    """
    regions, own = object_regions(maps, inputs, region)
    labels = inputs.truth.labels[~inputs.truth.ignore]

    def judge_all(chosen: Tensor, rows: Tensor) -> Tensor:
        values = [maps.new_full((), torch.nan)] * len(chosen)
        for i, (one, row) in enumerate(zip(chosen, rows.tolist(), strict=True)):
            positive = regions.of(rows[i : i + 1])[0]
            counted = positive | ~_ignored(inputs, int(labels[row]), regions)
            if positive.any() and one.isfinite().all():
                values[i] = judge(one[counted], positive[counted]).to(maps)
        return torch.stack(values) if values else maps.new_zeros(0)

    return judge_matched(maps, own, judge_all)


def _ignored(inputs: MetricInput, label: int, like: Regions) -> Tensor:
    """The pixels (H,W) of the ignored regions of a class: their masks where the regions have masks, else their boxes."""
    truth = inputs.truth[inputs.truth.ignore & (inputs.truth.labels == label)]
    device = like.boxes.device
    masks = None if like.masks is None or truth.masks is None else truth.masks.to(device)
    return Regions(truth.boxes.to(device), like.size, masks).counts() > 0


def above(values: Tensor, threshold: Threshold) -> Tensor:
    """Which of a map's pixels (P,) are above its mean, or above a level of the map scaled to 0..1: bool (P,). A constant map
    is nowhere above."""
    unit = min_max(values[None, None])[0, 0]
    return unit > (unit.mean() if threshold == "mean" else threshold)


def check_threshold(threshold: object) -> None:
    """A threshold that is none is the user's mistake."""
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if threshold != "mean" and not (number and 0 <= float(threshold) <= 1):  # type: ignore[arg-type]
        raise WhyboxError(f"threshold must be mean, or a number from 0 to 1, got {threshold!r}")
