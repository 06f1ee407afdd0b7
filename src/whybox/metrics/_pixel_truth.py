"""Heat maps as classifiers of pixels: the pixels that count, and those of the object."""

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
    """Evaluate each map as a classifier of the object's pixels.

    Pixels in an ignored region of the object's class do not count, unless they belong to the object.

    Args:
        maps: (N,H,W) on the image's pixels.
        inputs: The detections' matched objects and the annotations.
        region: The object's "box" or "mask".
        judge: (values (P,), whether they are the object's (P,) bool) of the P pixels that count -> ().

    Returns:
        (N,), NaN for a map that is not finite, a detection without an object and an object without a pixel in the image.
    """
    regions, own = object_regions(maps, inputs, region)
    labels = inputs.truth.labels[~inputs.truth.ignore]

    def judge_all(chosen: Tensor, rows: Tensor) -> Tensor:
        values = [maps.new_full((), torch.nan)] * len(chosen)
        for i, (single, row) in enumerate(zip(chosen, rows.tolist(), strict=True)):
            positive = regions.of(rows[i : i + 1])[0]
            counted = positive | ~_ignored(inputs, int(labels[row]), regions)
            if positive.any() and single.isfinite().all():
                values[i] = judge(single[counted], positive[counted]).to(maps)
        # torch.stack refuses an empty list.
        return torch.stack(values) if values else maps.new_zeros(0)

    return judge_matched(maps, own, judge_all)


def _ignored(inputs: MetricInput, label: int, like: Regions) -> Tensor:
    """The pixels (H,W) of the ignored regions of a class: their masks where the regions have masks, else their boxes."""
    truth = inputs.truth[inputs.truth.ignore & (inputs.truth.labels == label)]
    device = like.boxes.device
    masks = None if like.masks is None or truth.masks is None else truth.masks.to(device)
    return Regions(truth.boxes.to(device), like.size, masks).counts() > 0


def above(values: Tensor, threshold: Threshold) -> Tensor:
    """The pixels above a threshold of the map scaled to 0..1.

    Args:
        values: The map's pixels, (P,).
        threshold: A level from 0 to 1, or "mean" for the scaled map's mean.

    Returns:
        (P,) bool; all False for a constant map.
    """
    unit = min_max(values[None, None])[0, 0]
    # Strictly above: a constant map, scaled to 0, is not above its own mean.
    return unit > (unit.mean() if threshold == "mean" else threshold)


def check_threshold(threshold: object) -> None:
    """Refuse an invalid threshold.

    Args:
        threshold: What the user gave.

    Raises:
        WhyboxError: It is neither "mean" nor a number from 0 to 1.
    """
    # True is an int.
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if threshold != "mean" and not (number and 0 <= float(threshold) <= 1):  # type: ignore[arg-type]
        raise WhyboxError(f"threshold must be mean, or a number from 0 to 1, got {threshold!r}")
