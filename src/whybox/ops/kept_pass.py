"""A pass whose graph is kept from question to question: further maps of one image then cost a backward pass alone."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class KeptPass:
    """The last pass that was made inside `keeping`. One, because a graph holds what every layer gave."""

    def __init__(self) -> None:
        """Without one."""
        self._of: tuple[Any, Hashable] = (None, None)
        self._made: Any = None

    def get(self, owner: object, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for the same object and key, or gives now."""
        if self._of[0] is not owner or self._of[1] != key:
            # Before the next one is made, so that there are never two.
            self._of, self._made = (None, None), None
            self._made = make()
            self._of = owner, key
        made: T = self._made
        return made


_KEPT: ContextVar[KeptPass | None] = ContextVar("kept pass", default=None)


@contextmanager
def keeping(kept: KeptPass) -> Iterator[None]:
    """Inside, in this thread, `kept_or_made` keeps its last pass there."""
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept_or_made(owner: object, key: Hashable, make: Callable[[], T]) -> T:
    """A pass with its graph.

    Args:
        owner: What the pass belongs to, such as the state of a trace whose network is known to be the same; compared by identity.
        key: What else it depends on.
        make: Makes it.
    """
    kept = _KEPT.get()
    return make() if kept is None else kept.get(owner, key, make)
