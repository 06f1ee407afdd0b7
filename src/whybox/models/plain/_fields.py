"""What the user's function returned: its fields, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.models._layers import Layer
from whybox.types import Candidates


def read_fields(read: Any) -> dict[str, Any]:
    """What the user's function returned, by name; every value a tensor, or a mapping of tensors by name."""
    if isinstance(read, tuple | list) and len(read) in (2, 3):
        read = dict(zip(("boxes", "scores", "level"), read, strict=False))
    if not isinstance(read, Mapping):
        raise WhyboxError(
            f"candidates() must return (boxes, scores), (boxes, scores, level) or a dictionary, got {type(read).__name__}"
        )
    for name, value in read.items():
        _check_field(str(name), value)
    if missing := {"boxes", "scores"} - read.keys():
        raise WhyboxError(f"candidates() must return boxes and scores; {' and '.join(sorted(missing))} did not come")
    count = len(read["scores"])
    for name in read.keys() - {"boxes", "scores"}:
        for part in _parts(read[name]):
            if not part.ndim or len(part) != count:
                raise WhyboxError(f"candidates(): {name} has the shape {tuple(part.shape)}, and there are {count} scores")
    return dict(read)


def _check_field(name: str, value: Any) -> None:
    known = tuple(field.name for field in fields(Candidates))
    if name not in known:
        raise unknown("entry of candidates()", name, known)
    for part in _parts(value):
        if not isinstance(part, Tensor):
            raise WhyboxError(f"candidates(): {name} must be a torch tensor, got {type(part).__name__}")


def _parts(value: Any) -> list[Any]:
    """The tensors of one field of Candidates: of a mapping, its values; of None, none."""
    return list(value.values()) if isinstance(value, Mapping) else [] if value is None else [value]


def check_levels(level: Tensor, layers: Sequence[Layer]) -> None:
    """Refuse levels without a feature map, and those of a dense head whose maps are others than the named features; -1 in all
    rows says that the levels are not known."""
    if not len(level) or (level == -1).all():
        return
    if not 0 <= int(level.min()) <= int(level.max()) < len(layers):
        raise WhyboxError(
            f"candidates(): level runs from {int(level.min())} to {int(level.max())}, of {len(layers)} feature maps; name the "
            "maps of all levels in features=, in order, or leave level out"
        )
    rows = torch.bincount(level, minlength=len(layers)).tolist()
    cells = [features.shape[-2] * features.shape[-1] for features in (layer.features() for layer in layers)]
    # Levels of half the size each, all rows kept: there are as many rows per cell on every level, or these are other maps.
    dense = len(rows) > 1 and all(low and 2.5 < high / low < 6 for high, low in pairwise(rows))
    if dense and len({count / of for count, of in zip(rows, cells, strict=True)}) == 1 and rows[0] % cells[0]:
        raise WhyboxError(
            f"candidates(): level 0 has {rows[0]} rows, and {layers[0].name!r} has {cells[0]} cells: the named features are not "
            "the maps that the head's levels read; name those in features=, in order, or leave level out"
        )


def parts_of(candidates: Candidates) -> dict[str, int]:
    """What candidates have beside boxes, by name, and how many of it each has."""
    parts = {"keypoints": candidates.keypoints, "corners": candidates.corners}
    found = {name: part.shape[1] for name, part in parts.items() if part is not None}
    return found if candidates.masks is None else {**found, "masks": 1}
