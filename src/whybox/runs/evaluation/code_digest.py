"""Digests of code: functions, classes and objects of the user's, equal in every process in which they compute the same."""

import dataclasses
import enum
import functools
import hashlib
import re
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages: their code is known by the version of the package."""
OWN = "whybox"
LENGTH = 16
PLAIN = (bool, int, float, complex, str, bytes, bytearray, range, type(None), type(...), PurePath, torch.dtype, torch.device)
"""Values whose `repr` says all and is the same in every process."""
CODE = (types.FunctionType, types.MethodType, functools.partial)
CODE_OF_CLASSES = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property)
SLOTS = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__")
)
"""Attributes of a class that say nothing of what it computes."""


def digest_of(*things: Any) -> str:
    """The digest of anything.

    What is the user's counts with its code, and everything that the code refers to: default values, the values of a closure,
    global constants, and functions and classes of the user's. What belongs to an installed package counts by its name; the
    package's version is for the caller to record, see `Walk.packages`.

    Args:
        *things: Functions, classes, objects or values.

    Returns:
        16 hexadecimal digits.
    """
    return digest_text(Walk().whole(things))


def digest_text(words: Iterable[str]) -> str:
    """The digest of a sequence of texts.

    Args:
        words: The texts.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for word in words:
        # The length, so that no two sequences run together into the same bytes.
        digest.update(f"{len(word)} {word}".encode(errors="backslashreplace"))
    return digest.hexdigest()[:LENGTH]


def is_installed(module: str) -> bool:
    """Whether a module belongs to Python, to whybox or to an installed package.

    Args:
        module: Its full name.

    Returns:
        False for the user's own.
    """
    top = module.partition(".")[0]
    if top in ("__main__", ""):
        return False
    if top == OWN or top in sys.stdlib_module_names:
        return True
    loaded = sys.modules.get(top)
    places = [getattr(loaded, "__file__", None), *list(getattr(loaded, "__path__", []))[:1]]
    return any(folder in Path(place).parts for place in places if place for folder in INSTALLED)


class Walk:
    """A walk through values and code, in an order that is the same in every process.

    Attributes:
        packages: The installed packages that were met, by the name of their import.
    """

    def __init__(self) -> None:
        self.packages: set[str] = set()
        # By id, the number of the visit; the objects are kept, so that no id is given twice.
        self._visited: dict[int, tuple[int, Any]] = {}
        self._left: deque[Any] = deque()

    def whole(self, value: Any) -> Iterator[str]:
        """What makes a value, and everything that its code refers to, as texts.

        Args:
            value: Anything.

        Yields:
            As `words`.
        """
        yield from self.words(value)
        yield from self.rest()

    def rest(self) -> Iterator[str]:
        """What makes the functions, classes and objects that were met and not walked through yet, as texts.

        Yields:
            As `words`.
        """
        while self._left:
            yield from self._first_visit(self._left.popleft())

    def words(self, value: Any) -> Iterator[str]:
        """What makes a value, as texts; of functions, classes and objects their number alone, see `rest`.

        Args:
            value: Anything.

        Yields:
            Texts that do not depend on addresses or on the order of sets and dicts.
        """
        # By value and before identity: whether two equal constants are one object is up to the interpreter.
        if isinstance(value, enum.Enum):
            # Not its repr: a member's value may be a function or an object.
            yield f"{type(value).__qualname__} {value.name}"
            yield from self.words(value.value)
        elif isinstance(value, PLAIN):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, slice):
            yield from self.words(("slice", value.start, value.stop, value.step))
        elif isinstance(value, re.Pattern):
            yield from self.words(("pattern", value.pattern, value.flags))
        elif isinstance(value, tuple):
            yield f"{type(value).__name__} of {len(value)}"
            for entry in value:
                yield from self.words(entry)
        elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.hasobject:
            yield from self._objects(value)
        elif isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
            yield from _numbers(value)
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif id(value) in self._visited:
            yield f"visit {self._visited[id(value)][0]}"
        else:
            self._visited[id(value)] = (len(self._visited), value)
            if isinstance(value, (list, deque, set, frozenset, Mapping)):
                yield from self._container(value)
            else:
                # Later: code that refers to code that refers to code would exceed Python's depth of recursion.
                yield f"visit {self._visited[id(value)][0]}"
                self._left.append(value)

    def _objects(self, value: Any) -> Iterator[str]:
        """An array that holds Python's objects, also in fields: their bytes are addresses."""
        yield f"{value.dtype} {value.shape}"
        if id(value) in self._visited:
            yield f"visit {self._visited[id(value)][0]}"
            return
        self._visited[id(value)] = (len(self._visited), value)
        yield from self.words(value.tolist())

    def _container(self, value: Any) -> Iterator[str]:
        yield f"{type(value).__name__} of {len(value)}"
        if isinstance(value, (list, deque)):
            for entry in value:
                yield from self.words(entry)
        elif isinstance(value, Mapping):
            yield from self._mapping(value)
        else:
            yield from sorted(self._apart(entry) for entry in value)

    def _apart(self, value: Any) -> str:
        """The digest of a value alone, which does not depend on the order of the others."""
        walk = Walk()
        # A copy: an entry must not see what its neighbors visited, or their order would count.
        walk.packages, walk._visited = self.packages, dict(self._visited)
        return digest_text(walk.whole(value))

    def _first_visit(self, value: Any) -> Iterator[str]:
        if isinstance(value, functools.partial):
            yield from self.words(("partial", value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            yield from self.words(("method", value.__func__, value.__self__))
        elif isinstance(value, types.ModuleType):
            yield f"module {value.__name__}"
            self._note(value.__name__)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, (staticmethod, classmethod)):
            yield from self.words((type(value).__name__, value.__func__))
        elif isinstance(value, property):
            yield from self.words(("property", value.fget, value.fset))
        elif isinstance(value, functools.cached_property):
            yield from self.words(value.func)
        else:
            yield from self._object(value)

    def _mapping(self, value: Mapping[Any, Any]) -> Iterator[str]:
        # By the keys' digests, because keys of different types cannot be sorted.
        by_key = {self._apart(key): entry for key, entry in value.items()}
        for key in sorted(by_key):
            yield key
            yield from self.words(by_key[key])

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield f"function {function.__qualname__}"
        if is_installed(function.__module__ or ""):
            self._note(function.__module__)
            return
        yield from self._code(function.__code__, function.__doc__)
        yield from self.words((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:
                # A function that is defined later in the enclosing one.
                continue
            yield from self.words(inside)
        yield from self._globals(function)

    def _code(self, code: types.CodeType, doc: str | None = None) -> Iterator[str]:
        """Bytecode, names and constants; no line numbers, and no docstring."""
        # co_code is the code as compiled, also after the interpreter has specialized it for the types that it met.
        yield code.co_code.hex()
        yield " ".join((*code.co_names, *code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]))
        for constant in code.co_consts:
            if constant is not None and constant != doc:
                yield from self.words(constant)

    def _globals(self, function: types.FunctionType) -> Iterator[str]:
        """What the code, or a function defined in it, refers to by a global name, also in other modules of the user's."""
        names = sorted(_names_in(function.__code__))
        for name in names:
            # co_names holds attributes as well as globals.
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            yield name
            yield from self.words(value)
            if isinstance(value, types.ModuleType) and not is_installed(value.__name__):
                yield from self.words([getattr(value, inner) for inner in names if hasattr(value, inner)])

    def _class(self, kind: type) -> Iterator[str]:
        for part in kind.__mro__:
            yield f"class {part.__module__}.{part.__qualname__}"
            if is_installed(part.__module__):
                self._note(part.__module__)
                continue
            for name, value in sorted(vars(part).items()):
                if not _says_nothing(name, value):
                    yield name
                    yield from self.words(value)

    def _object(self, value: Any) -> Iterator[str]:
        """An object: its class, and its attributes where the class is the user's or lists them as fields."""
        if hasattr(value, "__wrapped__"):
            yield from self.words(value.__wrapped__)
        # A function that is not written in Python has a name itself.
        named = value if hasattr(value, "__qualname__") else type(value)
        module = getattr(named, "__module__", None) or ""
        if named is value:
            yield f"built-in {module}.{value.__qualname__}"
            self._note(module)
            return
        yield from self.words(type(value))
        if isinstance(value, torch.nn.Module):
            yield from module_words(value, self)
        elif not is_installed(module):
            yield from self._mapping(dict(getattr(value, "__dict__", {})))
        elif dataclasses.is_dataclass(value):
            yield from self._mapping({field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)})

    def _note(self, module: str) -> None:
        top = module.partition(".")[0]
        if top and top not in sys.stdlib_module_names:
            self.packages.add(top)


def module_words(network: torch.nn.Module, walk: Walk) -> Iterator[str]:
    """The code of a network: its modules' classes and the functions that single modules hold, such as hooks.

    Where a class is the user's, the module's own settings and objects count too. Tensors, lists and dicts do not, because many
    modules keep those of their last pass; the code that makes them counts.

    Args:
        network: The network.
        walk: The walk that this belongs to.

    Yields:
        Texts, as `Walk.words`.
    """
    own = vars(torch.nn.Module())
    for name, part in network.named_modules():
        yield name
        yield from walk.words(type(part))
        if isinstance(part, (torch.fx.GraphModule, torch.jit.ScriptModule)):
            yield str(getattr(part, "code", ""))
        yield from walk.words((*part._forward_pre_hooks.values(), "then", *part._forward_hooks.values()))
        users = not is_installed(type(part).__module__)
        for key, value in sorted(vars(part).items()):
            if isinstance(value, CODE) or (users and key not in own and _is_setting(value)):
                yield key
                yield from walk.words(value)


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_setting(entry) for entry in value)
    return isinstance(value, PLAIN) or callable(value) or not is_installed(type(value).__module__)


def _numbers(value: Any) -> Iterator[str]:
    """An array's or a tensor's kind, shape and bytes."""
    yield f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            return
        # Viewed as bytes: numpy has no bfloat16 (pytorch/pytorch#110285).
        value = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
    yield hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()


def _names_in(code: types.CodeType) -> set[str]:
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _says_nothing(name: str, value: Any) -> bool:
    """Whether an attribute of a class was put there by Python, `dataclass` or ABC: it may hold addresses or line numbers."""
    special = name.startswith("__") and name.endswith("__")
    return name.startswith("_abc_") or (special and not isinstance(value, CODE_OF_CLASSES))
