"""Any detector, through one small function of the user's that reads boxes and scores off the network's output."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import GradientError, WhyboxError, unknown
from whybox.frame import Frame
from whybox.model import Model
from whybox.models._keypoints import keypoint_names
from whybox.models._layers import (
    Layer,
    check_rows,
    choose_layers,
    exact_pullbacks,
    find_layers,
    first_channels,
    leading_target,
    leading_values,
    module_path,
    same_rows,
    strongest_layers,
)
from whybox.models._masks import masks_on_image
from whybox.models.plain._batches import Batches
from whybox.models.plain._box_form import doubt_about
from whybox.models.plain._fields import check_levels, parts_of, read_candidates
from whybox.models.plain._preparation import Preparation, check_channels
from whybox.models.plain._recorded import Asked, PassRecorder, Recorded
from whybox.models.plain._suppression import Suppression
from whybox.network_state import device_of
from whybox.ops.gradients import recording, twice_differentiable
from whybox.ops.hooks import INPUT, capture, compiled, frozen, map_tensors, tensors_in
from whybox.ops.kept_pass import kept_or_made
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, MaskLogits, Trace

ROUTES = ("auto", "fast", "exact")
ReadOutput = Callable[[Any], Any]
"""The network's output for a batch of one image -> boxes (M,4) xyxy in network pixels and scores (M,K), both differentiable;
a third value is each candidate's level (M,), an index into the feature maps. Or a dictionary with the fields of Candidates."""


class Plain(Model):
    """A detector of any origin.

    module: takes a tensor (1,3,h,w). candidates: reads its output (see ReadOutput). features: the paths of the modules whose
    outputs are the feature maps; a module that gives several counts as several, `neck[0]`, `neck[1]` ...
    classes: names of the scores' columns. The other options are those of Preparation and Suppression.

    Where there are several feature maps, a detection is explained on the level that the user's function named for it, else
    on the one that all raw outputs behind it are computed from, else on the one where its score's sum |gradient o features|
    is largest. `layer` may also be any module's path, or "input".
    """

    def __init__(
        self,
        module: nn.Module,
        candidates: ReadOutput,
        features: Sequence[str],
        *,
        classes: Sequence[str] | None = None,
        name: str = "plain",
        **options: Any,
    ) -> None:
        if isinstance(features, str) or not features:
            raise WhyboxError(f"features must be a list of module paths, such as ['neck.0'], got {features!r}")
        self.name = name
        self.classes = classes
        self.network = module
        self.read = candidates
        self.features = tuple(features)
        self.preparation, self.suppression = _split_options(options)
        self._batches = Batches()
        check_channels(module, self.preparation.given_channels)
        self._doubted = False
        self._beside: dict[str, int] = {}

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """What every plain module gives, and the masks, keypoints or corners that a pass had."""
        return frozenset({"candidates", "features", "input", *self._beside})

    @property
    def keypoints(self) -> Sequence[str]:  # type: ignore[override]
        """Of 17 keypoints a person's as COCO names them, else their numbers; known after a pass."""
        return keypoint_names(self._beside.get("keypoints", 0))

    @property
    def layers(self) -> tuple[str, ...]:
        """The feature maps that the user named, and "input"."""
        return (*self.features, INPUT)

    @property
    def channels(self) -> int:  # type: ignore[override]
        """The channels that the options speak of, or else that the network's first convolution takes."""
        return self.preparation.given_channels or first_channels(self.network)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1. Warns once where the boxes do not look like xyxy in pixels."""
        result = self._traced(image, differentiable)
        self._doubt_boxes(result)
        return result

    def _traced(self, image: Tensor, differentiable: bool) -> Trace:
        if differentiable:
            trace, layers = self._run(image, self.features, gradients=True, weights=True)
            return replace(trace, state=tuple(layers))
        if not compiled(self.network):
            # What can only run without a graph (a forward under inference_mode, a function that reads through NumPy) fails here.
            with suppress(Exception):
                return self._run_recorded(image)
        return self._run(image, self.features, gradients=False)[0]

    def _doubt_boxes(self, trace: Trace) -> None:
        boxes, frame = trace.frame.boxes_to_network(trace.candidates.boxes.detach()), trace.frame
        told = doubt_about(boxes, trace.candidates.scores.detach(), frame.network, self.suppression.score_threshold)
        if told and not self._doubted:
            self._doubted = True
            # 4: past this function, `trace`, and the lock that every family's `trace` is wrapped in.
            warnings.warn(f"{self.name}: {told}", stacklevel=4)

    def unsuppressed(self, trace: Trace) -> Detections:
        """Each candidate with its best class, where the score is over `score_threshold`; boxes clipped to the image."""
        with torch.no_grad():
            return self.suppression.unsuppressed(trace.candidates, trace.frame.image)

    @property
    def score_threshold(self) -> float:  # type: ignore[override]
        """That of its options."""
        return self.suppression.score_threshold

    @property
    def most_detections(self) -> int:
        """`max_detections`."""
        return self.suppression.max_detections

    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates for images (B,3,H,W) in 0..1 of one size, without a graph.

        The network gets the whole batch if its output then falls apart into the outputs for single images, which the first
        batch of a size shows; otherwise it gets them one by one.
        """
        if not len(images):
            return []
        frame = self._frame(images)
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            outputs = self._outputs(torch.stack([self._input(image, frame) for image in images]))
            return [_detached(read_candidates(self.read(output), frame, 1)) for output in outputs]

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Ways back to the features: windows where they are seen to give the exact gradient, else autograd through the module,
        another forward pass and a backward pass a detection."""
        if route not in ROUTES:
            raise unknown("route", route, ROUTES)
        if not len(detections):
            return
        check_rows(trace.candidates, detections.source)
        names = self.features if layer is None else (module_path(layer),)
        asked = self._ask(trace, detections) if set(names) <= set(self.features) else None
        levels = torch.full_like(detections.source, -1) if asked is None else asked.levels()
        if layer is None:
            named = trace.candidates.level[detections.source]
            # What the user's function says comes first.
            levels = torch.where(named < 0, levels, named)
        else:
            levels = torch.where(_named(trace, layer, levels), levels, -1)
        left = torch.ones_like(levels, dtype=torch.bool)
        if asked is not None and route != "exact" and not trace.differentiable:
            for pullback in asked.windows(levels):
                left[pullback.rows] = False
                yield pullback
        if left.any():
            yield from self._exact(trace, detections, left.nonzero()[:, 0], levels, layer)

    def branch_pullbacks(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """Ways back from keypoints, as from boxes; and from masks, which are made of all over the image, by autograd through the
        module: a mask is explained on the feature map where its mean logit's sum |gradient o features| is largest."""
        if branch != "mask":
            yield from self.pullbacks(trace, detections, layer, route, frozen_allowed=frozen_allowed)
            return
        if route not in ROUTES:
            raise unknown("route", route, ROUTES)
        if len(detections):
            check_rows(trace.candidates, detections.source)
            rows = torch.arange(len(detections), device=detections.source.device)
            yield from self._exact(trace, detections, rows, torch.full_like(detections.source, -1), layer, branch)

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        """With the masks, keypoints or corners of their candidates."""
        with torch.inference_mode(False), torch.no_grad():
            chosen = trace.candidates[detections.source]
            masks = None if chosen.masks is None else self._draw_masks(chosen, trace.frame)
            points, corners = (None if part is None else part.detach() for part in (chosen.keypoints, chosen.corners))
            return replace(detections, masks=masks, keypoints=points, corners=corners)

    def _draw_masks(self, candidates: Candidates, frame: Frame) -> Tensor:
        """The candidates' masks (n,H,W) in the image."""
        assert candidates.masks is not None  # asked for candidates with masks alone
        return masks_on_image(candidates.masks, frame)

    def _masks(self, output: Any, candidates: Candidates, frame: Frame) -> MaskLogits | None:
        """The candidates' masks, read off the network's output; by default those that came with them."""
        return candidates.masks

    def _ask(self, trace: Trace, detections: Detections) -> Asked | None:
        """What the detections are read from; None where the pass was not recorded."""
        if trace.differentiable and len(trace.features) > 1 and bool((trace.candidates.level < 0).any()):
            with suppress(Exception):  # a recorded pass of its own, to find the same levels that another trace would find
                trace = self._run_recorded(trace.image.detach())
        kept = self._kept(trace)
        return kept.ask(trace, detections) if isinstance(kept, Recorded) else None

    def _exact(
        self, trace: Trace, detections: Detections, rows: Tensor, levels: Tensor, layer: str | None, branch: str = ""
    ) -> Iterator[Pullback]:
        """The general route for some of the detections. levels: (N,) index into the features, -1 where it is to be found."""
        if trace.differentiable and layer is None:
            live, layers = trace, list(self._kept(trace))
        else:
            names = self.features if layer is None else [module_path(layer)]
            run = partial(self._run, trace.image, names, gradients=True, weights=trace.differentiable)
            # Somebody's backward pass from maps frees the graph.
            live, layers = run() if trace.differentiable else kept_or_made(trace.candidates, tuple(names), self.network, run)
        layers = layers if layer is None else choose_layers(layers, layer)
        source = same_rows(live.candidates, trace.candidates, detections.source)
        chosen = replace(detections, source=source)[rows]
        names = [layer.name for layer in layers]
        place = [names.index(feature.name) if feature.name in names else -1 for feature in trace.features]
        # The last entry is what index -1, a level that is not known, reads.
        level = torch.tensor([*place, -1], device=rows.device)[levels[rows]]
        open_rows = (level < 0).nonzero()[:, 0]
        if len(open_rows):
            level[open_rows] = self._strongest(trace, chosen[open_rows], layers, branch)
        for pullback in exact_pullbacks(live, chosen, layers, level):
            yield replace(pullback, rows=rows[pullback.rows])

    def _strongest(self, trace: Trace, detections: Detections, layers: Sequence[Layer], branch: str) -> Tensor:
        """(n,) for each detection the layer where its score's sum |gradient o features| is largest, or its mask's.

        Each layer is counted for what it gives to the head directly: of maps that lie in series, as a backbone's stages, the
        first would else be credited with all that passes through the later ones, and always win.
        """
        if len(layers) == 1:
            return torch.zeros_like(detections.source)
        names = list(dict.fromkeys(module_path(layer.name) for layer in layers))
        wanted = {layer.name for layer in layers}
        live, cut = self._run(trace.image, names, gradients=True, apart=True)
        values = leading_values(live, detections, leading_target(branch))
        return strongest_layers(values, [layer for layer in cut if layer.name in wanted])

    def _run(
        self, image: Tensor, names: Sequence[str], *, gradients: bool, weights: bool = False, apart: bool = False
    ) -> tuple[Trace, list[Layer]]:
        """A pass that records the modules `names`.

        Args:
            image: (C,H,W).
            names: Module paths.
            gradients: Whether there is a graph from the features on.
            weights: Whether the graph leads down to the network's weights.
            apart: As for `capture`.
        """
        frame = self._frame(image)
        frozen_here = frozen(self.network, weights=not weights)
        watched = capture(self.network, names, gradients=gradients, apart=apart)
        with frozen_here, twice_differentiable(weights), watched as captured:
            output = self._call(self._input(image, frame)[None])
            layers = [layer for name in names for layer in find_layers(name, captured[name], frame.network)]
            candidates = read_candidates(self.read(output), frame, len(layers))
            candidates = replace(candidates, masks=self._masks(output, candidates, frame))
            if tuple(names) == self.features:
                check_levels(candidates.level, layers)
        if gradients:
            self._check_connected(output, candidates, names)
        return self._trace(image, frame, candidates if gradients else _detached(candidates), layers, weights), layers

    def _run_recorded(self, image: Tensor) -> Trace:
        """A pass whose trace holds no graph, and the calls that a graph can be had from."""
        frame = self._frame(image)
        recorder = PassRecorder(self.features)
        with frozen(self.network), capture(self.network, self.features) as captured:
            canvas = self._input(image, frame)[None]
            with recorder.watching(self.network):
                output = self._call(canvas)
                answer = self.read(output)
            layers = [layer for name in self.features for layer in find_layers(name, captured[name], frame.network)]
            read = partial(read_candidates, frame=frame, levels=len(layers))
            candidates = read(answer)
            check_levels(candidates.level, layers)
            recorded = self._recorded(recorder, output, answer, read) if _connected(candidates) else None
            candidates = replace(candidates, masks=self._masks(output, candidates, frame))
        return replace(self._trace(image, frame, _detached(candidates), layers, False), state=recorded)

    def _recorded(self, recorder: PassRecorder, output: Any, answer: Any, read: Callable[[Any], Candidates]) -> Recorded | None:
        """What a trace keeps of a recorded pass, for gradients: of the network's output, and what was read off it."""
        return recorder.recorded(answer, read)

    def _trace(self, image: Tensor, frame: Frame, candidates: Candidates, layers: Sequence[Layer], graph: bool) -> Trace:
        with torch.inference_mode(False), torch.no_grad():
            detections = self._detections(candidates, frame)
        self._beside = parts_of(candidates)
        with recording(graph):
            features = tuple(layer.feature_map(graph=graph) for layer in layers)
        return Trace(image, frame, features, candidates, detections, differentiable=graph)

    def _detections(self, candidates: Candidates, frame: Frame) -> Detections:
        return self.suppression.detections(candidates, frame.image)

    def _frame(self, image: Tensor) -> Frame:
        return self.preparation.frame((image.shape[-2], image.shape[-1]))

    def _input(self, image: Tensor, frame: Frame) -> Tensor:
        canvas = self.preparation.canvas(image, frame)
        # Of the first floating-point weight: quantized networks hold integers, too.
        weight = next((weight for weight in self.network.parameters() if weight.is_floating_point()), canvas)
        return canvas.to(device_of(self.network), weight.dtype)

    def _call(self, canvas: Tensor) -> Any:
        """The network's output for its input (1,C,h,w)."""
        return self.network(canvas)

    def _outputs(self, canvases: Tensor) -> list[Any]:
        """The network's output for each canvas (B,C,h,w), as for a batch of one."""
        return self._batches(self.network, canvases)

    def _kept(self, trace: Trace) -> Any:
        """What a pass kept for its gradients."""
        return trace.state

    def _check_connected(self, output: Any, candidates: Candidates, names: Sequence[str]) -> None:
        if _connected(candidates):
            return
        live = any(tensor.requires_grad for tensor in tensors_in(output))
        raise self._cut_off(names, live)

    def _cut_off(self, names: Sequence[str], live: bool) -> GradientError:
        """The error for scores that do not depend on the layers `names`. live: whether the network's output does."""
        culprit = "candidates(), the function that reads the output," if live else "the module's forward"
        return GradientError(
            f"{culprit} cuts the scores off from {', '.join(names)}: a detach, .data, no_grad, an integer operation "
            "or checkpoint(use_reentrant=True) stands between"
        )


def _split_options(options: Mapping[str, Any]) -> tuple[Preparation, Suppression]:
    prepare, suppress = (tuple(field.name for field in fields(kind)) for kind in (Preparation, Suppression))
    for name in options:
        if name not in prepare + suppress:
            raise unknown("option", name, prepare + suppress)
    return (
        Preparation(**{name: options[name] for name in prepare if name in options}),
        Suppression(**{name: options[name] for name in suppress if name in options}),
    )


def _named(trace: Trace, layer: str, levels: Tensor) -> Tensor:
    """Whether the features' levels (N,) are among those that `layer` names, "neck" or "neck[0]"; -1 is not."""
    among = [layer in (feature.name, module_path(feature.name)) for feature in trace.features]
    # The last entry is what index -1 reads.
    return torch.tensor([*among, False], device=levels.device)[levels]


def _connected(candidates: Candidates) -> bool:
    return candidates.scores.requires_grad or candidates.boxes.requires_grad


def _detached(candidates: Candidates) -> Candidates:
    """Ordinary tensors without a graph, also from a forward that ran under inference_mode."""
    with torch.inference_mode(False), torch.no_grad():
        return Candidates(**{name: map_tensors(value, lambda t: t.detach().clone()) for name, value in vars(candidates).items()})
