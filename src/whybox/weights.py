"""Load weights from a file: safetensors, or a state dict that loads without running code (weights_only)."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from whybox.errors import WeightsError


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file's weights into a network. Nothing is changed unless every weight is present, fits and is finite.

    Args:
        network: The network to load into.
        path: A safetensors file, or a checkpoint that torch loads with weights_only.

    Raises:
        WeightsError: The file cannot be read, or its weights do not fit.
    """
    state = read_weights(Path(path))
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        differences = [f"missing {_some(missing)}"] if missing else []
        differences += [f"not known to the network {_some(extra)}"] if extra else []
        raise WeightsError(f"{path}: the weights do not fit {type(network).__name__}: {'; '.join(differences)}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{path}: {name} is {tuple(value.shape)}, {type(network).__name__} expects {tuple(own[name].shape)}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity")
    network.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file's tensors by name; for a checkpoint with a "model" or "state_dict" entry, those of that entry."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
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
