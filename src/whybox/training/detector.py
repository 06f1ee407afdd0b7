"""Train a torchvision detector on a data set, and score it on held-out images."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
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
from whybox.training.distillation import Distiller
from whybox.training.examples import TrainingData
from whybox.training.fit import Fit
from whybox.training.launch import launch
from whybox.training.pass_losses import OneOrMore, as_losses, check, specs_of, watching
from whybox.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# The range of the magnification of the crops.
ZOOM = (0.7, 1.4)


def start(
    classes: Sequence[str],
    size: str = "320x240",
    seed: int = 0,
    init: str | None = None,
    *,
    network: str = "compact_fcos",
    embedding: Mapping[str, int] | None = None,
    width: float = 1.0,
    depth: int = 1,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a compact detector.

    Args:
        classes: Names of the classes to detect.
        size: WIDTHxHEIGHT in pixels, into which images are fitted.
        seed: Seed of the random weights.
        init: A shipped network or a folder, whose weights are copied wherever their names and shapes fit: for another kind of
            network the backbone's; a head for other classes is random.
        network: The builder: "compact_fcos" or "compact_faster_rcnn".
        embedding: The options of an embedding head, see `add_embedding_head`; None: without one, also where `init` has one,
            which would no longer fit the features that it was trained on.
        width: The backbone's usual numbers of channels are multiplied by this; without effect where `init` says them.
        depth: Residual blocks of each of the backbone's four stages; without effect where `init` says them.

    Returns:
        The network, and the arguments of its builder.

    Raises:
        WhyboxError: The size, the width or the depth is invalid, or `init` or `network` name no network.
    """
    numbers = [int(part) for part in size.lower().split("x") if part.isdigit()]
    if len(numbers) != 2 or min(numbers) < 64:
        raise WhyboxError(f"size must be WIDTHxHEIGHT of at least 64 pixels each, such as 320x240, got {size!r}")
    earlier = zoo.load(init) if init else None
    if not 0 < width <= 8:
        raise WhyboxError(f"width must be over 0 and at most 8, got {width}")
    if not 1 <= depth <= 16:
        raise WhyboxError(f"depth must be 1 to 16 blocks, got {depth}")
    plan = {"widths": [max(1, round(width * usual)) for usual in (32, 64, 96, 128)], "blocks": [depth] * 4, "channels": 64}
    arguments: dict[str, Any] = plan
    if earlier and earlier.card["network"] == network:
        arguments = dict(earlier.card["arguments"])
    elif earlier:
        arguments = {name: earlier.card["arguments"].get(name, value) for name, value in plan.items()}
    arguments |= {"num_classes": len(classes) + 1, "min_size": min(numbers), "max_size": max(numbers)}
    arguments.pop(zoo.EMBEDDING, None)
    if embedding is not None:
        arguments[zoo.EMBEDDING] = dict(embedding)
    # Forked, so that the caller's random numbers do not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = zoo.build(network, arguments)
    if earlier:
        random, trained = made.state_dict(), earlier.network.state_dict()
        fitting = {key: value for key, value in trained.items() if key in random and value.shape == random[key].shape}
        # Only what fits in shape: the last layer of a head for other classes stays random.
        made.load_state_dict(random | fitting)
    return made, arguments


def begin(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    fabric: "Fabric | None" = None,
    zoom: tuple[float, float] = ZOOM,
    loss: OneOrMore = None,
    distiller: Distiller | None = None,
) -> Fit:
    """Prepare the training of a detector.

    Args:
        network: A detector with torchvision's interface: in training mode (images, targets) -> losses by name.
        data: The training data.
        recipe: Hyperparameters.
        fabric: Launched Fabric; None: one process on the CPU.
        zoom: The range of the magnification of the crops.
        loss: Losses on maps or embeddings, one or several, added to the detector's own.
        distiller: Of a student, which is this network, with its teacher: its loss is added, and its blocks are trained, too.

    Returns:
        The training, at step 0.

    Raises:
        WhyboxError: The batch cannot be divided among the processes, Fabric was launched with another precision, or the loss
            does not support the detector.
    """
    chosen = as_losses(loss)
    # Before the data is read.
    check(network, chosen)
    fabric = fabric or launch(precision=recipe.precision)
    shape: Any = network.transform
    limits = shape.min_size[0], shape.max_size
    batch = DetectorBatches(data.train, recipe.part(fabric), recipe.seed, limits, zoom)

    def losses(batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> Mapping[str, Tensor]:
        with (
            watching(network, *chosen, step=run.progress.step) as seen,
            nullcontext() if distiller is None else distiller.watching() as taught,
        ):
            by_name: Mapping[str, Tensor] = network(*batch)
        return {**by_name, **seen.losses(), **({} if taught is None else taught.losses())}

    terms = {"zoom": zoom, "classes": data.classes, "images": len(data.train), "data": data.digest}
    terms["loss"] = specs_of(chosen)
    beside: dict[str, nn.Module] = {}
    if distiller is not None:
        beside["distiller"] = distiller
        terms |= distiller.terms
    run = Fit(network, batch, losses, recipe, fabric, beside=beside, terms=terms)
    return run


def fit(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    folder: Path,
    *,
    fabric: "Fabric | None" = None,
    zoom: tuple[float, float] = ZOOM,
    loss: OneOrMore = None,
    distiller: Distiller | None = None,
    resume: bool = False,
    every: int = 250,
    interim: int = 60,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    on_warning: OnWarning = no_warning,
) -> Fit:
    """Train for the recipe's steps; every `every` steps compute scores and write `checkpoint.pt`.

    Args:
        network: The detector; see `begin`.
        data: The training data, and the held-out examples to score on.
        recipe: Hyperparameters.
        folder: The folder of the checkpoint.
        fabric: Launched Fabric; None: one process on the CPU.
        zoom: The range of the magnification of the crops.
        loss: Losses on maps or embeddings, one or several, added to the detector's own.
        distiller: See `begin`.
        resume: Whether to resume from the checkpoint of an earlier run of the same recipe, with the result of an
            uninterrupted run.
        every: Steps between checkpoints.
        interim: Held-out images of each set to score on at a checkpoint; 0: none.
        log: Called with a line at each checkpoint.
        on_progress: Called with the number of steps done and the losses, each step.
        on_warning: Called with a line on problems of the data.

    Returns:
        The finished training.

    Raises:
        WhyboxError: The folder holds another training, cannot be written, or a loss is not finite.
    """
    run = begin(network, data, recipe, fabric, zoom, loss, distiller)
    if data.problems:
        on_warning(f"problems in the data, left out or corrected: {len(data.problems)}; the first: {data.problems[0]}")

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

    With several processes, only the first one calls this.

    Args:
        run: The finished training.
        data: The data that it was trained on.
        folder: The folder to write to.
        network_name: The network's builder.
        arguments: The builder's arguments.
        command: The command line that repeats the training.

    Returns:
        The card. Its `threshold` is the lowest score of detections to show: the one with the best F1 on the main set.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    card: dict[str, Any] = {"network": network_name, "arguments": dict(arguments), "classes": list(data.classes)}
    network = run.averaged_network()
    zoo.save(network, card, folder)
    # What is scored is the file, whose weights are in half precision.
    written = zoo.load(folder).network.to(run.fabric.device)
    scores = {name: evaluate(written, examples, data.classes).as_dict() for name, examples in data.held_out.items()}
    thresholds = [score["threshold"] for score in scores.values()]
    card["threshold"] = thresholds[0] if thresholds else None
    card["trained"] = {
        "command": command,
        **asdict(run.recipe),
        "zoom": run.terms["zoom"],
        "loss": run.terms["loss"],
        **{name: run.terms[name] for name in ("distillation", "teacher") if name in run.terms},
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
