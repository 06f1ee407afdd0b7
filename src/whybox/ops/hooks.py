"""Look into a running module and leave nothing behind: freeze it for a while, make a submodule's output the gradient's root."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import GradientError, unknown

INPUT = "input"
"""The layer name of the network's own input."""

_MAIN_OUTPUTS = ("feature_maps", "last_hidden_state")
"""Entries of a named output that are the features; the rest (hidden states, attentions) repeats or accompanies them."""


@contextmanager
def frozen(module: nn.Module, *, weights: bool = True) -> Iterator[nn.Module]:
    """Inside: evaluation mode and no parameter needs a gradient. Afterwards: every flag as it was, also after an exception.

    weights: False leaves the parameters as they are, for a pass whose graph leads down to them.

    The mode is set flag by flag: `.eval()` is the user's method, and on some wrappers `.train()` starts a training run.
    """
    modes = [(part, part.training) for part in module.modules()]
    needs = [(weight, weight.requires_grad) for weight in module.parameters() if weights and weight.is_leaf]
    try:
        for part, mode in modes:
            if mode:  # setting an attribute of a module is slow
                part.training = False
        for weight, need in needs:
            if need:
                weight.requires_grad = False
        yield module
    finally:
        for part, mode in modes:
            if part.training != mode:
                part.training = mode
        for weight, need in needs:
            if weight.requires_grad == need:
                continue
            with torch.inference_mode(weight.is_inference()):  # a weight made there can only be flagged there
                weight.requires_grad = need


@contextmanager
def capture(module: nn.Module, names: Iterable[str], *, gradients: bool = True) -> Iterator[dict[str, list[Tensor]]]:
    """Record the outputs of the submodules `names` during a forward pass, each a tensor that gradients can be asked for.

    Yields a dictionary that the forward pass fills: name -> its feature tensors in the order in which they came (several
    where the module returns several or is called several times). INPUT names the first tensor that `module` is given.
    A tensor outside any graph becomes a leaf, so nothing before it is differentiated; one inside a graph stays a node.
    The network goes on with a clone: a later in-place activation cannot reach the recorded values.
    Gradients work on the recorded tensors after this context is left, and inside the caller's no_grad or inference_mode.
    gradients=False records plain copies, without a graph.
    """
    captured: dict[str, list[Tensor]] = {name: [] for name in names}
    handles: list[Any] = []
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            for name, tensors in captured.items():
                if not gradients:
                    handles.append(_copy_output(module, name, tensors))
                else:
                    handles += _watch_input(module, tensors) if name == INPUT else _watch_output(module, name, tensors)
            yield captured
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise GradientError(f"a tensor made under torch.inference_mode is in the way ({_first_line(error)})") from error
    finally:
        for handle in handles:
            handle.remove()
    for name, tensors in captured.items():
        if not tensors:
            raise GradientError(f"layer {name!r} gave no features: the forward did not call it, or it returns no float tensor")


@contextmanager
def record(module: nn.Module, name: str) -> Iterator[list[Any]]:
    """Keep what the submodule `name` returns in each forward pass inside, whole, as copies without a graph."""
    outputs: list[Any] = []

    def copy_output(part: nn.Module, args: Any, output: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            outputs.append(map_tensors(output, torch.Tensor.clone))

    handle = submodule(module, name).register_forward_hook(copy_output)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def replay(module: nn.Module, name: str, output: Any) -> Iterator[None]:
    """Inside, the submodule `name` returns `output` without running; hooks on it run."""
    part = submodule(module, name)
    own = vars(part).get("forward")  # some libraries patch instances, too
    part.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        if own is None:
            del part.forward
        else:
            part.forward = own


def submodule(module: nn.Module, name: str) -> nn.Module:
    """The submodule at the dotted path `name`; an unknown path is an UnknownNameError with the closest ones."""
    if name:
        with suppress(AttributeError):  # no such path; said below, with the paths that there are
            return module.get_submodule(name)
    parts: dict[str, nn.Module] = dict(module.named_modules())
    close = get_close_matches(name, parts, n=1, cutoff=0.5)
    raise unknown("layer", name, (path for path in parts if path and (close or "." not in path)))


def feature_tensors(output: Any) -> list[Tensor]:
    """The feature tensors in a module's output: a tensor itself; of several, those with the most axes (maps before tokens).

    Looked into as in `map_tensors`; of a Hugging Face output only its feature_maps or last_hidden_state.
    """
    found = [tensor for tensor in tensors_in(output, _MAIN_OUTPUTS) if tensor.is_floating_point()]
    most = max((tensor.ndim for tensor in found), default=0)
    return [tensor for tensor in found if tensor.ndim == most]


def tensors_in(output: Any, main: Sequence[str] = ()) -> list[Tensor]:
    """Every tensor that `map_tensors` reaches, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(output, note, main)
    return found


def map_tensors(output: Any, change: Callable[[Tensor], Tensor], main: Sequence[str] = ()) -> Any:
    """The same structure with every tensor changed; the original is left alone.

    Looked into: tuples, named tuples, lists, mappings, and objects with a tensor in `.tensors` (DETR's nested tensor).
    main: keys that stand for a whole mapping: the first of them that it has is the only entry changed.
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        rebuilt: Any = copy.copy(output)
        for key in [key for key in main if output.get(key) is not None][:1] or list(output):
            rebuilt[key] = map_tensors(output[key], change, main)
        return rebuilt
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(map_tensors(value, change, main) for value in output))
    if type(output) is tuple or type(output) is list:
        return type(output)(map_tensors(value, change, main) for value in output)
    if isinstance(getattr(output, "tensors", None), Tensor):
        nested = copy.copy(output)
        nested.tensors = change(output.tensors)
        return nested
    return output


def _copy_output(module: nn.Module, name: str, tensors: list[Tensor]) -> Any:
    """A hook that records copies; what an inference_mode forward gives becomes an ordinary tensor again."""

    def record(part: nn.Module, args: Any, output: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            tensors.extend(tensor.clone() for tensor in feature_tensors(output))

    return submodule(module, name).register_forward_hook(record)


def _watch_output(module: nn.Module, name: str, tensors: list[Tensor]) -> list[Any]:
    """Hooks that record the submodule's output, and re-enable gradients wherever an enclosing forward had turned them off."""

    def record(part: nn.Module, args: Any, output: Any) -> Any:
        chosen = {id(tensor) for tensor in feature_tensors(output)}
        _allow_gradients(f"layer {name!r}")
        return map_tensors(output, lambda tensor: _root(tensor, tensors) if id(tensor) in chosen else tensor, _MAIN_OUTPUTS)

    def resume(part: nn.Module, args: Any, output: Any) -> None:
        if tensors:
            torch.set_grad_enabled(True)

    handles: list[Any] = [submodule(module, name).register_forward_hook(record)]
    for i in range(name.count(".") + 1):
        around = module.get_submodule(".".join(name.split(".")[:i]))
        handles.append(around.register_forward_hook(resume))
    return handles


def _watch_input(module: nn.Module, tensors: list[Tensor]) -> list[Any]:
    """Hooks that record the first tensor the module is given, and keep gradients on in every submodule."""

    def record(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if tensors:
            return None
        tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if tensor is None or not tensor.is_floating_point():
            return None
        root = _root(tensor, tensors)
        swap = tuple(root if value is tensor else value for value in args)
        return swap, {key: root if value is tensor else value for key, value in kwargs.items()}

    def resume(part: nn.Module, args: Any) -> None:
        if tensors:
            _allow_gradients("the forward pass")

    handles: list[Any] = [part.register_forward_pre_hook(resume) for part in module.modules()]
    return [module.register_forward_pre_hook(record, with_kwargs=True), *handles]


def _allow_gradients(place: str) -> None:
    if torch.is_inference_mode_enabled():
        raise GradientError(f"{place} runs under torch.inference_mode, which no gradient can pass; use torch.no_grad there")
    torch.set_grad_enabled(True)


def _root(tensor: Tensor, tensors: list[Tensor]) -> Tensor:
    """Record the tensor as a leaf, or as a node where it is part of a graph; return what the network goes on with."""
    root = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
    tensors.append(root)
    return root.clone()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".")
