"""Where a training runs: Lightning Fabric, started with its own options."""

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
    """Where a training runs: arguments of Lightning Fabric.

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

    With several devices the program itself is started again once for each of them, and all go on from here: call this before
    anything is written.

    Args:
        where: Accelerator, devices, strategy and nodes; by default one process on the CPU.
        precision: The recipe's: "float32", "bfloat16", or one of Fabric's names.

    Returns:
        Fabric, launched.

    Raises:
        WhyboxError: lightning-fabric is not installed, the devices are not here, or the strategy spreads the weights.
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
            raise WhyboxError(f"strategy is auto, ddp or ddp_find_unused_parameters_true, not {where.strategy!r}")
        fabric.launch()
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise WhyboxError(f"training cannot run on {_words(where)}: {one_line(error)}") from error
    return fabric


def _words(where: Devices) -> str:
    return f"accelerator {where.accelerator}, devices {where.devices}, strategy {where.strategy}"


def device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: "cpu", "cuda", "cuda:1", ...

    Returns:
        The device, on which a tensor can be made.

    Raises:
        WhyboxError: It is not here.
    """
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise WhyboxError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return chosen


def choose(
    name: str = "cpu",
    *,
    accelerator: str | None = None,
    devices: str | None = None,
    strategy: str = "auto",
    num_nodes: int = 1,
) -> Devices:
    """Where to train, from a device's name and what Fabric calls the same.

    Args:
        name: "cpu", "cuda" or "cuda:1"; read where `accelerator` is not given.
        accelerator: Fabric's name of the kind of device.
        devices: How many or which: "2", "0,1" or "auto"; by default one, the named one.
        strategy: Fabric's strategy.
        num_nodes: Machines.

    Returns:
        The choice.

    Raises:
        WhyboxError: The named device is not here.
    """
    kind, number = accelerator or "", None
    if accelerator is None:
        named = device(name)
        kind, number = named.type, named.index
    alone: int | str | list[int] = 1 if number is None else [number]
    return Devices(kind, alone if devices is None else int(devices) if devices.isdigit() else devices, strategy, num_nodes)
