"""Launch Lightning Fabric on the devices of a training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from whybox.errors import WhyboxError
from whybox.files import one_line
from whybox.training.recipe import fabric_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Devices:
    """The devices of a training, as arguments of Lightning Fabric.

    Attributes:
        accelerator: "cpu", "cuda", "mps", "gpu" or "auto".
        devices: How many, or which ("auto", 2, [0, 1]).
        strategy: "auto", "ddp" or "ddp_find_unused_parameters_true".
        num_nodes: Number of machines.
    """

    accelerator: str = "cpu"
    devices: int | str | list[int] = 1
    strategy: str = "auto"
    num_nodes: int = 1


def launch(where: Devices | None = None, precision: str = "float32") -> "Fabric":
    """Start the processes of a training.

    With several devices the program is started again once per device, and all processes continue from here: call this before
    anything is written.

    Args:
        where: Accelerator, devices, strategy and nodes; None: one process on the CPU.
        precision: As in the recipe: "float32", "bfloat16", or one of Fabric's names.

    Returns:
        The launched Fabric.

    Raises:
        WhyboxError: lightning-fabric is not installed, a device is not available, or the strategy shards the weights.
    """
    where = where or Devices()
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise WhyboxError("training runs on Lightning Fabric: pip install 'whybox[train]'") from error
    try:
        fabric = Fabric(
            accelerator=where.accelerator,
            devices=where.devices,
            strategy=where.strategy,
            num_nodes=where.num_nodes,
            precision=fabric_precision(precision),
        )
        # The moving average and the checkpoint need whole weights; other strategies shard them over processes.
        if not isinstance(fabric.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise WhyboxError(f"strategy must be auto, ddp or ddp_find_unused_parameters_true, got {where.strategy!r}")
        fabric.launch()
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise WhyboxError(f"training cannot run on {_words(where)}: {one_line(error)}") from error
    return fabric


def _words(where: Devices) -> str:
    return f"accelerator {where.accelerator}, devices {where.devices}, strategy {where.strategy}"


def device(name: str) -> torch.device:
    """Find a device by its name.

    Args:
        name: "cpu", "cuda", "cuda:1", ...

    Returns:
        The device; a tensor was created on it.

    Raises:
        WhyboxError: The device is not available.
    """
    try:
        chosen = torch.device(name)
        # The name of a device that is absent is valid, too: only an allocation tells.
        torch.zeros(1, device=chosen)
    # torch built without CUDA raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        raise WhyboxError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return chosen


def choose(
    name: str = "cpu",
    *,
    accelerator: str | None = None,
    devices: str | None = None,
    strategy: str = "auto",
    num_nodes: int = 1,
) -> Devices:
    """Choose the devices of a training by a device's name, or by Fabric's arguments.

    Args:
        name: "cpu", "cuda" or "cuda:1"; used where `accelerator` is None.
        accelerator: Fabric's name of the type of device.
        devices: How many or which: "2", "0,1" or "auto"; None: the named device alone.
        strategy: Fabric's strategy.
        num_nodes: Number of machines.

    Returns:
        The devices.

    Raises:
        WhyboxError: The named device is not available.
    """
    device_type, number = accelerator or "", None
    if accelerator is None:
        named = device(name)
        device_type, number = named.type, named.index
    alone: int | str | list[int] = 1 if number is None else [number]
    return Devices(device_type, alone if devices is None else int(devices) if devices.isdigit() else devices, strategy, num_nodes)
