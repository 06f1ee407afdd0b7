"""A network while it is explained: used by one thread at a time, in its own precision, and in one state from trace to map."""

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import blake2b
from threading import Lock, RLock
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from whybox.errors import GradientError, WhyboxError

Fingerprint = tuple[Any, ...]
"""A value that differs between two states of a network; see `fingerprint`."""

# Weak, so that a lock does not keep its network in memory.
_LOCKS: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()
_LOCKS_GUARD = Lock()


@contextmanager
def exclusive(network: Any) -> Iterator[None]:
    """Inside, no other thread explains this network, and autocast is off, the caller's and accelerate's; may be nested.

    Explaining sets flags and hooks on the user's module and restores them afterwards; two threads doing so at once would see
    one another's. Threads with different networks do not wait for one another.

    Args:
        network: An nn.Module; anything else (None, a black box) is not locked.

    Raises:
        WhyboxError: Its weights have no values.
    """
    if not isinstance(network, nn.Module):
        yield
        return
    _check_weights(network)
    with _lock_of(network), _without_autocast(network), _without_prepared_forward(network), _told_by_state(network):
        yield


def _check_weights(network: nn.Module) -> None:
    """Refuse a network that was built on the device 'meta', and that accelerate does not bring weights to."""
    first = next(network.parameters(), None)
    if first is None or first.device.type != "meta":
        return
    offloaded = any(hasattr(part, "_hf_hook") for part in network.modules())
    if not offloaded and all(weight.device.type == "meta" for weight in network.parameters()):
        raise WhyboxError(
            f"{type(network).__name__}'s weights are on the device 'meta', where they have no values: "
            "network.to_empty(device=...) and load_state_dict first"
        )


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
def _without_prepared_forward(network: nn.Module) -> Iterator[None]:
    """Inside, the network has its own forward again where `Accelerator(mixed_precision=...).prepare` put autocast around it."""
    held = vars(network)
    own, prepared = held.get("_original_forward"), held.get("forward")
    # A forward of the class is found there; what somebody had patched onto the object before, is not.
    patched = getattr(own, "__func__", None) is not type(network).forward
    if own is None or prepared is None or prepared is own:
        yield
        return
    try:
        if patched:
            held["forward"] = own
        else:
            del held["forward"]
        yield
    finally:
        held["forward"] = prepared


@contextmanager
def _told_by_state(network: nn.Module) -> Iterator[None]:
    """Inside, errors that torch raises because of a network's state say what the state is."""
    try:
        yield
    except (RuntimeError, AttributeError, TypeError, GradientError) as error:
        reason = _reason_in_state(network, error)
        if reason is None:
            raise
        kind = GradientError if isinstance(error, GradientError) or "gradient" in reason else WhyboxError
        raise kind(f"{type(network).__name__}{reason}") from error


def _reason_in_state(network: nn.Module, error: Exception) -> str | None:
    """What is wrong with the network's state, where that explains the error. By torch's words: it has no classes for them."""
    words = str(error)
    weights = list(network.parameters())
    # Offloaded weights exist inside their module's forward alone; where they are read outside it, torch says so in many ways.
    if isinstance(error, RuntimeError) and "meta" in words and any(weight.device.type == "meta" for weight in weights):
        return (
            "'s weights are offloaded (device 'meta'), and this needs them outside their own module's forward pass: bring the "
            "network onto one device first"
        )
    if "nference tensor" in words and any(weight.is_inference() for weight in weights):
        return "'s weights were made under torch.inference_mode, and no gradient can pass them: build the network outside it"
    if "BackwardHookFunction" in words:
        return (
            " has a full backward hook on a module whose output is then changed in place, which torch cannot differentiate, in "
            "training neither: remove the hook, or the in-place operation"
        )
    # Before torch 2.5 some kernels leave out the quotes.
    if found := re.search(r"\"?(\w+)\"? not implemented for '?(Half|BFloat16)", words):
        return (
            f" is in half precision, for which torch has no {found[1]} on this device (a detector's own call fails so, too): "
            "bring it to float32, network.float()"
        )
    precision = next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)
    if "same dtype" in words and precision != torch.float32:
        return (
            f" holds {str(precision).removeprefix('torch.')} weights and computes with numbers of another precision, too, which "
            "its own call fails on as well: bring it to float32, network.float()"
        )
    if "tuple" in words and any(
        getattr(getattr(part, "config", None), "return_dict", None) is False for part in network.modules()
    ):
        return "'s configuration has return_dict=False, and parts of it need the names of outputs: config.return_dict = True"
    if "not supported on ScriptModules" in words:
        return (
            " has a scripted or traced part where a layer is watched: choose another layer, or put the part that it was made "
            "from in its place"
        )
    quantized = [path for path, part in network.named_modules() if ".quantized." in type(part).__module__]
    if quantized:
        return f" holds quantized modules ({quantized[0]}), which no gradient passes: explain the network before it is quantized"
    return None


def device_of(network: Any) -> torch.device:
    """The device that the network's inputs have to be on; of offloaded weights, the one that they are brought to."""
    if not isinstance(network, nn.Module):
        return torch.device("cpu")
    devices = (weight.device for weight in network.parameters() if weight.device.type != "meta")
    hooks = (getattr(part, "_hf_hook", None) for part in network.modules())
    targets = (getattr(hook, "execution_device", None) for hook in hooks)
    found = next(devices, None) or next((torch.device(target) for target in targets if target is not None), None)
    return torch.device("cpu") if found is None else found


# What torch keeps on every module: the mode, the parts, the tensors and the hooks, which are looked at in their own way.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_RUNS, _RUN = 128, 4
"""Of a large tensor this many runs of so many numbers are read: a run lies in one line of the processor's cache, and costs what
one number does. To read all numbers costs more than a tenth of CLIP ViT-B/16's pass over an image."""
_MOST_ENTRIES = 1000
"""Longer containers are caches and vocabularies rather than settings."""
_DEEPEST = 3
"""How far objects in attributes are followed: a module may know its trainer, and through it everything."""


def fingerprint(network: Any) -> Fingerprint:
    """A value that changes when the network does: its modules, their attributes, its hooks, weights or buffers.

    Of every tensor it holds the version counter, which in-place changes raise, and, because changes through `.data` and NumPy do
    not raise it, a checksum of 512 numbers, in runs of 4 that lie evenly in it, or of all numbers where there are no more. A
    change of training mode or `requires_grad` is none: networks are explained in evaluation mode. A forward pass may change
    attributes itself (a counter, a cached shape): another fingerprint says that the network may have changed, and not that its
    outputs are others.
    """
    if not isinstance(network, nn.Module):
        return ()
    described = _Described()
    parts = [(path, described.module(part)) for path, part in network.named_modules(remove_duplicate=False)]
    # By getattr, because torch's names for its hooks are private and may change.
    shared = [getattr(nn.modules.module, name, {}) for name in ("_global_forward_pre_hooks", "_global_forward_hooks")]
    words = repr((parts, [described.hooks(hooks) for hooks in shared], described.outside))
    return blake2b(words.encode(errors="replace"), digest_size=16).digest(), *_numbers(described.tensors)


class _Described:
    """Describes the modules of one network in words without addresses, and collects every tensor on the way.

    Attributes:
        tensors: All tensors found, by id.
        outside: Descriptions of modules that attributes hold and that are not registered as parts.
    """

    def __init__(self) -> None:
        self.tensors: dict[int, torch.Tensor] = {}
        self.outside: list[Any] = []
        # By id: what is shared (a configuration) is described once. The network keeps all of it alive.
        self._seen: dict[int, int] = {}

    def module(self, part: nn.Module) -> Any:
        """What a module computes with, but for its parts: they are modules of their own."""
        if id(part) in self._seen:
            return "again", self._seen[id(part)]
        self._seen[id(part)] = len(self._seen)
        for tensors in (part._parameters, part._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    self.tensors[id(tensor)] = tensor
        hooks = self.hooks(part._forward_pre_hooks), self.hooks(part._forward_hooks)
        own = [(name, self.value(value, 0)) for name, value in vars(part).items() if name not in _OF_EVERY_MODULE]
        return type(part).__qualname__, id(type(part)), self.value(getattr(type(part), "forward", None), 0), hooks, own

    def hooks(self, hooks: Mapping[int, Any]) -> list[Any]:
        """The ids, which torch never gives twice, and what the hooks compute with."""
        return [(number, self.value(hook, 0)) for number, hook in hooks.items()] if hooks else []

    def value(self, value: Any, depth: int) -> Any:
        """An attribute's value: plain ones as they are, containers and objects by what they hold."""
        # By type first: most are plain, and an isinstance of some objects (transformers' configurations) is slow.
        if type(value) in _PLAIN:
            return value
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        if isinstance(value, torch.Tensor):
            self.tensors[id(value)] = value
            return "tensor"
        if isinstance(value, nn.Module):
            self.outside.append(self.module(value))
            return type(value).__qualname__
        if depth > _DEEPEST or isinstance(value, (type, ModuleType)):
            return type(value).__qualname__
        self._seen[id(value)] = len(self._seen)
        return self._composed(value, depth + 1)

    def _composed(self, value: Any, depth: int) -> Any:
        kind = type(value).__qualname__
        # Not every Mapping: one of accelerate's reads weights from the disk when it is asked for its entries.
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            return kind, len(value), self._entries(value, depth) if len(value) <= _MOST_ENTRIES else None
        if isinstance(value, partial):
            return kind, self.value(value.func, depth), self.value(value.args, depth), self.value(value.keywords, depth)
        if isinstance(value, MethodType):
            return kind, self.value(value.__func__, depth), self.value(value.__self__, depth)
        if isinstance(value, FunctionType):
            return kind, self._function(value, depth)
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict):
            return kind, self._entries(state, depth)
        # Those of torch, NumPy and enum are written by their values (devices, dtypes, arrays), others by their addresses.
        return (kind, repr(value)) if type(value).__module__.split(".")[0] in ("torch", "numpy", "enum") else kind

    def _entries(self, value: Collection[Any], depth: int) -> list[Any]:
        if isinstance(value, dict):
            return [(self.value(key, depth), self.value(entry, depth)) for key, entry in value.items()]
        entries = [self.value(entry, depth) for entry in value]
        # A set has no order of its own.
        return sorted(entries, key=repr) if isinstance(value, (set, frozenset)) else entries

    def _function(self, function: FunctionType, depth: int) -> Any:
        """Its code, and the values that it reads: of its defaults, of the functions around it, of its file."""
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        names = function.__code__.co_names
        read = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
        numbers = [(name, self.value(value, depth)) for name, value in read if _is_plain(value)]
        return _code(function.__code__), self.value(function.__defaults__, depth), self._entries(cells, depth), numbers


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is not bound yet
        return False


def _is_plain(value: Any) -> bool:
    """Whether a name of a file is a setting: a plain value, or a container."""
    return type(value) in _PLAIN or isinstance(value, (list, tuple, dict, set))


def _code(code: CodeType) -> Any:
    constants = [_code(constant) if isinstance(constant, CodeType) else constant for constant in code.co_consts]
    return code.co_code, constants, code.co_names


def _numbers(found: Mapping[int, torch.Tensor]) -> tuple[Any, ...]:
    """The tensors' versions, and a checksum for each device and kind of number."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    # Under somebody's TorchFunctionMode every look at a tensor would be a call of it, which takes longer than all the rest.
    with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunction():
        # Offloaded weights lie on "meta" and are other tensors after every pass: only their shapes can be compared.
        versions = tuple(_version(tensor) for tensor in found.values())
        for tensor in found.values():
            if tensor.numel() and tensor.device.type != "meta" and tensor.layout is torch.strided and not tensor.is_quantized:
                groups.setdefault((tensor.device, tensor.dtype), []).append(_sample(tensor.detach()))
        return versions, tuple(int(_checksum(torch.cat(samples))) for samples in groups.values())


def _version(tensor: torch.Tensor) -> Any:
    if tensor.device.type == "meta":
        return tuple(tensor.shape)
    # Tensors made under inference_mode count no versions.
    return 0 if tensor.is_inference() else tensor._version


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers, or `_RUNS` times `_RUN` of them, evenly in the order in which they lie in memory."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    flat = (tensor.permute(0, 2, 3, 1) if channels_last else tensor).reshape(-1)
    count = len(flat) // _RUN
    if count <= _RUNS:
        return flat
    # Odd, so that it shares no factor with the usual widths: an even step would read the same columns of every row.
    step = max(1, count // _RUNS - 1) | 1
    return flat[: count * _RUN].view(count, _RUN)[::step].reshape(-1)


def _checksum(numbers: torch.Tensor) -> torch.Tensor:
    """A sum of the numbers' bits, each times an odd number of its place; it wraps around and is exact, also for NaN."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(numbers.element_size(), torch.int64)
    bits = numbers.contiguous().view(whole)
    bits = bits if whole == torch.int64 else bits.to(torch.int32)
    # 2**32 over the golden ratio, as a signed number: its multiples spread over all bits.
    places = torch.arange(len(bits), dtype=bits.dtype, device=bits.device).mul_(1013904242).add_(1)
    return (bits * places).sum()
