"""A pass whose graph is kept from question to question: further maps of one image then cost a backward pass alone."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor, nn

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


def kept_or_made(owner: object, key: Hashable, network: nn.Module, make: Callable[[], T]) -> T:
    """A pass with its graph.

    Args:
        owner: What the pass belongs to, such as the candidates of a trace; compared by identity.
        key: What else it depends on.
        network: What makes it; where it has changed, the pass is made again.
        make: Makes it.
    """
    kept = _KEPT.get()
    return make() if kept is None else kept.get(owner, (key, _present(network)), make)


def _present(network: nn.Module) -> Hashable:
    """What a graph depends on and a quick look tells: the tensors and hooks that are there, and the changes of tensors in place.

    Beside a trace's `fingerprint`, which looks at numbers and attributes and is too slow to be taken twice a question. Hooks on
    gradients are not in it: the outputs do not depend on them, and the gradients do.
    """
    tensors = [_tensor(tensor) for tensor in (*network.parameters(), *network.buffers())]
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    # By getattr, because torch's names for its hooks are private and may change.
    parts = [(id(part), *(tuple(getattr(part, kind, ())) for kind in kinds)) for part in network.modules()]
    shared = [tuple(getattr(nn.modules.module, f"_global{kind}", ())) for kind in kinds]
    return tuple(tensors), tuple(parts), tuple(shared)


def _tensor(tensor: Tensor) -> Hashable:
    # Tensors made under inference_mode count no versions.
    return id(tensor), tensor.dtype, tensor.device, 0 if tensor.is_inference() else tensor._version
