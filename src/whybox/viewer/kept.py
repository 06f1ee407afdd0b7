"""What is kept in memory up to so many bytes: what was used longest ago goes first."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch import nn

V = TypeVar("V")


class Kept(Generic[V]):
    """Values by key; the last one is kept however large it is.

    Attributes:
        most_bytes: The limit.
    """

    def __init__(self, most_bytes: int) -> None:
        """See the attributes."""
        self.most_bytes = most_bytes
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def bytes(self) -> int:
        """How many bytes the values take."""
        return self._bytes

    def get(self, key: Hashable) -> V | None:
        """The value of a key, which counts as used now; None where there is none."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keep a value of `size` bytes, and let others go to make room."""
        with self._lock:
            self._drop(key)
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self.most_bytes and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def _drop(self, key: Hashable) -> None:
        _, size = self._values.pop(key, (None, 0))
        self._bytes -= size


_DEEPEST = 8


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors that a value holds, each storage once; those of networks are not the value's.

    Args:
        value: Of any type; followed through containers, attributes and closures.
    """
    return sum(_storages(value, {}, set(), 0).values())


def _storages(value: Any, found: dict[int, int], seen: set[int], depth: int) -> dict[int, int]:
    if depth > _DEEPEST or isinstance(value, (nn.Module, type, str, bytes, int, float)) or id(value) in seen:
        return found
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return found
    for part in _parts(value):
        _storages(part, found, seen, depth + 1)
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    closed = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _filled(cell)]
    return [*closed, *getattr(value, "__dict__", {}).values()]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is not bound yet
        return False
