"""Context managers for a module's forward pass that leave it unchanged: freeze it, record or replace a submodule's output."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import GradientError, unknown
from whybox.network_state import exclusive

INPUT = "input"
"""The layer name of the network's own input."""

_MAIN_OUTPUTS = ("feature_maps", "last_hidden_state")
"""Entries of a ModelOutput that are the features; its other entries (hidden states, attentions) are not."""


_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")
"""The flags of open_clip, timm and transformers. Some are obeyed in evaluation mode, too: the pass is then made again during
the backward pass, without the hooks that recorded it."""


@contextmanager
def frozen(module: nn.Module, *, weights: bool = True) -> Iterator[nn.Module]:
    """Inside, the module is in evaluation mode, no parameter requires grad, gradient checkpointing is off, and no other thread
    explains it; afterwards every flag is restored.

    Args:
        module: The module.
        weights: False leaves the parameters as they are, for a pass whose graph reaches down to them.
    """
    # The lock first: flags that another thread has set would be taken for the user's and restored as such.
    with exclusive(module), _without_checkpointing(module), _uncompiled(module), _flags_set(module, weights):
        yield module


def _uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Inside, compiled parts run as they were written: compiled code does not look for hooks that come later."""
    if not compiled(module):
        return nullcontext()
    stance = getattr(torch.compiler, "set_stance", None)
    # Before torch 2.6 there is no such switch.
    return _written(module) if stance is None else stance("force_eager")


@contextmanager
def _written(module: nn.Module) -> Iterator[None]:
    """What the switch does, part by part."""
    # Past the parts' own __setattr__, because a compiled part sets the attributes of the one in it.
    parts = [(vars(part), part) for part in module.modules()]
    switched: list[tuple[dict[str, Any], str, Any]] = [
        *((held, "_compiled_call_impl", None) for held, _ in parts if held.get("_compiled_call_impl") is not None),
        *((held, "forward", part._orig_mod) for held, part in parts if type(part).__name__ == "OptimizedModule"),
    ]
    before = [(held, name, held[name]) for held, name, _ in switched]
    try:
        for held, name, value in switched:
            held[name] = value
        yield
    finally:
        for held, name, value in before:
            held[name] = value


def compiled(network: nn.Module) -> bool:
    """Whether parts of the network went through torch.compile."""
    return any(
        # `module.compile()`, and `torch.compile(module)` by its name: importing its class would import torch._dynamo.
        getattr(part, "_compiled_call_impl", None) is not None or type(part).__name__ == "OptimizedModule"
        for part in network.modules()
    )


@contextmanager
def _without_checkpointing(module: nn.Module) -> Iterator[None]:
    switched = [(part, name) for part in module.modules() for name in _CHECKPOINTING if vars(part).get(name) is True]
    try:
        for part, name in switched:
            setattr(part, name, False)
        yield
    finally:
        for part, name in switched:
            setattr(part, name, True)


@contextmanager
def _flags_set(module: nn.Module, weights: bool) -> Iterator[None]:
    """Evaluation mode and, with `weights`, no parameter that requires grad."""
    # Set flag by flag, because subclasses override the methods: on some wrappers `.train()` starts a training run.
    modes = [(part, part.training) for part in module.modules()]
    # Leaves alone: torch refuses to change the flag of a tensor that is computed, such as a weight inside a functional call.
    needs = [(weight, weight.requires_grad) for weight in module.parameters() if weights and weight.is_leaf]
    try:
        for part, mode in modes:
            if mode:  # setting an attribute of a module is slow
                part.training = False
        for weight, need in needs:
            if need:
                weight.requires_grad = False
        yield
    finally:
        for part, mode in modes:
            if part.training != mode:
                part.training = mode
        for weight, need in needs:
            if weight.requires_grad == need:
                continue
            # requires_grad of an inference tensor can only be set under inference_mode.
            with torch.inference_mode(weight.is_inference()):
                weight.requires_grad = need


@contextmanager
def capture(
    module: nn.Module, names: Iterable[str], *, gradients: bool = True, apart: bool = False
) -> Iterator[dict[str, list[Tensor]]]:
    """Record submodules' outputs during a forward pass, as tensors that gradients can be taken at.

    A tensor outside any graph becomes a leaf, so nothing before it is differentiated; one inside a graph stays a node.
    Gradients can be taken after this context is left, and inside the caller's no_grad or inference_mode.

    Args:
        module: The network.
        names: Dotted paths of submodules; INPUT is the first tensor that `module` is called with.
        gradients: False records plain copies, without a graph.
        apart: Whether every recorded tensor becomes a leaf, also where it is computed from another recorded one: a gradient at
            a layer then leaves out what reaches the output through later recorded layers.

    Yields:
        A dictionary that the forward pass fills: name -> its feature tensors in call order (several where the submodule
        returns several or is called several times).

    Raises:
        GradientError: A layer gave no features, or inference tensors are in the way.
    """
    captured: dict[str, list[Tensor]] = {name: [] for name in names}
    runs: dict[str, list[tuple[torch.Size, ...]]] = {name: [] for name in captured}
    handles: list[Any] = []
    try:
        # In this order, because inference_mode(False) turns gradients on.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            for name, tensors in captured.items():
                if name != INPUT:
                    handles.append(_note_runs(module, name, runs[name]))
                if not gradients:
                    handles.append(_copy_output(module, name, tensors))
                else:
                    handles += _watch_input(module, tensors) if name == INPUT else _watch_output(module, name, tensors, apart)
            yield captured
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise GradientError(f"a tensor made under torch.inference_mode is in the way ({_first_line(error)})") from error
    finally:
        for handle in handles:
            handle.remove()
    # After the pass, because only then is it known that a layer was not called, or was called twice.
    for name, tensors in captured.items():
        if not tensors:
            raise GradientError(f"layer {name!r} gave no features: the forward did not call it, or it returns no float tensor")
        _check_runs(name, runs[name])


def _check_runs(name: str, shapes: Sequence[tuple[torch.Size, ...]]) -> None:
    """Refuse a layer that ran several times on maps of one size: which run saw the image as it is, nobody can tell."""
    if len(set(shapes)) < len(shapes):
        raise GradientError(
            f"layer {name!r} runs {len(shapes)} times in one pass on maps of one size (test-time augmentation?), and its runs "
            "cannot be told apart: explain the network without augmentation, or choose a layer that runs once"
        )


@contextmanager
def record(module: nn.Module, name: str) -> Iterator[list[Any]]:
    """Record the submodule's whole output in each forward pass inside, as copies without a graph."""
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
    """Inside, the submodule `name` returns `output` without running; its hooks still run."""
    part = submodule(module, name)
    # An instance attribute that is there already (some libraries patch instances, too) has to be restored.
    own = vars(part).get("forward")
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
    """The feature tensors in a module's output, nested as in `map_tensors`: of several, those with the most axes (maps rather
    than tokens); of a Hugging Face ModelOutput only its feature_maps or last_hidden_state."""
    tensors = [tensor for tensor in tensors_in(output, _MAIN_OUTPUTS) if tensor.is_floating_point()]
    most = max((tensor.ndim for tensor in tensors), default=0)
    return [tensor for tensor in tensors if tensor.ndim == most]


def tensors_in(output: Any, main: Sequence[str] = ()) -> list[Tensor]:
    """Every tensor that `map_tensors` reaches, in order."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(output, note, main)
    return tensors


def map_tensors(output: Any, change: Callable[[Tensor], Tensor], main: Sequence[str] = ()) -> Any:
    """A copy of a nested output with every tensor changed.

    Args:
        output: Tensors, nested in tuples, named tuples, lists, mappings, dataclasses, and objects with a tensor in `.tensors`
            (DETR's NestedTensor).
        change: Applied to every tensor.
        main: Keys; in a mapping that has one of them, the first such entry is the only one changed.
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        # A copy, not a new mapping: a ModelOutput has a class of its own, whose entries are its attributes, too.
        rebuilt: Any = copy.copy(output)
        for key in [key for key in main if output.get(key) is not None][:1] or list(output):
            rebuilt[key] = map_tensors(output[key], change, main)
        return rebuilt
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(map_tensors(value, change, main) for value in output))
    # Not their subclasses, whose constructors may take other arguments.
    if type(output) is tuple or type(output) is list:
        return type(output)(map_tensors(value, change, main) for value in output)
    if is_dataclass(output) and not isinstance(output, type):
        changed = copy.copy(output)
        names = [entry.name for entry in fields(output) if hasattr(output, entry.name)]
        for name in [name for name in main if name in names and getattr(output, name) is not None][:1] or names:
            # Past the class's own __setattr__, because a frozen dataclass refuses.
            object.__setattr__(changed, name, map_tensors(getattr(output, name), change, main))
        return changed
    if isinstance(getattr(output, "tensors", None), Tensor):
        nested = copy.copy(output)
        nested.tensors = change(output.tensors)
        return nested
    return output


def _note_runs(module: nn.Module, name: str, shapes: list[tuple[torch.Size, ...]]) -> Any:
    def note(part: nn.Module, args: Any, output: Any) -> None:
        shapes.append(tuple(tensor.shape for tensor in feature_tensors(output)))

    return submodule(module, name).register_forward_hook(note)


def _copy_output(module: nn.Module, name: str, tensors: list[Tensor]) -> Any:
    """A hook that records copies; inference tensors become normal tensors."""

    def record(part: nn.Module, args: Any, output: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            tensors.extend(tensor.clone() for tensor in feature_tensors(output))

    return submodule(module, name).register_forward_hook(record)


def _watch_output(module: nn.Module, name: str, tensors: list[Tensor], apart: bool) -> list[Any]:
    """Hooks that record the submodule's output, and re-enable gradients that an enclosing forward has disabled."""

    def record(part: nn.Module, args: Any, output: Any) -> Any:
        chosen = {id(tensor) for tensor in feature_tensors(output)}
        _allow_gradients(f"layer {name!r}")
        return map_tensors(
            output, lambda tensor: _root(tensor, tensors, apart) if id(tensor) in chosen else tensor, _MAIN_OUTPUTS
        )

    def resume(part: nn.Module, args: Any, output: Any) -> None:
        if tensors:
            torch.set_grad_enabled(True)

    handles: list[Any] = [submodule(module, name).register_forward_hook(record)]
    # On every parent, too: leaving a forward under no_grad restores the disabled mode of the forward around it.
    for i in range(name.count(".") + 1):
        around = module.get_submodule(".".join(name.split(".")[:i]))
        handles.append(around.register_forward_hook(resume))
    return handles


def _watch_input(module: nn.Module, tensors: list[Tensor]) -> list[Any]:
    """Hooks that record the first tensor that the module is called with, and enable gradients in every submodule."""

    def record(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if tensors:
            return None
        tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if tensor is None or not tensor.is_floating_point():
            return None
        # Found by identity: the network may take it by position or by name, among other arguments.
        root = _root(tensor, tensors)
        swap = tuple(root if value is tensor else value for value in args)
        return swap, {key: root if value is tensor else value for key, value in kwargs.items()}

    def resume(part: nn.Module, args: Any) -> None:
        if tensors:
            _allow_gradients("the forward pass")

    # In every part, because any of them may open a no_grad of its own before it calls the next.
    handles: list[Any] = [part.register_forward_pre_hook(resume) for part in module.modules()]
    return [module.register_forward_pre_hook(record, with_kwargs=True), *handles]


def _allow_gradients(place: str) -> None:
    if torch.is_inference_mode_enabled():
        raise GradientError(f"{place} runs under torch.inference_mode, which no gradient can pass; use torch.no_grad there")
    torch.set_grad_enabled(True)


def _root(tensor: Tensor, tensors: list[Tensor], apart: bool = False) -> Tensor:
    """Record the tensor as a leaf, or as a node where it is part of a graph; return the tensor for the network."""
    # The network gets a clone, because a later in-place activation would overwrite the recorded values.
    root = tensor.clone() if tensor.requires_grad and not apart else tensor.detach().clone().requires_grad_()
    tensors.append(root)
    return root.clone()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".")
