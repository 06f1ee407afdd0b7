"""Record the attention probabilities of a Hugging Face network, with eager attention, and leave the network unchanged."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from whybox.attention import AttentionMap

Kind = Literal["image", "query", "cross"]


def attention_modules(net: Any) -> dict[str, tuple[nn.Module, Kind]]:
    """The attention modules of a detection transformer with dense attention, in the order in which they run."""
    # YOLOS: its object queries are tokens of the image encoder, and there is no decoder.
    if hasattr(net, "vit"):
        return {f"vit.encoder.layer.{i}": (block.attention.attention, "image") for i, block in enumerate(net.vit.encoder.layer)}
    modules: dict[str, tuple[nn.Module, Kind]] = {}
    for i, layer in enumerate(net.model.encoder.layers):
        modules[f"model.encoder.layers.{i}.self_attn"] = (layer.self_attn, "image")
    for i, layer in enumerate(net.model.decoder.layers):
        cross = "encoder_attn" if hasattr(layer, "encoder_attn") else "cross_attn"
        modules[f"model.decoder.layers.{i}.self_attn"] = (layer.self_attn, "query")
        modules[f"model.decoder.layers.{i}.{cross}"] = (getattr(layer, cross), "cross")
    return modules


@contextmanager
def shown_attention(net: nn.Module, modules: Mapping[str, tuple[nn.Module, Kind]]) -> Iterator[list[AttentionMap]]:
    """Yields a list of attention maps that a forward pass inside fills."""
    # Own hooks, because the library's output_attentions would leave hooks on the network.
    shown: list[AttentionMap] = []
    handles: list[Any] = []
    try:
        for name, (module, kind) in modules.items():
            handles.append(module.register_forward_pre_hook(_prepare, with_kwargs=True))
            handles.append(module.register_forward_hook(_recorder(shown, name, kind)))
        with _eager(net):
            yield shown
    finally:
        for handle in handles:
            handle.remove()


def _prepare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Request the probabilities, and put the module's input into an autograd graph."""
    # Bound to parameter names, because before transformers 5 some blocks call their attention with positional arguments.
    given = inspect.signature(module.forward).bind(*args, **kwargs)
    if "output_attentions" in given.signature.parameters:
        given.arguments["output_attentions"] = True
    # The decoder's first queries are learned, the same for every image: with frozen weights their attention is in no graph.
    first = next(iter(given.arguments))
    given.arguments[first] = _in_graph(given.arguments[first])
    return given.args, given.kwargs


def _in_graph(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _recorder(shown: list[AttentionMap], name: str, kind: Kind) -> Any:
    def record(module: nn.Module, args: Any, output: Any) -> None:
        shown.append(AttentionMap(output[1], kind, name))

    return record


@contextmanager
def _eager(net: nn.Module) -> Iterator[None]:
    """Inside, the network uses eager attention: the fused kernels return no probabilities."""
    parts: list[Any] = [part for part in net.modules() if hasattr(part, "config")]
    # The private value, not the property: its setter also changes nested configurations, and before 4.56 takes names alone.
    configs = {id(part.config): part.config for part in parts}.values()
    kept = [(config, config._attn_implementation_internal) for config in configs]
    try:
        for config, _ in kept:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, before in kept:
            config._attn_implementation_internal = before
