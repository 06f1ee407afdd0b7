"""Gradients of Hugging Face's detectors: autograd through another pass over the image, which serves question after question."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from whybox.errors import WhyboxError, unknown
from whybox.model import LEAST_SCORE, Model
from whybox.models._layers import Layer, choose_layers, exact_pullbacks, leading_target, module_path, same_rows
from whybox.network_state import exclusive
from whybox.ops.kept_pass import kept_or_made
from whybox.pullback import DensePullback, Pullback
from whybox.types import Detections, Target, Trace


class AutogradDetector(Model):
    """A detector whose gradients are autograd's. A family says how the pass is made, and what is read from it."""

    @property
    def unsuppressed_threshold(self) -> float:
        """.05, or its own threshold where that is lower."""
        return min(LEAST_SCORE, self.score_threshold)

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """By autograd: another forward pass, and backward passes, which detections share where that pays."""
        yield from self._by_autograd("", trace, detections, layer, route)

    def branch_pullbacks(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Pullbacks from the masks, in the same way."""
        if f"{branch}s" not in self.gives:
            raise WhyboxError(f"{self.name} has no {branch} head")
        yield from self._by_autograd(branch, trace, detections, layer, route)

    @abstractmethod
    def _live(self, trace: Trace, name: str, branch: str) -> tuple[Any, list[Layer]]:
        """The pass over the trace's image again: what `_found_again` reads, with its graph, and the layers of module `name`."""

    def _found_again(self, made: Any, trace: Trace, detections: Detections) -> tuple[Trace, Detections]:
        """The trace of `_live`'s pass, and the detections with their rows in it."""
        rows = same_rows(made.candidates, trace.candidates, detections.source)
        return made, replace(detections, source=rows)

    def _runs(self, branch: str) -> Any:
        """The network that runs for targets on this branch."""
        return self.network

    def _leading(self, branch: str) -> Target:
        """What decides on which of several layers a detection is explained."""
        return leading_target(branch)

    def _by_autograd(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str
    ) -> Iterator[DensePullback]:
        if route not in ("auto", "exact"):
            raise unknown("route", route, ("auto", "exact"))
        if not len(detections):
            return
        wanted = layer or self.layers[0]
        made, layers = self._live_or_kept(trace, module_path(wanted), branch)
        # A network that uses several stages returns them all under this name; the last one is the default.
        layers = layers[-1:] if wanted == "backbone" else choose_layers(layers, wanted)
        live, explained = self._found_again(made, trace, detections)
        yield from exact_pullbacks(live, explained, layers, leading=self._leading(branch), batched=True)

    def _live_or_kept(self, trace: Trace, name: str, branch: str) -> tuple[Any, list[Layer]]:
        def live() -> tuple[Any, list[Layer]]:
            with exclusive(self.network):
                return self._live(trace, name, branch)

        # Somebody's backward pass from maps frees the graph.
        if trace.differentiable:
            return live()
        network = self._runs(branch)
        # The candidates are made anew in every pass. The model, because its texts and its processor belong to the pass, too.
        return kept_or_made(trace.candidates, (self, name, id(network)), network, live)
