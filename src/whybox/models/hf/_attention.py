"""Run a network of transformers so that its attention is seen: with eager kernels, probabilities recorded, nothing left."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from whybox.attention import AttentionMap

Kind = Literal["image", "query", "cross"]


def attention_modules(net: Any) -> dict[str, tuple[nn.Module, Kind]]:
    """The attention modules of a detection transformer whose attention is dense, in the order in which they run."""
    if hasattr(net, "vit"):
        return {f"vit.encoder.layer.{i}": (block.attention.attention, "image") for i, block in enumerate(net.vit.encoder.layer)}
    found: dict[str, tuple[nn.Module, Kind]] = {}
    for i, layer in enumerate(net.model.encoder.layers):
        found[f"model.encoder.layers.{i}.self_attn"] = (layer.self_attn, "image")
    for i, layer in enumerate(net.model.decoder.layers):
        cross = "encoder_attn" if hasattr(layer, "encoder_attn") else "cross_attn"
        found[f"model.decoder.layers.{i}.self_attn"] = (layer.self_attn, "query")
        found[f"model.decoder.layers.{i}.{cross}"] = (getattr(layer, cross), "cross")
    return found


@contextmanager
def shown_attention(net: nn.Module, modules: Mapping[str, tuple[nn.Module, Kind]]) -> Iterator[list[AttentionMap]]:
    """Yields a list that a forward pass inside fills. The library's own output_attentions would leave hooks on the network."""
    found: list[AttentionMap] = []
    handles: list[Any] = []
    try:
        for name, (module, kind) in modules.items():
            handles.append(module.register_forward_pre_hook(_prepare, with_kwargs=True))
            handles.append(module.register_forward_hook(_recorder(found, name, kind)))
        with _eager(net):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _prepare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Some modules return their probabilities only when asked to. The first queries are the same for every image: with frozen
    weights they, and their attention, would be in no graph."""
    # Bound to the names, because before transformers 5 some blocks call their attention by position.
    given = inspect.signature(module.forward).bind(*args, **kwargs)
    if "output_attentions" in given.signature.parameters:
        given.arguments["output_attentions"] = True
    first = next(iter(given.arguments))
    given.arguments[first] = _in_graph(given.arguments[first])
    return given.args, given.kwargs


def _in_graph(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _recorder(found: list[AttentionMap], name: str, kind: Kind) -> Any:
    def record(module: nn.Module, args: Any, output: Any) -> None:
        found.append(AttentionMap(output[1], kind, name))

    return record


@contextmanager
def _eager(net: nn.Module) -> Iterator[None]:
    """Inside, the network's attention is computed step by step: the faster kernels give no probabilities."""
    parts: list[Any] = [part for part in net.modules() if hasattr(part, "config")]
    # The value itself, not its property: that passes a choice on to inner configurations, and before 4.56 takes names alone.
    configs = {id(part.config): part.config for part in parts}.values()
    kept = [(config, config._attn_implementation_internal) for config in configs]
    try:
        for config, _ in kept:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, before in kept:
            config._attn_implementation_internal = before
