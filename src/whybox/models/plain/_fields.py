"""What the user's function returned: its fields, checked, and the candidates that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from whybox.errors import WhyboxError, unknown
from whybox.frame import Frame
from whybox.models._layers import Layer
from whybox.types import Candidates, MaskLogits


def read_candidates(answer: Any, frame: Frame, levels: int) -> Candidates:
    """What the user's function returned, checked, with boxes in image pixels."""
    given = _read_fields(answer)
    boxes, scores = given.pop("boxes"), given.pop("scores")
    scores = scores[:, None] if scores.ndim == 1 else scores
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 2 or len(scores) != len(boxes):
        shapes = f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
        raise WhyboxError(f"candidates() must return boxes (M, 4) and scores (M, K) without a batch axis, got {shapes}")
    level = given.pop("level", None)
    if level is None:  # with one level it is known; with several, -1 says that it is not
        level = torch.full((len(boxes),), 0 if levels == 1 else -1, device=boxes.device)
    # Half precision is too coarse for pixels.
    wide = torch.promote_types(boxes.dtype, torch.float32)
    try:
        if (points := given.pop("keypoints", None)) is not None:
            places = frame.points_to_image(points[..., :2].to(wide))
            given["keypoints"] = torch.cat([places, points[..., 2:].to(wide)], -1)
        if (corners := given.pop("corners", None)) is not None:
            given["corners"] = frame.points_to_image(corners.to(wide))
        if (masks := given.pop("masks", None)) is not None:
            given["masks"] = MaskLogits(masks)
        return Candidates(frame.boxes_to_image(boxes.to(wide)), scores.to(wide), level.long(), **given)
    except ValueError as error:
        raise WhyboxError(f"candidates(): {error}") from error


def _read_fields(read: Any) -> dict[str, Any]:
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
