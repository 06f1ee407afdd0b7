"""Weights from a file into a network: safetensors, or a state dict that loads without running code."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from whybox.errors import WeightsError


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill the network from a file; every weight must be there, fit, and be finite, else nothing is changed."""
    state = read_weights(Path(path))
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        told = [f"missing {_some(missing)}"] if missing else []
        told += [f"not known to the network {_some(extra)}"] if extra else []
        raise WeightsError(f"{path}: the weights do not fit {type(network).__name__}: {'; '.join(told)}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{path}: {name} is {tuple(value.shape)}, {type(network).__name__} expects {tuple(own[name].shape)}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity")
    network.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name; of a checkpoint with a "model" or "state_dict" entry, that entry."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: dict[str, Tensor] = load_file(path)
            return found
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(f"{path}: neither safetensors nor a state dict of tensors alone; save it as safetensors") from None
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from error
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors by name")
    return dict(state)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
