"""A network's weights replaced by random ones, layer by layer from the output on, and put back bit by bit."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError


@contextmanager
def cascade(
    module: nn.Module, run: Callable[[], object] | None = None, *, seed: int = 0, stages: int = 8
) -> Iterator[Iterator[str]]:
    """Yield an iterator; each step of it randomizes one more group of layers and gives the name of the deepest of them.

    Layers are the submodules with weights of their own, in the order of `layers_from_output`, for which `run`, a forward
    pass of the module, is called once. They are split into at most `stages` groups, as equal in number as can be.
    On leaving, also by an exception, every parameter and every buffer holds its old bits. The caller's random numbers
    are left as they were; the same seed gives the same weights whatever the device, and whatever runs between steps.
    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.1 (cascading randomization). The
    paper goes on layer by layer; groups are ours, so that a network of 160 layers does not cost 160 explanations.
    """
    if stages < 1:
        raise WhyboxError(f"stages must be at least 1, got {stages}")
    names = layers_from_output(module, run)
    if not names:
        raise WhyboxError(f"{type(module).__name__} has no weights that could be randomized")
    kept = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    steps = _steps(module, names, seed, min(stages, len(names)))
    try:
        yield steps
    finally:
        steps.close()
        for tensor, old in kept:
            _overwrite(tensor, old)


def layers_from_output(module: nn.Module, run: Callable[[], object] | None = None) -> list[str]:
    """The names of the submodules with weights of their own, the nearest to the output first.

    The reverse of the order in which they last finish during `run()`; without it, of the order of their registration.
    A layer whose weights are used without a call has the place of the nearest module around it that ran (attention's
    projections); one that did not run at all, and changes nothing, comes last.
    """
    finished = _finishing_order(module, run) if run else []
    place = {name: index for index, name in enumerate(finished)}
    names = [name for name, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None]
    return sorted(names, key=lambda name: _place(name, place))[::-1]


def _finishing_order(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """The names of submodules, "" for the module itself, in the order in which their forwards end during `run()`."""
    finished: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda part, args, output: finished.append(name)

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return finished


def _place(name: str, place: Mapping[str, int]) -> int:
    if not name:
        return place.get("", -1)
    while name and name not in place:
        name = name.rpartition(".")[0]
    return place[name] if name else -1


def _steps(module: nn.Module, names: Sequence[str], seed: int, stages: int) -> Generator[str]:
    ends = [(stage + 1) * len(names) // stages for stage in range(stages)]
    for start, end in zip([0, *ends], ends, strict=False):
        for index in range(start, end):
            randomize(module.get_submodule(names[index]), seed + index)
        yield names[end - 1]


def randomize(layer: nn.Module, seed: int) -> None:
    """Give a layer's own parameters fresh values, in place.

    Where the layer has `reset_parameters` and no submodules, its own initialization, running statistics included: a
    batch normalization starts anew. Else every parameter's values are shuffled among themselves, which keeps their
    scale. Buffers that act as weights (frozen batch normalization) are left: they belong to no parameter.
    """
    reset = getattr(layer, "reset_parameters", None)
    # On the CPU, so that every device draws the same; forked, so that the caller's random numbers go on as they would.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        if callable(reset) and not any(True for _ in layer.children()):
            fresh = _reset_copies(layer, reset)
        else:
            fresh = {key: _shuffled(values) for key, values in layer._parameters.items() if values is not None}
    for key, values in fresh.items():
        _overwrite(getattr(layer, key), values)


def _reset_copies(layer: nn.Module, reset: Callable[[], object]) -> dict[str, Tensor]:
    """What `reset` makes of copies on the CPU that stand in for the layer's own tensors, by name."""
    own: list[dict[str, Any]] = [layer._parameters, layer._buffers]
    before = [dict(tensors) for tensors in own]
    try:
        for tensors, old in zip(own, before, strict=True):
            tensors.update({key: _on_cpu(value) for key, value in old.items() if value is not None})
        reset()
        return {key: value for tensors in own for key, value in tensors.items() if value is not None}
    finally:
        for tensors, old in zip(own, before, strict=True):
            tensors.update(old)


def _on_cpu(tensor: Tensor) -> Tensor:
    copy = tensor.detach().to("cpu", copy=True)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def _shuffled(values: Tensor) -> Tensor:
    flat = values.detach().to("cpu", copy=True).flatten()
    return flat[torch.randperm(len(flat))].reshape(values.shape)


def _overwrite(tensor: Tensor, values: Tensor) -> None:
    # A tensor made under inference_mode can only be written there.
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(values)
