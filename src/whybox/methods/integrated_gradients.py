"""Integrated gradients: the input's mean gradient along the path from a baseline image, times image minus baseline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.method import Method
from whybox.methods._changed_images import average_maps, follow
from whybox.methods.input_x_gradient import SIGNS, Sign, take_sign
from whybox.model import Model
from whybox.ops.perturb import draw_fill
from whybox.pullback import FeatureGradient, PlacedMaps, sum_products
from whybox.types import Detections, HeatMaps, Target, Trace

Baseline = Literal["black", "mean", "blurred"]
BASELINES = ("black", "mean", "blurred")


def integrated_gradients_map(difference: Tensor, gradient: Tensor) -> Tensor:
    """One point's share of the path integral: sum_k (X_k - X'_k) o dY/dX_k over the color channels, X' the baseline; signed.

    Args:
        difference: X - X' (3,H,W).
        gradient: (n,3,H,W) at a point of the path.

    Returns:
        (n,H,W)

    Source: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, eq. 1: the mean over the straight
    path from X' to X. The trapezoidal rule replaces the Riemann sum of eq. 3.
    """
    return sum_products(difference, gradient)


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Integrated gradients, at the network's input. Completeness: with sign "signed" and enough steps, a map sums to the
    target's value at the image minus its value at the baseline.

    Attributes:
        steps: Intervals of the path. Each of its steps + 1 images costs a forward pass and one backward pass per detection.
        baseline: "black", "mean" (the image's mean color) or "blurred" (sigma a tenth of the longer side).
        sign: As in input_x_gradient.
        route: How gradients are taken: "auto", "fast" or "exact".
    """

    steps: int = 32
    baseline: Baseline = "black"
    sign: Sign = "absolute"
    route: str = "auto"

    name: ClassVar[str] = "integrated_gradients"
    title: ClassVar[str] = "Integrated gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"input"})
    source: ClassVar[str] = "Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1"

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise unknown("sign", self.sign, SIGNS)
        if self.baseline not in BASELINES:
            raise unknown("baseline", self.baseline, BASELINES)
        if self.steps < 1:
            raise WhyboxError(f"steps must be at least 1, got {self.steps}")

    def __call__(self, model: Model, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """Draw one map per detection and target.

        Args:
            model: The model to explain, which made the trace.
            trace: One pass of the model over the image.
            detections: N detections.
            targets: The T scalars to explain.

        Returns:
            T HeatMaps of N maps each.
        """
        if not len(detections):
            return [self.heat_maps((), trace.frame, target) for target in targets]
        baseline = draw_fill(self.baseline, trace.image)
        # X and X' as the network gets them, resized and normalized: the gradients are taken there.
        difference = self._input(model, trace, trace.image, detections) - self._input(model, trace, baseline, detections)

        def draw(gradient: FeatureGradient, detections: Detections, stride: float) -> PlacedMaps:
            # Every point's gradient is multiplied by X - X', not by the point's own input.
            under = replace(gradient, features=difference).activation()
            return gradient.under(integrated_gradients_map(under, gradient.gradient))

        path = self._path(baseline, trace.image)
        averages, routes = average_maps(model, trace, detections, targets, path, draw, self.route)
        return [
            self.heat_maps([take_sign(values, self.sign) for values in maps], trace.frame, target, routes=routes)
            for maps, target in zip(averages, targets, strict=True)
        ]

    def _path(self, start: Tensor, end: Tensor) -> Iterator[tuple[float, Tensor]]:
        """The images from start to end with their weights in the trapezoidal rule."""
        for i in range(self.steps + 1):
            weight = (0.5 if i in (0, self.steps) else 1) / self.steps
            # A straight line between images is one between the network's inputs, too: resizing and normalizing are affine.
            yield weight, start + i / self.steps * (end - start)

    def _input(self, model: Model, trace: Trace, image: Tensor, detections: Detections) -> Tensor:
        """(3,Hn,Wn) the network's input for an image."""
        # A pullback at "input" holds what the network is given, after the family's own resizing and normalization.
        with torch.inference_mode(False):
            changed = model.trace(image)
            # Any detection will do: the input is the same for all of them.
            detection = follow(detections[:1], trace.candidates, changed.candidates)
            return next(iter(model.pullbacks(changed, detection, "input", self.route))).features
