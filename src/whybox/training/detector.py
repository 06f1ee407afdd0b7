"""Fit a detector of torchvision's kind on a data set, and score it on images it has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from whybox import zoo
from whybox.errors import WhyboxError
from whybox.progress import OnWarning, no_warning
from whybox.training import fit as loop
from whybox.training.augmentation import DetectorBatches
from whybox.training.detector_scores import evaluate
from whybox.training.examples import TrainingData
from whybox.training.fit import Fit
from whybox.training.launch import launch
from whybox.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# How much larger a window shows its objects, least and most.
ZOOM = (0.7, 1.4)


def start(
    classes: Sequence[str], size: str = "320x240", seed: int = 0, init: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A compact FCOS, and the arguments that rebuild it.

    Args:
        classes: The names of what it shall find.
        size: WIDTHxHEIGHT in pixels that images are fitted into.
        seed: Of the random weights.
        init: A shipped network or a folder whose weights are taken over wherever they fit; a head for other classes starts anew.

    Returns:
        The network, and its builder's arguments.

    Raises:
        WhyboxError: The size makes no sense, or `init` names no network.
    """
    numbers = [int(part) for part in size.lower().split("x") if part.isdigit()]
    if len(numbers) != 2 or min(numbers) < 64:
        raise WhyboxError(f"size is WIDTHxHEIGHT of at least 64 pixels each, such as 320x240, not {size!r}")
    earlier = zoo.load(init) if init else None
    plan = {"widths": [32, 64, 96, 128], "blocks": [1, 1, 1, 1], "channels": 64}
    arguments: dict[str, Any] = dict(earlier.card["arguments"]) if earlier else plan
    arguments |= {"num_classes": len(classes) + 1, "min_size": min(numbers), "max_size": max(numbers)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = zoo.build("compact_fcos", arguments)
    if earlier:
        own, given = network.state_dict(), earlier.network.state_dict()
        fitting = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
        network.load_state_dict(own | fitting)
    return network, arguments


def begin(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    fabric: "Fabric | None" = None,
    zoom: tuple[float, float] = ZOOM,
) -> Fit:
    """A training of a detector, at its beginning.

    Args:
        network: A detector as torchvision's are: in training mode (images, targets) -> losses by name.
        data: What to learn.
        recipe: How to train.
        fabric: Launched; by default one process on the CPU.
        zoom: How much larger a window shows its objects, least and most.

    Returns:
        The training.

    Raises:
        WhyboxError: The batch cannot be shared by the processes, or Fabric runs in another precision.
    """
    fabric = fabric or launch(precision=recipe.precision)
    shape: Any = network.transform
    limits = shape.min_size[0], shape.max_size
    batch = DetectorBatches(data.train, recipe.part(fabric), recipe.seed, limits, zoom)

    def losses(batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = network(*batch)
        return found

    terms = {"zoom": zoom, "classes": data.classes, "images": len(data.train), "data": data.digest}
    return Fit(network, batch, losses, recipe, fabric, terms=terms)


def fit(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    folder: Path,
    *,
    fabric: "Fabric | None" = None,
    zoom: tuple[float, float] = ZOOM,
    resume: bool = False,
    every: int = 250,
    interim: int = 60,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    on_warning: OnWarning = no_warning,
) -> Fit:
    """Train to the recipe's end; every `every` steps score, and write `checkpoint.pt`.

    Args:
        network: The detector; see `begin`.
        data: What to learn, and what to score on.
        recipe: How to train.
        folder: Where the checkpoint goes.
        fabric: Launched; by default one process on the CPU.
        zoom: How much larger a window shows its objects, least and most.
        resume: Go on from the checkpoint of an earlier run of the same recipe: it ends as the unbroken run would have.
        every: Steps between checkpoints.
        interim: Held-out images of each set to score on at a checkpoint; 0: none.
        log: Gets a line at each checkpoint.
        on_progress: Gets the steps done and the losses, each step.
        on_warning: Gets a line on what is wrong with the data.

    Returns:
        The training, at its end.

    Raises:
        WhyboxError: The folder holds another training, cannot be written, or a loss is not finite.
    """
    run = begin(network, data, recipe, fabric, zoom)
    if data.problems:
        on_warning(f"problems in the data, left out or mended: {len(data.problems)}; the first: {data.problems[0]}")

    def score(averaged: nn.Module) -> dict[str, float]:
        sets = data.held_out.items()
        return {name: round(evaluate(averaged, examples, data.classes, interim).ap50, 4) for name, examples in sets}

    return loop.fit(
        run,
        folder,
        resume=resume,
        every=every,
        score=score if interim else None,
        log=log,
        on_progress=on_progress,
        on_warning=on_warning,
    )


def keep(
    run: Fit, data: TrainingData, folder: Path, network_name: str, arguments: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Write the averaged network with its card, and score what was written on all held-out images.

    With several processes the first alone calls this.

    Args:
        run: The training, at its end.
        data: What it learned.
        folder: Where weights and card go.
        network_name: The network's builder.
        arguments: The builder's arguments.
        command: The command line that does this again.

    Returns:
        The card. Its `threshold` is the score from which on detections are worth showing: that of the best F1 on the main set.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    card: dict[str, Any] = {"network": network_name, "arguments": dict(arguments), "classes": list(data.classes)}
    network = run.averaged_network()
    zoo.save(network, card, folder)
    written = zoo.load(folder).network.to(run.fabric.device)
    scores = {name: evaluate(written, examples, data.classes).as_dict() for name, examples in data.held_out.items()}
    thresholds = [score["threshold"] for score in scores.values()]
    card["threshold"] = thresholds[0] if thresholds else None
    card["trained"] = {
        "command": command,
        **asdict(run.recipe),
        "zoom": run.terms["zoom"],
        "processes": run.fabric.world_size,
        "images": len(data.train),
        "seconds": round(run.progress.seconds),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "torch": torch.__version__.split("+")[0],
        "history": run.progress.history,
        "scores": scores,
    }
    zoo.save(network, card, folder)
    return card
