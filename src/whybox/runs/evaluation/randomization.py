"""Cascading randomization: a network's weights are randomized layer by layer from the output on, and then restored exactly."""

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
    """Randomize a network's weights in stages, from the output on, and restore them on leaving.

    Layers are the submodules with weights of their own, in the order of `layers_from_output`. They are split into at most
    `stages` groups of equal size, as far as possible. On leaving, also by an exception, every parameter and every buffer
    has its old bits. The caller's random numbers are not changed; the same seed gives the same weights on every device,
    whatever runs between stages.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.1 (cascading randomization). The
    paper randomizes layer by layer; groups are ours, so that a network of 160 layers does not cost 160 explanations.

    Args:
        module: The network.
        run: A forward pass of the network, called once to find the order of the layers; None: the order of registration.
        seed: Seed of the random weights.
        stages: Maximum number of groups.

    Yields:
        An iterator; each step randomizes one more group of layers and yields the name of the deepest of them.

    Raises:
        WhyboxError: `stages` is below 1, or the network has no weights.
    """
    if stages < 1:
        raise WhyboxError(f"stages must be at least 1, got {stages}")
    names = layers_from_output(module, run)
    if not names:
        raise WhyboxError(f"{type(module).__name__} has no weights that could be randomized")
    # Copies rather than a state_dict, which lacks buffers that are not persistent.
    kept = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    steps = _steps(module, names, seed, min(stages, len(names)))
    try:
        yield steps
    finally:
        # An iterator that the caller kept must not randomize the restored weights.
        steps.close()
        for tensor, old in kept:
            _overwrite(tensor, old)


def layers_from_output(module: nn.Module, run: Callable[[], object] | None = None) -> list[str]:
    """The submodules with weights of their own, from the output on.

    The order is the reverse of that in which their forward passes last end. A layer whose weights are used without a call
    (attention's projections) takes the place of the nearest enclosing module that ran; one that did not run at all, and so
    changes nothing, comes last.

    Args:
        module: The network.
        run: A forward pass of the network; None: the reverse of the order of registration.

    Returns:
        The names of the layers, the nearest to the output first.
    """
    finished = _finishing_order(module, run) if run else []
    place = {name: index for index, name in enumerate(finished)}
    names = [name for name, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None]
    # The sort is stable: of several layers of one place, the reversal puts the last registered first.
    return sorted(names, key=lambda name: _place(name, place))[::-1]


def _finishing_order(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """The names of submodules, "" for the module itself, in the order in which their forward passes end during `run()`."""
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
    """Replace a layer's own parameters by random ones, in place.

    A layer that has `reset_parameters` and no submodules gets its own initialization, including running statistics. For
    any other layer the values of every parameter are shuffled, which keeps their scale. Buffers that act as weights
    (frozen batch normalization) are not changed.

    Args:
        layer: The layer; its submodules are not changed.
        seed: Seed of the random weights.
    """
    reset = getattr(layer, "reset_parameters", None)
    # On the CPU, so that every device draws the same; forked, so that the caller's random numbers do not change.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        if callable(reset) and not any(True for _ in layer.children()):
            fresh = _reset_copies(layer, reset)
        else:
            fresh = {key: _shuffled(values) for key, values in layer._parameters.items() if values is not None}
    for key, values in fresh.items():
        _overwrite(getattr(layer, key), values)


def _reset_copies(layer: nn.Module, reset: Callable[[], object]) -> dict[str, Tensor]:
    """The tensors that `reset` initializes, by name: copies on the CPU temporarily replace the layer's own."""
    # reset_parameters writes to self, so the copies have to stand in the module's own dicts.
    registered: list[dict[str, Any]] = [layer._parameters, layer._buffers]
    before = [dict(tensors) for tensors in registered]
    try:
        for tensors, old in zip(registered, before, strict=True):
            tensors.update({key: _on_cpu(value) for key, value in old.items() if value is not None})
        reset()
        return {key: value for tensors in registered for key, value in tensors.items() if value is not None}
    finally:
        for tensors, old in zip(registered, before, strict=True):
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
