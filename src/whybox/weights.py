"""Load weights from a file: safetensors, or a state dict that loads without running code (weights_only)."""

import logging
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
AVERAGES = ("ema", "average")
"""Entries and prefixes that hold one of these are averages of the weights: a file with both means the plain weights."""
REPARAMETRIZED = re.compile(r"\.?(weight_g|weight_v|weight_orig|parametrizations\.\w+\.original\d*)$")
"""Names under which torch keeps what a weight is computed from: weight and spectral normalization, pruning, parametrizations."""
DEEPEST = 4


class _Reading(NamedTuple):
    """One way to read a file's weights.

    Attributes:
        weights: Tensors by the names that remain.
        stripped: What was left off the names.
        left_out: Names of the file that belong to other parts than the network.
    """

    weights: dict[str, Tensor]
    stripped: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether its names say that it is an average of the weights."""
        return any(word in text.lower() for text in self.stripped for word in AVERAGES)

    @property
    def place(self) -> str:
        """Where in the file it lies."""
        return ", ".join(self.stripped) or "the names without a prefix"


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Load a file's weights into a network. Nothing is changed unless every weight is present, fits and is finite.

    The weights may lie in an entry of a checkpoint ("model", "state_dict", "ema" ...), have a prefix before all names
    ("module.", "model." ...), and stand beside those of other parts ("loss.weight"): what fits the network exactly is taken,
    and a log line says what was left off and left out.

    Args:
        network: The network to load into.
        path: A safetensors file, or a checkpoint that torch loads with weights_only.

    Returns:
        What was left off the names and left out of the file, in one line; "" for nothing.

    Raises:
        WeightsError: The file cannot be read, its weights do not fit, or several of its parts do.
    """
    path = Path(path)
    own = network.state_dict()
    readings = [reading for state in _find_states(read_weights(path)) for reading in _readings(state, own)]
    if not readings:
        raise WeightsError(f"{path}: expected a state dict of tensors by name")
    fitting = [reading for reading in readings if _fits(reading.weights, own)]
    if not fitting:
        raise _misfit(path, network, own, readings)
    chosen, others = _choose(path, network, fitting)
    for name, value in chosen.weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity")
    network.load_state_dict(chosen.weights)
    words = _what_was_done(chosen, others)
    if not words:
        return ""
    note = f"{path}: {words}"
    log.warning(note)
    return note


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> bool:
    return weights.keys() == own.keys() and all(value.shape == own[name].shape for name, value in weights.items())


def _choose(path: Path, network: nn.Module, fitting: Sequence[_Reading]) -> tuple[_Reading, list[_Reading]]:
    """The reading to take, and those that fit as well and hold other numbers."""
    chosen = next((reading for reading in fitting if not reading.averaged), fitting[0])
    others = [reading for reading in fitting if reading is not chosen and not _equal(reading.weights, chosen.weights)]
    rivals = [reading for reading in others if reading.averaged == chosen.averaged]
    if rivals:
        places = "; ".join(reading.place for reading in (chosen, *rivals))
        raise WeightsError(
            f"{path}: {1 + len(rivals)} parts of it fit {type(network).__name__} and differ ({places}): save the one that is "
            "meant in a file of its own"
        )
    return chosen, others


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def _what_was_done(chosen: _Reading, others: Sequence[_Reading]) -> str:
    """What was left off, left out and not taken; "" for nothing."""
    pieces = [f"left off the names of the weights: {', '.join(chosen.stripped)}"] if chosen.stripped else []
    if chosen.left_out:
        pieces.append(f"left out, as no part of the network: {_some(chosen.left_out)}")
    if others:
        kind = "an average of the weights that fits as well" if others[0].averaged else "weights that fit as well"
        pieces.append(f"not taken, {kind}: {'; '.join(reading.place for reading in others)}")
    return "; ".join(pieces)


def _misfit(path: Path, network: nn.Module, own: Mapping[str, Any], readings: Sequence[_Reading]) -> WeightsError:
    """The differences of the reading that fits best."""
    weights = min(readings, key=lambda reading: len(own.keys() ^ reading.weights.keys())).weights
    kind = type(network).__name__
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        differences = [f"missing {_some(missing)}"] if missing else []
        differences += [f"not known to the network {_some(extra)}"] if extra else []
        return WeightsError(f"{path}: the weights do not fit {kind}: {'; '.join(differences)}{_hint(missing, extra)}")
    name = next(name for name, value in weights.items() if value.shape != own[name].shape)
    return WeightsError(f"{path}: {name} is {tuple(weights[name].shape)}, {kind} expects {tuple(own[name].shape)}")


def _hint(missing: Sequence[str], extra: Sequence[str]) -> str:
    """What to do where a weight is computed from others (weight normalization, pruning) on one side alone."""
    if any(map(REPARAMETRIZED.search, extra)):
        return (
            ". The file holds what a weight is computed from (weight_norm, spectral_norm, pruning): put the same on the network "
            "before loading, or save the file again after torch.nn.utils' remove_weight_norm or remove_parametrizations"
        )
    if any(map(REPARAMETRIZED.search, missing)):
        return (
            ". The network computes a weight from others (weight_norm, spectral_norm, pruning) and the file holds the weight: "
            "load the file first, and put the normalization on afterwards"
        )
    return ""


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
    """Every mapping of tensors alone, itself or in an entry; `inside` names the entries."""
    if not isinstance(content, Mapping) or len(inside) > DEEPEST:
        return
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield _Reading(dict(content), tuple(f"the entry {entry!r}" for entry in inside))
        return
    for key in filter(_is_text, content):
        yield from _find_states(content[key], (*inside, key))


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _readings(state: _Reading, own: Mapping[str, Any]) -> Iterator[_Reading]:
    """The state dict as it is, with what wrappers put around its names left off, and its parts."""
    weights, stripped, _ = state
    if AVERAGED in weights and AVERAGED not in own:
        weights, stripped = {name: value for name, value in weights.items() if name != AVERAGED}, (*stripped, f"{AVERAGED!r}")
    yield from _parts(_Reading(weights, stripped), own)
    if any(COMPILED in name.split(".") for name in weights):
        shorter = {".".join(part for part in name.split(".") if part != COMPILED): value for name, value in weights.items()}
        # Otherwise two names have become one, and one of the tensors would be lost.
        if len(shorter) == len(weights) and not any(COMPILED in name.split(".") for name in own):
            yield from _parts(_Reading(shorter, (*stripped, f"{COMPILED!r}")), own)


def _parts(state: _Reading, own: Mapping[str, Any]) -> Iterator[_Reading]:
    """The state dict, and what remains of it under each prefix that holds all names of the network, or the most of them."""
    # Any prefix may go, as a wrapper's attribute has any name: what remains has to be the network's names exactly.
    prefixes = Counter(prefix for name in state.weights for prefix, rest in _splits(name) if rest in own)
    whole = [prefix for prefix, count in prefixes.items() if count == len(own)]
    broken: list[str] = []
    for prefix in sorted(dict.fromkeys(["", *(whole or [prefix for prefix, _ in prefixes.most_common(1)])])):
        # A copy inside (model.ema.*) is a part of its own; one inside of what does not fit is not taken in its stead.
        if any(prefix.startswith(outer) for outer in broken):
            continue
        others = tuple(other for other in whole if other != prefix and not prefix.startswith(other))
        under = [name for name in state.weights if name.startswith(prefix) and not name.startswith(others)]
        weights = {name.removeprefix(prefix): state.weights[name] for name in under}
        if prefix in whole and weights.keys() != own.keys():
            broken.append(prefix)
        left_out = [name for name in state.weights if not name.startswith(prefix) and not name.startswith(tuple(whole))]
        left_off = (*state.stripped, f"the prefix {prefix!r}") if prefix else state.stripped
        yield _Reading(weights, left_off, tuple(left_out))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every division of a name at a dot, and the whole name."""
    places = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
    return ((name[:place], name[place:]) for place in places)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
