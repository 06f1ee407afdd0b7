"""Hooks that are taken away again, and methods whose calls are noted."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any


def remove_later(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


@contextmanager
def overheard(module: Any, name: str, note: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Inside, `note` is called with the arguments and the result of each call of a method of the module."""
    own = vars(module).get(name)
    method = getattr(module, name)
    # Of the class: the user's own in its place may take *args.
    parameters = inspect.signature(getattr(type(module), name))

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        note(parameters.bind(module, *args, **kwargs).arguments, result)
        return result

    setattr(module, name, call)
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)
