"""The network inside wrappers: for several devices, averaging, compilation, adapters, ultralytics' YOLO."""

from typing import Any

import torch
from torch import nn

from whybox.errors import WhyboxError

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "_FabricModule": "module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of torch and Lightning that hold the network to run in an attribute, and run it as it is."""
_FSDP = "FullyShardedDataParallel"


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside wrappers for several devices, averaging, compilation or adapters (PEFT), or inside ultralytics' YOLO.

    Raises:
        WhyboxError: The wrapper does more than run the network: sharded weights, a learned prompt, a program of its own.
    """
    # By name: none of these packages needs to be installed or imported.
    kind = type(module).__name__
    if kind in _WRAPPERS and isinstance(getattr(module, _WRAPPERS[kind], None), nn.Module):
        return unwrapped(getattr(module, _WRAPPERS[kind]))
    if type(module).__module__.split(".")[0] == "peft" and hasattr(module, "get_base_model"):
        return unwrapped(_without_adapters_shell(module))
    if any(part.__module__ == "ultralytics.engine.model" for part in type(module).__mro__):
        return unwrapped(_of_ultralytics(module))
    _check_whole(module)
    return module


def _check_whole(network: nn.Module) -> None:
    """Refuse a network whose parts cannot be run and watched here: one of TorchScript, or with weights on several devices."""
    if isinstance(network, torch.jit.ScriptModule):
        raise WhyboxError(
            f"{getattr(network, 'original_name', 'this network')} is scripted or traced, and no layer of it can be watched: pass "
            "the module that it was made from"
        )
    # Also where a single process holds them all: a pass that one process alone makes waits for the others without end.
    sharded = [path or "the network" for path, part in network.named_modules() if type(part).__name__ == _FSDP]
    sharded += [path for path, weight in network.named_parameters() if type(weight).__name__ == "DTensor"]
    if sharded:
        raise WhyboxError(
            f"the weights of {type(network).__name__} are sharded (FSDP or tensor parallel: {sharded[0]}): load its full state "
            "dict into a network that is not, and pass that"
        )


def _of_ultralytics(module: Any) -> nn.Module:
    """The network of a `YOLO(...)`, whose own `train()` and `eval()` start a training."""
    network = module.model
    if not isinstance(network, nn.Module):
        raise WhyboxError(
            f"{type(module).__name__}({str(network)!r}) runs an exported file, which has no gradients: load its .pt file"
        )
    return network


def _without_adapters_shell(module: Any) -> nn.Module:
    """The network of a PeftModel, which keeps the adapters that were injected into it."""
    if any(getattr(config, "is_prompt_learning", False) for config in module.peft_config.values()):
        raise WhyboxError("this PEFT model learns a prompt outside the network, which cannot be explained: pass its base model")
    base: nn.Module = module.get_base_model()
    return base
