"""A pass through the network, recorded from its feature maps on: what gradients need later, without a graph in memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from whybox.models.plain._reading import Reading, find_readings, gradients_at
from whybox.models.plain._windows import Crops, Head, crop
from whybox.ops.calls import Recorder, Recording, fill, play
from whybox.ops.gradients import check_connected, gradients_on
from whybox.ops.hooks import feature_tensors, submodule
from whybox.pullback import WindowPullback
from whybox.types import Candidates, Detections, Trace


@dataclass(frozen=True)
class Recorded:
    """recording: the calls from the feature maps to what the user's function returned. roots: the maps' indices in it, level by
    level. read: what the user's function returned -> Candidates."""

    recording: Recording
    roots: tuple[int, ...]
    read: Callable[[Any], Candidates]

    def ask(self, trace: Trace, detections: Detections) -> "Asked | None":
        """The candidates again, with a graph that ends at the raw outputs; None where they do not come out as they did."""
        raw = self.recording.raw
        with gradients_on():
            leaves = {index: values.detach().requires_grad_() for index, values in raw.items()}
            tensors = {index: leaf.clone() for index, leaf in leaves.items()}  # the network may change them in place
            try:
                play(self.recording.rest(), tensors)
                candidates = self.read(fill(self.recording.outputs, tensors))
                # Randomness, or state that the calls change, shows here.
                if not _again(candidates, trace.candidates, detections.source):
                    return None
                readings = tuple(find_readings(candidates, detections.source, leaves, self.recording.roots))
            except Exception:  # calls that cannot be made twice may fail in any way; the exact route is left
                return None
        return Asked(self, trace, detections, candidates, leaves, readings)

    def head(self, trace: Trace, level: int) -> Head:
        """The local calls from one feature map."""
        root = self.roots[level]
        raw = {index: values for index, values in self.recording.raw.items() if self.recording.roots[index] == {root}}
        return Head(self.recording.local(root), root, trace.features[level].values, raw)


@dataclass(frozen=True)
class Asked:
    """N detections of a recorded pass, and what they are read from. leaves: the raw outputs, by index."""

    recorded: Recorded
    trace: Trace
    detections: Detections
    candidates: Candidates
    leaves: Mapping[int, Tensor]
    readings: tuple[Reading, ...]

    def levels(self) -> Tensor:
        """(N,) the feature map that all raw outputs behind a detection are computed from; -1 where that is not one."""
        levels = torch.full_like(self.detections.source, -1)
        for reading in self.readings:
            for level, root in enumerate(self.recorded.roots):
                levels[reading.rows[reading.root == root]] = level
        return levels

    def windows(self, levels: Tensor) -> Iterator[WindowPullback]:
        """Pullbacks to the levels (N,), for the detections for which windows give the exact gradient."""
        for level, root in enumerate(self.recorded.roots):
            head = self.recorded.head(self.trace, level)
            for reading in self.readings:
                rows = ((reading.root == root) & (levels[reading.rows] == level)).nonzero()[:, 0]
                crops = crop(head, reading.low[rows], reading.high[rows]) if len(rows) else None
                kept = crops.same(head.raw).nonzero()[:, 0] if crops is not None else rows[:0]
                if crops is not None and len(kept):
                    yield self._pullback(reading, rows, level, crops, kept)

    def _pullback(self, reading: Reading, rows: Tensor, level: int, crops: Crops, kept: Tensor) -> WindowPullback:
        """kept: (m,) which of the rows (n,) the pullback is for."""
        asked = reading.rows[rows[kept]]
        with gradients_on():
            narrowed = self.trace.rows(self._rows(asked), self.detections[asked])
        feature = self.trace.features[level]

        def backward(values: Tensor) -> Tensor:
            check_connected(values)
            with gradients_on():
                seeds = self._seeds(values, reading, rows, crops)
            return crops.gradient(seeds)[kept]

        return WindowPullback(
            asked, narrowed, "windows", feature.stride, feature.values, backward, crops.origin[kept], feature.name
        )

    def _rows(self, asked: Tensor) -> Candidates:
        """The candidates of the detections `asked` (m,), with their graph."""
        return self.candidates[self.detections.source[asked]]

    def _seeds(self, values: Tensor, reading: Reading, rows: Tensor, crops: Crops) -> dict[int, Tensor]:
        """The gradient of values (m,) at the raw outputs that crops were run for, as `Crops.gradient` takes it."""
        # Cells of a crop may be another row's: their gradient is that row's.
        return {
            index: crops.at_cells(gradient[0]) * (crops.at_cells(reading.owner[index]) == rows[:, None, None, None])
            for index, gradient in gradients_at(values.sum(), {i: self.leaves[i] for i in crops.outputs}).items()
        }


class PassRecorder(Recorder):
    """Records a pass from the outputs of some modules on. roots: what `Recorder.start` gave, by module, in order of calls."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.roots: dict[str, list[int]] = {name: [] for name in names}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Inside, passes are recorded, and a graph that they build is not fit for going back: it keeps no values."""
        handles = []

        def watch(name: str) -> None:
            def start(part: nn.Module, args: Any, output: Any) -> None:
                self.roots[name] += [self.start(tensor) for tensor in feature_tensors(output)]

            handles.append(submodule(network, name).register_forward_hook(start))

        try:
            for name in self.roots:
                watch(name)
            # The graph is there to tell what is connected: what it keeps for a backward pass would fill the memory.
            with self, saved_tensors_hooks(_forget, _remember):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def recorded(self, answer: Any, read: Callable[[Any], Candidates]) -> Recorded | None:
        """The pass, for what the user's function returned and its way to Candidates; None where a gradient cannot be had."""
        recording = self.finish(answer)
        roots = tuple(root for name in self.roots for root in self.roots[name])
        return None if self.broken or not recording.raw else Recorded(recording, roots, read)


def _forget(tensor: Tensor) -> None:
    return None


def _remember(nothing: None) -> Tensor:
    raise RuntimeError("the network goes back through its own graph")


def _again(live: Candidates, before: Candidates, source: Tensor) -> bool:
    """Whether the rows came out as before, with a graph."""
    if len(live) != len(before) or not (live.scores.requires_grad or live.boxes.requires_grad):
        return False
    pairs = ((live.scores, before.scores), (live.boxes, before.boxes))
    return all(torch.allclose(one.detach()[source], other[source], rtol=1e-4) for one, other in pairs)
