"""The calls that lead from some tensors to others, recorded while a network runs, to be made again with other tensors.

What is recorded are calls of torch's Python functions, whoever makes them: modules, hooks, the user's own lines between them.
So a part of a network can run again on other values without it being known which part of the code that is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from whybox.frame import Size
from whybox.ops.hooks import tensors_in

_TWIN = (2, 3, 4)
"""Batch, height and width of the twins: unlike one another, so that a change of axes shows, and small. On the device "meta",
without numbers, normalizations alone would take longer than all of this."""


@dataclass(frozen=True)
class Slot:
    """Stands for a recorded tensor among a call's arguments."""

    index: int


@dataclass(frozen=True)
class Call:
    """One call. arguments: (args, kwargs) with a Slot for every recorded tensor. outputs: the tensors in its result, in order.
    reads: recorded tensors among its arguments. writes: those that it changed in place. gradients: whether they were on.
    local: it treats every map of a size in the same way, so that it can be made on parts of the maps."""

    function: Callable[..., Any]
    arguments: Any
    outputs: tuple[int, ...]
    reads: frozenset[int]
    writes: frozenset[int]
    gradients: bool
    local: bool


@dataclass
class _Value:
    """What is known of a recorded tensor. alias: shared by those on one storage. roots: the roots that it is computed from.
    grid: (h, w), and twin: a map of another size that went the same way, as long as all calls from the roots on are local."""

    alias: int
    roots: frozenset[int]
    gradients: bool
    grid: Size | None = None
    twin: Tensor | None = None


@dataclass(frozen=True)
class Recording:
    """The calls, in order, that lead from the roots to the outputs.

    outputs: the structure that was asked for, a Slot for each recorded tensor. raw: the last tensors (1,C,h,w) on the ways from
    the roots that local calls lead to, by index; what follows them is not local. roots: of each of them.
    """

    calls: tuple[Call, ...]
    outputs: Any
    raw: Mapping[int, Tensor]
    roots: Mapping[int, frozenset[int]]

    def local(self, root: int) -> tuple[Call, ...]:
        """The local calls that depend on one root alone."""
        return tuple(call for call in self.calls if call.local and self._roots_of(call) == {root})

    def rest(self) -> tuple[Call, ...]:
        """The calls from the raw tensors to the outputs."""
        return tuple(call for call in self.calls if not call.local)

    def _roots_of(self, call: Call) -> frozenset[int]:
        return frozenset().union(*(self.roots[index] for index in call.reads))


class Recorder(TorchFunctionMode):
    """Records, inside this context, the calls that depend on the tensors given to `start`, and keeps no tensor alive but those
    that a Recording holds.

    Every map has a twin, a small map that goes through the same calls: where it cannot follow, or comes out with another
    shape, a call is not local. broken: a way leads around the recorded calls (a scripted module, a custom autograd
    function, a hook on a gradient), so that making them again would not give the same gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self._calls: list[Call] = []
        self._values: list[_Value] = []
        # By id, as tensors compare elementwise; the weak reference tells whether the id has been given to another tensor since.
        self._known: dict[int, tuple[ref[Tensor], int]] = {}
        self._held: dict[int, Tensor] = {}

    def start(self, tensor: Tensor) -> int:
        """Record what is done with this tensor from now on; its index. Only (1,C,h,w) can have local calls."""
        twin = grid = None
        if tensor.ndim == 4 and len(tensor) == 1:
            batch, height, width = _TWIN
            grid = (tensor.shape[2], tensor.shape[3])
            twin = torch.zeros((batch, tensor.shape[1], height, width), dtype=tensor.dtype, device=tensor.device)
        index = len(self._values)
        return self._add(tensor, _Value(index, frozenset({index}), True, grid, twin))

    def finish(self, outputs: Any) -> Recording:
        """What leads to the tensors in `outputs`, a structure of tuples, lists and dictionaries."""
        tensors = _tensors(outputs)
        self._look_for_holes(tensors)
        self.broken |= len(tensors) != len(tensors_in(outputs))  # some stand in structures that cannot be filled again
        for tensor in tensors:
            if (index := self._index(tensor)) is not None:
                self._hold(index, tensor)
        ends = {index for tensor in tensors if (index := self._index(tensor)) is not None}
        calls = self._leading_to(ends)
        borders = {index for call in calls if not call.local for index in call.reads} | ends
        raw = {index: self._held[index] for index in sorted(borders) if index in self._held}
        roots = {index: value.roots for index, value in enumerate(self._values)}
        return Recording(tuple(calls), _map(outputs, self._slot), raw, roots)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Every call of the pass comes by here, also those before `start`, which are not to be slowed down.
        tensors = _tensors((args, kwargs)) if self._known else []
        if all(self._index(tensor) is None for tensor in tensors):
            return function(*args, **kwargs)
        self._look_for_holes(tensors)
        self.broken |= getattr(function, "__name__", "") == "register_hook"
        # Before the arguments are mapped, so that a tensor that becomes a recorded one has its Slot among them.
        self._adopt(function, args)
        # Names tell only some of the functions that write: the version counters also show out= and batch statistics.
        versions = [_version(tensor) for tensor in tensors]
        arguments = _map((args, kwargs), self._slot)
        result = function(*args, **kwargs)
        changed = [tensor for tensor, version in zip(tensors, versions, strict=True) if _version(tensor) != version]
        # What gives numbers alone (a shape, an item) is not made again: they stand in the later calls' arguments as they were.
        if changed or _tensors(result):
            self._record(function, arguments, tensors, changed, result)
        return result

    def _record(
        self, function: Callable[..., Any], arguments: Any, tensors: Sequence[Tensor], changed: Sequence[Tensor], result: Any
    ) -> None:
        indices = [self._index(tensor) for tensor in tensors]
        reads = frozenset(index for index in indices if index is not None)
        writes = [self._index(tensor) for tensor in changed]
        self.broken |= None in writes
        outputs = _tensors(result)
        twins = self._twins(function, arguments, reads, outputs)
        for tensor, index in zip(tensors, indices, strict=True):
            # Here the local calls end: what they gave is where the others start from, and would otherwise be freed.
            if twins is None and index is not None:
                self._hold(index, tensor)
        gradients = torch.is_grad_enabled()
        found = []
        for i, output in enumerate(outputs):
            index = self._index(output)
            if index is None:
                roots = frozenset().union(*(self._values[read].roots for read in reads))
                value = _Value(self._alias(output, tensors), roots, gradients)
                if twins is not None:
                    value.grid, value.twin = (output.shape[2], output.shape[3]), twins[i]
                index = self._add(output, value)
            found.append(index)
        changes = frozenset(index for index in writes if index is not None)
        self._calls.append(Call(function, arguments, tuple(found), reads, changes, gradients, twins is not None))

    def _twins(
        self, function: Callable[..., Any], arguments: Any, reads: Iterable[int], outputs: Sequence[Tensor]
    ) -> list[Tensor] | None:
        """The call made with the twins; None where it is not local."""
        values = [self._values[index] for index in reads]
        grids = {value.grid for value in values}
        if len(grids) != 1 or any(value.twin is None for value in values):
            return None
        grid = grids.pop()
        if any(output.ndim != 4 or len(output) != 1 or tuple(output.shape[2:]) != grid for output in outputs):
            return None
        if function is torch.conv2d:  # one that keeps the size of a map keeps that of any, and is the one slow call here
            return [output.new_zeros((_TWIN[0], output.shape[1], *_TWIN[1:])) for output in outputs]
        try:
            # Not recorded themselves: torch disables a mode inside its own handler.
            twins_of = {index: value.twin for index, value in zip(reads, values, strict=True) if value.twin is not None}
            args, kwargs = fill(arguments, twins_of)
            with torch.no_grad():
                result = function(*args, **kwargs)
        except Exception:  # whatever the call says about a map of another size: it is not local
            return None
        twins = _tensors(result)
        wanted = [(_TWIN[0], output.shape[1], *_TWIN[1:]) for output in outputs]
        return twins if [tuple(twin.shape) for twin in twins] == wanted else None

    def _adopt(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """A tensor that is about to be filled in place becomes a recorded one, which starts with what it holds now."""
        name = getattr(function, "__name__", "")
        if not (name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))):
            return
        target = args[0] if args else None
        if not isinstance(target, Tensor) or self._index(target) is not None:
            return
        # Without a twin: what it held before is not known for maps of another size.
        value = _Value(len(self._values), frozenset(), torch.is_grad_enabled())
        before = target.detach().clone()
        index = self._add(target, value)
        empty: frozenset[int] = frozenset()
        self._calls.append(Call(torch.clone, ((before,), {}), (index,), empty, empty, value.gradients, False))

    def _look_for_holes(self, tensors: Iterable[Tensor]) -> None:
        """A tensor that needs a gradient came from the roots; if no recorded call with gradients made it, calls are missing."""
        for tensor in tensors:
            index = self._index(tensor)
            made = index is not None and self._values[index].gradients
            self.broken |= tensor.is_inference() or (tensor.requires_grad and not made)

    def _leading_to(self, ends: Iterable[int]) -> list[Call]:
        """The calls that the tensors `ends` depend on, through values and through changes in place."""
        needed = set(ends)
        aliases = {self._values[index].alias for index in needed}
        chosen = []
        # Backwards, so that a change in place counts only where a needed call reads the memory afterwards.
        for call in reversed(self._calls):
            if needed.intersection(call.outputs) or any(self._values[index].alias in aliases for index in call.writes):
                chosen.append(call)
                needed |= call.reads
                aliases |= {self._values[index].alias for index in call.reads}
        return chosen[::-1]

    def _alias(self, output: Tensor, tensors: Sequence[Tensor]) -> int:
        """The alias of an argument that the output is a view of, else a new one."""
        place = output.untyped_storage().data_ptr()
        for tensor in tensors:
            index = self._index(tensor)
            # Without memory (device "meta", no elements) the address is 0 for all.
            if index is not None and place and tensor.untyped_storage().data_ptr() == place:
                return self._values[index].alias
        return len(self._values)

    def _add(self, tensor: Tensor, value: _Value) -> int:
        self._values.append(value)
        self._known[id(tensor)] = (ref(tensor), len(self._values) - 1)
        return len(self._values) - 1

    def _hold(self, index: int, tensor: Tensor) -> None:
        """Keep a tensor where the local calls end."""
        if self._values[index].twin is not None and index not in self._held:
            self._held[index] = tensor.detach()

    def _index(self, tensor: Tensor) -> int | None:
        reference, index = self._known.get(id(tensor), (None, -1))
        return index if reference is not None and reference() is tensor else None

    def _slot(self, tensor: Tensor) -> Any:
        """A Slot for a recorded tensor; other tensors without the graph that they may stand in."""
        index = self._index(tensor)
        return tensor.detach() if index is None else Slot(index)


def play(calls: Iterable[Call], tensors: dict[int, Tensor]) -> None:
    """Make the calls again. tensors: those to start from, by index; what the calls give is added. Differentiable where the
    recorded pass was."""
    for call in calls:
        args, kwargs = fill(call.arguments, tensors)
        with torch.set_grad_enabled(call.gradients):
            result = call.function(*args, **kwargs)
        tensors.update(zip(call.outputs, _tensors(result), strict=True))


def fill(structure: Any, tensors: Mapping[int, Tensor]) -> Any:
    """The structure with the tensor that each Slot stands for."""
    return _map(structure, lambda leaf: tensors[leaf.index] if isinstance(leaf, Slot) else leaf)


def _tensors(structure: Any) -> list[Tensor]:
    """The tensors in tuples, lists and dictionaries. A call passes here several times: it has to be quick."""
    if isinstance(structure, Tensor):
        return [structure]
    if isinstance(structure, tuple | list):
        return [tensor for part in structure for tensor in _tensors(part)]
    return [tensor for part in structure.values() for tensor in _tensors(part)] if isinstance(structure, dict) else []


def _map(structure: Any, change: Callable[[Any], Any]) -> Any:
    """The structure with every tensor and Slot changed."""
    if isinstance(structure, Tensor | Slot):
        return change(structure)
    if isinstance(structure, list):
        return [_map(part, change) for part in structure]
    if isinstance(structure, tuple):
        parts = [_map(part, change) for part in structure]
        # Named tuples take their entries one by one, tuples as one sequence.
        return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
    return {key: _map(part, change) for key, part in structure.items()} if isinstance(structure, dict) else structure


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; tensors made under inference_mode do not count."""
    return 0 if tensor.is_inference() else tensor._version
