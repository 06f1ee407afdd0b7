"""The loop that rules share which keep or remove: from the highest score down, what is kept removes others."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from whybox.rule import Suppressed

Remover = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows (b,), later rows (m,), the IoU of each pair (b,m)) -> whether the first would remove the second (b,m), and their
similarity (b,m), NaN where there is none."""

_BLOCK = 256
"""Rows that are compared with all later ones at once."""


def keep_in_order(boxes: Tensor, scores: Tensor, groups: Tensor, removes: Remover) -> Suppressed:
    """Go through the candidates from the highest score down, group by group; each that is left is kept, and removes others.

    Args:
        boxes: (N,4) xyxy.
        scores: (N,). Equal scores are taken in the order of the input, as torchvision does.
        groups: (N,).
        removes: Decides which later candidates a kept one removes.

    Returns:
        What was kept, and why the others were not.
    """
    by = torch.full_like(groups, -1, dtype=torch.long)
    iou = torch.full_like(scores, torch.nan, dtype=torch.float32)
    similarity = iou.clone()
    for rows in by_group(scores, groups):
        # Of the group's rows in this order, which one removed each; -1: none yet.
        taken = np.full(len(rows), -1)
        for start in range(0, len(rows), _BLOCK):
            stop = min(start + _BLOCK, len(rows))
            # Rows that are gone already need not be compared, neither as the first nor as the second of a pair.
            left = np.flatnonzero(taken[start:] < 0) + start
            others = torch.as_tensor(left, device=rows.device)
            mine = others[: int((left < stop).sum())]
            # NaN for two boxes without area.
            overlap = box_iou(boxes[rows[mine]].float(), boxes[rows[others]].float()).nan_to_num()
            would, alike = removes(rows[mine], rows[others], overlap)
            pair = _first_removers(would.cpu().numpy(), len(mine))
            gone = torch.as_tensor(np.flatnonzero(pair >= 0), device=rows.device)
            first = torch.as_tensor(pair, device=rows.device)[gone]
            taken[left[gone.cpu().numpy()]] = start
            lost = rows[others[gone]]
            by[lost], iou[lost] = rows[mine[first]], overlap[first, gone]
            similarity[lost] = alike[first, gone].float()
    kept = (by < 0).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return Suppressed(kept, scores[kept], by, iou, similarity)


def _first_removers(would: "np.ndarray[Any, np.dtype[np.bool_]]", count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Which of the first `count` rows removes each of the m rows, in this order: (m,), -1 for none.

    Args:
        would: (count,m) whether row i would remove row j, if it is kept itself.
        count: Rows that may remove others.
    """
    removed = np.full(would.shape[1], -1)
    for row in range(count):
        if removed[row] < 0:
            later = would[row, row + 1 :] & (removed[row + 1 :] < 0)
            removed[row + 1 :][later] = row
    return removed


def by_group(scores: Tensor, groups: Tensor) -> Iterator[Tensor]:
    """The rows of each group, highest scores first."""
    order = scores.argsort(descending=True, stable=True)
    for group in torch.unique(groups):
        yield order[groups[order] == group]
