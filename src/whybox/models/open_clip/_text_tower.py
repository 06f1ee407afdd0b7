"""open_clip's text towers layer by layer: CLIP's, on the model itself or as a module of its own, and CoCa's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import Transformer
from whybox.models.open_clip._blocks import block_layers
from whybox.models.open_clip._vision_tower import refused


@dataclass(frozen=True)
class TextTower:
    """A text tower.

    Attributes:
        transformer: The encoder layer by layer; None where this is not supported.
        context: The number of tokens that it takes; 0 where the tokenizer determines it.
        vocabulary: The size of its vocabulary.
        rows: ids (T,N) -> (T,) the position that is read.
        appended: The number of tokens that the tower appends to a text.
        trims: Whether padding beyond the longest text can be dropped without changing an embedding.
    """

    transformer: Transformer | None
    context: int
    vocabulary: int
    rows: Callable[[Tensor], Tensor]
    appended: int = 0
    trims: bool = False


def text_tower(net: Any) -> TextTower:
    """The text tower of a CLIP (the model itself), a CustomTextCLIP or a CoCa."""
    tower = getattr(net, "text", net)
    if type(tower).__name__ == "HFTextEncoder":
        return TextTower(None, 0, tower.vocab_size, _first)
    if not hasattr(tower.transformer, "resblocks"):
        raise refused(f"a text tower of {type(tower.transformer).__name__}")
    pool = tower.text_pool_type if tower is net else tower.pool_type
    # open_clip 3.0 does not pool by "eos" yet.
    end = getattr(tower, "text_eos_id" if tower is net else "eos_id", 0)
    appended = 0 if getattr(tower, "cls_emb", None) is None else 1
    mask = _mask_on_model(tower) if tower is net else _mask_in_tower(tower)
    projection = tower.text_projection
    # A projection that is a parameter of the tower itself has no module to be frozen or widened by.
    held = nn.ParameterList([projection]) if isinstance(projection, nn.Parameter) else projection
    used = (tower.ln_final,) if held is None else (tower.ln_final, held)
    transformer = Transformer(block_layers(tower.transformer), mask, _reader(tower), used)
    # The causal mask hides padding from a position before it; an appended class token, or the last position, comes after it.
    trims = tower.attn_mask is not None and not appended and pool in ("argmax", "first", "eos")
    return TextTower(
        transformer, tower.context_length, tower.token_embedding.num_embeddings, _rows(pool, end, appended), appended, trims
    )


def _mask_on_model(net: Any) -> Callable[[Tensor], Tensor | None]:
    """The mask of a CLIP that is its own text tower; ids (T,N) may be shorter than its context."""
    return lambda ids: _as_mask(net.attn_mask, *ids.shape[:2])


def _mask_in_tower(tower: Any) -> Callable[[Tensor], Tensor | None]:
    def mask(ids: Tensor) -> Tensor | None:
        # open_clip builds the mask of padding and of an appended class token together with the embeddings.
        tokens, additive = tower._embeds(ids)
        return _as_mask(additive, *tokens.shape[:2])

    return mask


def _as_mask(mask: Tensor | None, batch: int, count: int) -> Tensor | None:
    """(N',N') for all items, or (B*heads,N,N) equal for all heads -> (1 or B,1,N,N)."""
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask[None, :count, :count]
        batch = 1
    return mask.reshape(batch, -1, count, count)[:, :1]


def _reader(tower: Any) -> Callable[[Tensor], Tensor]:
    def read(rows: Tensor) -> Tensor:
        row = tower.ln_final(rows[:, 0])
        projection = tower.text_projection
        if projection is None:
            return row  # type: ignore[no-any-return]
        return projection(row) if isinstance(projection, nn.Linear) else row @ projection  # type: ignore[no-any-return]

    return read


def _rows(pool: str, end: int, appended: int) -> Callable[[Tensor], Tensor]:
    """The position that is read. A class token that the tower appends overrides the pooling: it is the last token."""
    known = {
        "argmax": lambda ids: ids.argmax(-1),
        "eos": lambda ids: (ids == end).int().argmax(-1),
        "last": _last,
        "first": _first,
    }
    if appended:
        return lambda ids: _last(ids) + appended
    if pool not in known:
        raise refused(f"a text tower that pools by {pool!r}")
    return known[pool]


def _last(ids: Tensor) -> Tensor:
    return torch.full_like(ids[:, 0], ids.shape[1] - 1)


def _first(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids[:, 0])
