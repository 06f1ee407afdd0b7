"""A network while it is explained: used by one thread at a time, in its own precision, and in one state from trace to map."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from whybox.errors import WhyboxError

Fingerprint = tuple[Any, ...]
"""A value that differs between two states of a network; see `fingerprint`."""

# Weak, so that a lock does not keep its network in memory.
_LOCKS: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()
_LOCKS_GUARD = Lock()


@contextmanager
def exclusive(network: Any) -> Iterator[None]:
    """Inside, no other thread explains this network, and the caller's autocast is off; may be nested.

    Explaining sets flags and hooks on the user's module and restores them afterwards; two threads doing so at once would see
    one another's. Threads with different networks do not wait for one another.

    Args:
        network: An nn.Module; anything else (None, a black box) is not locked.
    """
    if not isinstance(network, nn.Module):
        yield
        return
    with _lock_of(network), _without_autocast(network), _offloaded_told(network):
        yield


def _lock_of(network: nn.Module) -> Any:
    # Two threads may ask for a network's lock for the first time at once.
    with _LOCKS_GUARD:
        if network not in _LOCKS:
            # Reentrant, because `explain` holds it while `trace` takes it again.
            _LOCKS[network] = RLock()
        return _LOCKS[network]


@contextmanager
def _without_autocast(network: nn.Module) -> Iterator[None]:
    # Maps are taken in the precision of the weights: under autocast several of torchvision's operations have no kernel, and
    # bfloat16's rounding is larger than the differences that a map shows.
    weight = next(network.parameters(), None)
    devices = {"cpu"} if weight is None or weight.device.type == "meta" else {"cpu", weight.device.type}
    with ExitStack() as stack:
        for device in devices:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _offloaded_told(network: nn.Module) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        # Offloaded weights exist inside their module's forward alone; where they are read outside it, torch says so in many ways.
        if "meta" not in str(error) or not any(weight.device.type == "meta" for weight in network.parameters()):
            raise
        raise WhyboxError(
            f"{type(network).__name__}'s weights are offloaded (device 'meta'), and this needs them outside their own module's "
            "forward pass: bring the network onto one device first"
        ) from error


def device_of(network: Any) -> torch.device:
    """The device that the network's inputs have to be on; of offloaded weights, the one that they are brought to."""
    if not isinstance(network, nn.Module):
        return torch.device("cpu")
    devices = (weight.device for weight in network.parameters() if weight.device.type != "meta")
    hooks = (getattr(part, "_hf_hook", None) for part in network.modules())
    targets = (getattr(hook, "execution_device", None) for hook in hooks)
    found = next(devices, None) or next((torch.device(target) for target in targets if target is not None), None)
    return torch.device("cpu") if found is None else found


def fingerprint(network: Any) -> Fingerprint:
    """A value that changes when the network does: its modules, hooks, weights or buffers.

    Of every tensor it holds the version counter, which in-place changes raise, and two numbers, because changes through
    `.data` do not raise it. A change of training mode or `requires_grad` is none: networks are explained in evaluation mode.
    """
    if not isinstance(network, nn.Module):
        return ()
    modules = tuple((id(type(part)), *_hooks(part)) for part in network.modules())
    # Weights that are offloaded lie on "meta" and are other tensors after every pass: only their shapes can be compared.
    tensors = (*network.parameters(), *network.buffers())
    versions = tuple(_version(tensor) for tensor in tensors)
    return modules, versions, _samples([tensor for tensor in tensors if tensor.numel() and tensor.device.type != "meta"])


def _hooks(part: nn.Module) -> tuple[int, ...]:
    """The ids of the forward hooks, which torch never gives twice, and of a forward that was put on this one module."""
    patched = vars(part).get("forward")
    return (*part._forward_pre_hooks, *part._forward_hooks, 0 if patched is None else id(patched))


def _version(tensor: torch.Tensor) -> Any:
    if tensor.device.type == "meta":
        return tuple(tensor.shape)
    # Tensors made under inference_mode count no versions.
    return 0 if tensor.is_inference() else tensor._version


def _samples(tensors: list[torch.Tensor]) -> tuple[Any, ...]:
    with torch.no_grad():
        flat = [tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten() for tensor in tensors]
        groups: dict[tuple[Any, Any], list[torch.Tensor]] = {}
        for values in flat:
            groups.setdefault((values.device, values.dtype), []).extend((values[0], values[len(values) // 2]))
        numbers = [number for group in groups.values() for number in torch.stack(group).tolist()]
    # NaN is not equal to itself, and weights that hold it have not changed for that.
    return tuple("nan" if number != number else number for number in numbers)
