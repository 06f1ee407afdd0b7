"""Some candidates of a pass read again, from their own cells alone: a hundred detections need no graph of 8400 candidates.

What the head's branches gave at the detections' cells goes once more through what follows, the head's own decoding among it.
It is held to the pass: what comes out otherwise is read the general way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whybox.frame import Size
from whybox.models.plain._reading import Reading, gradients_at
from whybox.models.plain._recorded import Asked, PassRecorder, Recorded
from whybox.models.plain._windows import Crops, Head, close
from whybox.models.ultralytics._head import own_grid
from whybox.ops.calls import Recording, fill, play
from whybox.ops.gradients import gradients_on
from whybox.types import Candidates, Detections, Trace


@dataclass(frozen=True)
class Decoding:
    """What a head makes of its raw outputs.

    network: Whose head it is. head: The head. read: Raw outputs by name, (1,channels,M) each, and "feats" -> what
    `Recorded.read` takes. anchors: (2,M) the cells' centers, and strides: (1,M), of the recorded pass.
    """

    network: nn.Module
    head: Any
    read: Callable[[Mapping[str, Any]], Any]
    anchors: Tensor
    strides: Tensor

    def at(self, columns: Tensor, raw: Mapping[str, Tensor], counts: list[int]) -> Any:
        """What `read` gives for some of the cells.

        Args:
            columns: (n,) the cells, among the M of all levels.
            raw: (1,channels,n) by name.
            counts: How many of the n are on each level.
        """
        stubs = [self.anchors.new_zeros((1, 1, 1, count)) for count in counts]
        with own_grid(self.network, self.head):
            # The head takes the grid that it has where its input has the shape that this was made for.
            self.head.shape = stubs[0].shape
            self.head.anchors, self.head.strides = self.anchors[:, columns], self.strides[:, columns]
            return self.read({**raw, "feats": stubs})


@dataclass(frozen=True)
class _Cells:
    """Where N candidates are, and the n cells that are read for them.

    level: (N,). place: (N,2) row and column. columns: (n,) the cells among those of all levels, level by level, at least one of
    each. counts: how many of the n are on each level. starts: (levels,) each level's first cell, among all. rows: (N,) each
    candidate's cell among the n, and within: (N,) among those of its level.
    """

    level: Tensor
    place: Tensor
    columns: Tensor
    counts: list[int]
    starts: Tensor
    rows: Tensor
    within: Tensor


@dataclass(frozen=True)
class NarrowRecorded(Recorded):
    """A recorded pass of a head that says how it decodes.

    branches: the calls from the feature maps to the raw outputs by name, (1,channels,M) each. decoding: what follows.
    """

    branches: Recording
    decoding: Decoding

    def ask(self, trace: Trace, detections: Detections) -> Asked | None:
        """The detections' candidates again, from their cells alone; as any network's where they do not come out as they did."""
        try:
            asked = self._ask_cells(trace, detections)
        except Exception:  # a head that was changed may fail in any way on a few cells
            asked = None
        return super().ask(trace, detections) if asked is None else asked

    def head(self, trace: Trace, level: int) -> Head:
        """The branches of one level alone."""
        return Recorded(self.branches, self.roots, self.read).head(trace, level)

    def _ask_cells(self, trace: Trace, detections: Detections) -> Asked | None:
        grids = [feature.grid for feature in trace.features]
        if sum(height * width for height, width in grids) != len(trace.candidates):
            return None
        with gradients_on():
            cells = _find_cells(detections.source.clone(), grids)
            leaves = self._leaves(cells)
            tensors = {index: leaf.clone() for index, leaf in leaves.items()}  # the network may change them in place
            play(self.branches.rest(), tensors)
            raw = fill(self.branches.outputs, tensors)
            candidates = self.read(self.decoding.at(cells.columns, raw, cells.counts))[cells.rows]
        if not _same(candidates, trace.candidates[detections.source]):
            return None
        roots = torch.tensor(self.roots, device=cells.level.device)[cells.level]
        reading = Reading(torch.arange(len(roots), device=roots.device), roots, cells.place, cells.place, {})
        return NarrowAsked(self, trace, detections, candidates, leaves, (reading,), cells)

    def _leaves(self, cells: _Cells) -> dict[int, Tensor]:
        """The raw outputs (1,channels,1,n of a level) at the cells, by index."""
        parts = dict(zip(self.roots, torch.split(cells.columns, cells.counts), strict=True))
        starts = dict(zip(self.roots, cells.starts.tolist(), strict=True))
        leaves = {}
        for index, values in self.branches.raw.items():
            (root,) = self.branches.roots[index]  # what mixes levels is refused
            leaves[index] = values.flatten(2)[..., None, parts[root] - starts[root]].detach().requires_grad_()
        return leaves


@dataclass(frozen=True)
class NarrowAsked(Asked):
    """N detections and their N candidates. leaves: what the branches gave at their cells. cells: which these are."""

    cells: _Cells

    def _rows(self, asked: Tensor) -> Candidates:
        return self.candidates[asked.clone()]

    def _seeds(self, values: Tensor, reading: Reading, rows: Tensor, crops: Crops) -> dict[int, Tensor]:
        own = {index: self.leaves[index] for index in crops.outputs}
        columns = self.cells.within[rows]
        return {index: gradient[0, :, 0, columns].T[:, None, None] for index, gradient in gradients_at(values.sum(), own).items()}


def narrow(recorded: Recorded, recorder: PassRecorder, raw: Mapping[str, Any], decoding: Decoding) -> Recorded:
    """The pass so that it can be read from a few cells; as it is where calls to the head's raw outputs are missing."""
    shape = (1, decoding.anchors.shape[-1])
    columns = {name: part for name, part in raw.items() if isinstance(part, Tensor) and part.shape[::2] == shape}
    branches = recorder.finish(columns)
    if recorder.broken:
        return recorded
    return NarrowRecorded(recorded.recording, recorded.roots, recorded.read, branches, decoding)


def _find_cells(source: Tensor, grids: list[Size]) -> _Cells:
    """Where the candidates `source` (N,) are, of levels whose rows are their cells."""
    sizes = torch.tensor([height * width for height, width in grids], device=source.device)
    starts = sizes.cumsum(0) - sizes
    level = torch.bucketize(source, starts, right=True) - 1
    widths = torch.tensor([width for _, width in grids], device=source.device)[level]
    cell = source - starts[level]
    columns, within, rows = [], torch.zeros_like(source), torch.zeros_like(source)
    counts: list[int] = []
    for number in range(len(grids)):
        mine = (level == number).nonzero()[:, 0]
        within[mine] = torch.arange(len(mine), device=source.device)
        rows[mine] = within[mine] + sum(counts)
        # A level without candidates still has one cell: heads cannot reshape what has no numbers.
        columns.append(source[mine] if len(mine) else starts[number : number + 1])
        counts.append(len(columns[-1]))
    place = torch.stack([cell // widths, cell % widths], 1)
    return _Cells(level, place, torch.cat(columns), counts, starts, rows, within)


def _same(live: Candidates, before: Candidates) -> bool:
    """Whether candidates came out as before, with a graph."""
    if not (live.scores.requires_grad or live.boxes.requires_grad):
        return False
    pairs = [(live.boxes, before.boxes), (live.scores, before.scores)]
    pairs += [(live.raw[name], values) for name, values in before.raw.items()]
    for name in ("logits", "keypoints", "corners"):
        if getattr(before, name) is not None:
            pairs.append((getattr(live, name), getattr(before, name)))
    return all(bool(close(one.detach(), other).all()) for one, other in pairs)
