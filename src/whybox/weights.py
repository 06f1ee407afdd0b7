"""Load weights from a file: safetensors, or a state dict that loads without running code (weights_only)."""

import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whybox.errors import WeightsError

log = logging.getLogger(__name__)

COMPILED = "_orig_mod"
"""What torch.compile puts into names, before those of each compiled part."""
AVERAGED = "n_averaged"
"""The counter that torch's AveragedModel keeps beside the weights."""
LAST = ("ema", "average", "teacher")
"""Entries whose names hold one of these are taken only if no other fits: a file with both means the plain weights."""
DEEPEST = 4


class _Reading(NamedTuple):
    """One way to read a file's weights: tensors by the names that remain, and what was left off the names."""

    weights: dict[str, Tensor]
    stripped: tuple[str, ...]


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Load a file's weights into a network. Nothing is changed unless every weight is present, fits and is finite.

    The weights may lie in an entry of a checkpoint ("model", "state_dict", "ema" ...) and have a prefix before all names
    ("module.", "model." ...); these are left off if all names then fit, and a log line says so.

    Args:
        network: The network to load into.
        path: A safetensors file, or a checkpoint that torch loads with weights_only.

    Returns:
        What was left off the names, in one line; "" for nothing.

    Raises:
        WeightsError: The file cannot be read, or its weights do not fit.
    """
    path = Path(path)
    own = network.state_dict()
    readings = [reading for state in _find_states(read_weights(path)) for reading in _readings(state)]
    if not readings:
        raise WeightsError(f"{path}: expected a state dict of tensors by name")
    # The reading that fits best, also where none fits: its differences are the ones to report.
    weights, stripped = min(readings, key=lambda reading: len(own.keys() ^ reading.weights.keys()))
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        differences = [f"missing {_some(missing)}"] if missing else []
        differences += [f"not known to the network {_some(extra)}"] if extra else []
        raise WeightsError(f"{path}: the weights do not fit {type(network).__name__}: {'; '.join(differences)}")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{path}: {name} is {tuple(value.shape)}, {type(network).__name__} expects {tuple(own[name].shape)}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity")
    network.load_state_dict(weights)
    if not stripped:
        return ""
    note = f"{path}: left off the names of the weights: {', '.join(stripped)}"
    log.warning(note)
    return note


def read_weights(path: Path) -> Any:
    """Read a file of weights.

    Args:
        path: A safetensors file, or one that torch loads with weights_only.

    Returns:
        Its content: tensors by name, or a checkpoint that holds them somewhere.

    Raises:
        WeightsError: It cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        # On the CPU: the device that the file was written on may not be here.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(f"{path}: neither safetensors nor a state dict of tensors alone; save it as safetensors") from None
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as weights ({first})") from error


def _find_states(content: Any, inside: tuple[str, ...] = ()) -> Iterator[_Reading]:
    """Every mapping of tensors alone, itself or in an entry, those of averaged weights last; `inside` names the entries."""
    if not isinstance(content, Mapping) or len(inside) > DEEPEST:
        return
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield _Reading(dict(content), tuple(f"the entry {entry!r}" for entry in inside))
        return
    for key in sorted(filter(_is_text, content), key=lambda key: any(word in key.lower() for word in LAST)):
        yield from _find_states(content[key], (*inside, key))


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _readings(state: _Reading) -> Iterator[_Reading]:
    """The state dict as it is, and with what may have been put around its names left off."""
    yield state
    weights, stripped = state
    if any(COMPILED in name.split(".") for name in weights):
        shorter = {".".join(part for part in name.split(".") if part != COMPILED): value for name, value in weights.items()}
        # Otherwise two names have become one, and one of the tensors would be lost.
        if len(shorter) == len(weights):
            weights, stripped = shorter, (*stripped, f"{COMPILED!r}")
            yield _Reading(weights, stripped)
    if AVERAGED in weights:
        weights, stripped = {name: value for name, value in weights.items() if name != AVERAGED}, (*stripped, f"{AVERAGED!r}")
        yield _Reading(weights, stripped)
    # Any common prefix may go, as a wrapper's attribute has any name: what remains has to be the network's names exactly.
    prefix = ""
    while weights and all("." in name for name in weights) and len(first := {name.split(".")[0] for name in weights}) == 1:
        prefix += f"{first.pop()}."
        weights = {name.partition(".")[2]: value for name, value in weights.items()}
        yield _Reading(weights, (*stripped, f"the prefix {prefix!r}"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
