"""Which of the network's raw outputs each candidate is read from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from whybox.types import Candidates

_CHUNK_ROWS = 128
# Two digits spell all _CHUNK_ROWS, and the largest power, 2**15, is far from an overflow.
_DIGIT = 16
_REACH = 5
"""Cells, down and across, within which a row must be read; and what is wider has no window."""


@dataclass(frozen=True)
class Reading:
    """n rows, no two of which are read from the same number.

    rows: (n,) positions among the rows asked for. root: (n,) what the raw outputs behind a row are computed from, -1 where
    that is nothing, several feature maps, or more than a few cells. low, high: (n,2) first and last cell (row, column).
    owner: for each raw output (C,h,w), the row that reads a number: its position among the n, or -1.
    """

    rows: Tensor
    root: Tensor
    low: Tensor
    high: Tensor
    owner: Mapping[int, Tensor]


def find_readings(
    candidates: Candidates, source: Tensor, raw: Mapping[int, Tensor], roots: Mapping[int, frozenset[int]]
) -> Iterator[Reading]:
    """What the candidates `source` (N,) are read from, in groups that do not share a number; every row comes once.

    candidates: computed from the tensors `raw` (1,C,h,w), with a graph. roots: of each of these.
    """
    values = _mix(candidates, source)
    for rows in _without_repeats(source):
        for chunk in torch.split(rows, _CHUNK_ROWS):
            yield from _split(values, chunk, raw, roots)


def _mix(candidates: Candidates, source: Tensor) -> Tensor:
    """(N,) one number for each row that depends on all that its boxes, scores and other fields depend on."""
    parts = [candidates.boxes, candidates.scores, *candidates.raw.values(), *candidates.factors.values()]
    # Not its masks, which are read from all over the image, and have pullbacks of their own.
    parts += [part for part in (candidates.logits, candidates.keypoints, candidates.corners) if part is not None]
    flat = torch.cat([part[source].reshape(len(source), -1) for part in parts if part.requires_grad], 1)
    # Random factors, so that what reaches two outputs does not cancel; from 0.5 on, so that none is lost in rounding; the same
    # ones in every pass.
    random = torch.rand(flat.shape[1], generator=torch.Generator().manual_seed(0)) + 0.5
    return flat @ random.to(flat)


def _without_repeats(source: Tensor) -> Iterator[Tensor]:
    """Positions in `source`, in groups in which no row comes twice."""
    groups: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, row in enumerate(source.tolist()):
        turn = seen[row] = seen.get(row, -1) + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(position)
    for group in groups:
        yield torch.tensor(group, device=source.device)


def _split(values: Tensor, rows: Tensor, raw: Mapping[int, Tensor], roots: Mapping[int, frozenset[int]]) -> Iterator[Reading]:
    """The rows in halves, and these in halves, until no two of a group share a number."""
    chosen = values[rows]
    ones = gradients_at(chosen.sum(), raw)
    if not ones or _dense(ones, len(rows)):
        none = torch.full_like(rows, -1)
        yield Reading(rows, none, none[:, None].expand(-1, 2), none[:, None].expand(-1, 2), {})
        return
    owner = _owners(chosen, ones, raw)
    if owner is not None:
        yield _describe(rows, owner, roots)
        return
    half = (len(rows) + 1) // 2
    yield from _split(values, rows[:half], raw, roots)
    yield from _split(values, rows[half:], raw, roots)


def _dense(ones: Mapping[int, Tensor], count: int) -> bool:
    return any(int(gradient.any(1).sum()) > count * _REACH**2 for gradient in ones.values())


def _owners(values: Tensor, ones: Mapping[int, Tensor], raw: Mapping[int, Tensor]) -> dict[int, Tensor] | None:
    """For each raw output, which row reads a number; None where rows share one.

    Row i is weighted with powers of two that spell i. A number's gradient grows by its row's power, and by none where rows
    are mixed in it; multiplying by a power of two rounds nothing, so that the comparison is exact.
    """
    position = torch.arange(len(values), device=values.device)
    cells = {index: gradient[0].any(0) for index, gradient in ones.items()}
    found = {index: torch.zeros(len(raw[index][0]), int(cells[index].sum()), dtype=torch.int16) for index in ones}
    for step in (1, _DIGIT):
        digit = position // step % _DIGIT
        weighted = gradients_at((values * 2.0**digit).sum(), raw)
        for index, gradient in ones.items():
            once, grown = gradient[0][:, cells[index]], weighted[index][0][:, cells[index]]
            read = once != 0
            # A number that no row reads would give 0 / 0.
            power = torch.where(read, (grown / once).log2().round(), 0)
            elsewhere = weighted[index][0].any(0) & ~cells[index]
            # Not a power of two: several rows read the number.
            if not torch.equal(once * 2.0**power, grown) or bool(elsewhere.any()):
                return None
            found[index] = torch.where(read, found[index].to(power.device) + power.short() * step, -1)
    owner = {index: torch.full(raw[index].shape[1:], -1, dtype=torch.int16, device=values.device) for index in ones}
    for index, owners in owner.items():
        owners[:, cells[index]] = found[index]
    return owner


def _describe(rows: Tensor, owner: Mapping[int, Tensor], roots: Mapping[int, frozenset[int]]) -> Reading:
    count = len(rows)
    low = torch.full((count, 2), torch.iinfo(torch.long).max, device=rows.device)
    high = torch.full((count, 2), -1, device=rows.device)
    unset, several = -1, -2
    root = torch.full_like(rows, unset)
    for index, owners in owner.items():
        cells = (owners >= 0).any(0).nonzero()
        mine = owners[:, cells[:, 0], cells[:, 1]].long().T
        number, channel = (mine >= 0).nonzero(as_tuple=True)
        of, places = mine[number, channel], cells[number]
        low = low.scatter_reduce(0, of[:, None].expand(-1, 2), places, "amin")
        high = high.scatter_reduce(0, of[:, None].expand(-1, 2), places, "amax")
        here = min(roots[index]) if len(roots[index]) == 1 else several
        reads = torch.zeros(count, dtype=torch.bool, device=rows.device)
        reads[of] = True
        root[reads & (root != unset) & (root != here)] = several
        root[reads & (root == unset)] = here
    wide = (high - low >= _REACH).any(1)
    return Reading(rows, torch.where(wide | (root < 0), -1, root), low, high, owner)


def gradients_at(value: Tensor, raw: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Of one number, at the raw outputs that it depends on."""
    found = torch.autograd.grad(value, list(raw.values()), retain_graph=True, allow_unused=True)
    return {index: gradient for index, gradient in zip(raw, found, strict=True) if gradient is not None}
