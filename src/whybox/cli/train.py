"""`whybox train`: train a small detector on generated scenes or on any data set."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.files import json_text

LOSS = (
    "A loss beside the detector's own: odam_train (on heat maps) or feature_margin (for --nms feature), with options, "
    "odam_train:weight=0.2:order=second. May be given once for each."
)
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint in --out.")]
Precision = Annotated[
    str, typer.Option(help="float32, bfloat16 (if the hardware supports it) or a Fabric precision: 16-mixed, 64-true, ...")
]
DeviceKind = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of each process. Default: torch's.")]
Every = Annotated[int, typer.Option(help="Steps between checkpoints.")]
CardAsJson = Annotated[bool, typer.Option("--json", help="Print the card as JSON.")]
Accelerator = Annotated[str | None, typer.Option(help="A Fabric accelerator, instead of --device: cpu, cuda, mps, auto.")]
DeviceCount = Annotated[str | None, typer.Option(help="Number or list of devices: 2, '0,1' or auto. One process per device.")]
Strategy = Annotated[str, typer.Option(help="Distributed strategy: auto, ddp, ddp_find_unused_parameters_true.")]
Nodes = Annotated[int, typer.Option(help="Number of machines; start the same command on each.")]
Accumulate = Annotated[int, typer.Option(help="Gradient accumulation: split each step into N parts, to save memory.")]


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the weights and their card.")],
    data: Annotated[
        str, typer.Option(help="scenes, coco:FOLDER, coco:FILE.json, crowdhuman:FOLDER, or a plug-in data set.")
    ] = "scenes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 16,
    size: Annotated[str, typer.Option(help="Input size WIDTHxHEIGHT; images are resized to fit into it.")] = "320x240",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, their order and the augmentation.")] = 0,
    init: Annotated[str | None, typer.Option(help="Start from these weights: whybox/scenes or a folder.")] = None,
    network: Annotated[str, typer.Option(help="compact_fcos or compact_faster_rcnn.")] = "compact_fcos",
    loss: Annotated[list[str] | None, typer.Option(help=LOSS)] = None,
    resume: Resume = False,
    limit: Annotated[int | None, typer.Option(help="Train on only N images.")] = None,
    precision: Precision = "float32",
    device: DeviceKind = "cpu",
    accelerator: Accelerator = None,
    devices: DeviceCount = None,
    strategy: Strategy = "auto",
    num_nodes: Nodes = 1,
    accumulate: Accumulate = 1,
    threads: Threads = None,
    held_out: Annotated[int, typer.Option(help="Held-out scenes to evaluate on, and half as many crowds.")] = 200,
    every: Every = 250,
    as_json: CardAsJson = False,
) -> None:
    """Train a compact detector, FCOS or Faster R-CNN. --out gets its weights and model card, and is then a name for --model."""
    from whybox.training import detector
    from whybox.training.examples import open_training_data
    from whybox.training.pass_losses import as_losses, head_options, make_loss
    from whybox.training.recipe import Recipe

    losses = as_losses([make_loss(text) for text in loss or ()])
    recipe = Recipe(steps, batch, seed, lr, precision=precision, accumulate=accumulate)
    where = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes}
    fabric = launch_training(precision, device, threads, where)
    opened = open_training_data(data, seed, limit, held_out)
    built, arguments = detector.start(opened.classes, size, seed, init, network=network, embedding=head_options(losses))
    with progress_bar(steps, fabric.is_global_zero) as (log, on_progress):
        calls: dict[str, Any] = {"log": log, "on_progress": on_progress, "on_warning": log, "fabric": fabric, "loss": losses}
        run = detector.fit(built, opened, recipe, out, resume=resume, every=every, **calls)
    # The first process alone scores, writes and prints.
    if not fabric.is_global_zero:
        return
    options = {"data": data, "network": network, "steps": steps, "batch": batch, "size": size, "lr": lr, "seed": seed}
    options |= {"init": init, "loss": loss, "held-out": held_out, "limit": limit}
    options |= {"precision": precision, "device": device, "threads": threads}
    options |= fabric_options(where, accumulate)
    card = detector.keep(run, opened, out, network, arguments, command_line("train", options))
    print(json_text(card) if as_json else summary(card, out))


def launch_training(precision: str, device: str, threads: int | None, where: Mapping[str, Any]) -> Any:
    """Launch Fabric with these options.

    Args:
        precision: As in the recipe.
        device: A device's name.
        threads: CPU threads of each process; None: torch's default.
        where: Accelerator, devices, strategy and nodes, see `launch.choose`.

    Returns:
        The launched Fabric; with several devices, several processes return from here.
    """
    import torch

    from whybox.training import launch

    fabric = launch.launch(launch.choose(device, **where), precision)
    # After the launch: with several processes, Fabric sets each one's number of threads itself.
    if threads:
        torch.set_num_threads(threads)
    return fabric


def fabric_options(where: Mapping[str, Any], accumulate: int) -> dict[str, Any]:
    """Collect the Fabric options that differ from the defaults: one process without accumulation.

    Args:
        where: Accelerator, devices, strategy and nodes.
        accumulate: Parts of a step.

    Returns:
        Values by the option's name.
    """
    # Accelerator and devices are None unless they are given.
    usual = {"strategy": "auto", "num_nodes": 1}
    chosen = {name.replace("_", "-"): value for name, value in where.items() if value != usual.get(name)}
    return chosen | ({"accumulate": accumulate} if accumulate > 1 else {})


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """Write the command line that repeats a training.

    Args:
        command: The command.
        options: Values by the option's name; None leaves an option out, and a list repeats it.

    Returns:
        The line, with DIR for the output folder.
    """
    # "--out DIR" instead of the user's folder, because the card may be read on another machine.
    lists = {name: value if isinstance(value, list) else [value] for name, value in options.items() if value is not None}
    words = [word for name, values in lists.items() for value in values for word in (f"--{name}", str(value))]
    return shlex.join(["whybox", command, *words, "--out", "DIR"])


@contextmanager
def progress_bar(
    steps: int, shown: bool = True
) -> Iterator[tuple[Callable[[str], None], Callable[[int, Mapping[str, float]], None]]]:
    """A progress bar on standard error; without a terminal, only the lines of the checkpoints.

    Args:
        steps: The number of steps.
        shown: Whether to show the bar and the lines.

    Yields:
        `log` and `on_progress` of a training.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Quiet in all processes but the first, whose lines would be repeated.
    console = Console(stderr=True, highlight=False, quiet=not shown)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
    # Not entered without a terminal: older releases of rich, 14.1 among them, then print an empty line (Textualize/rich#3905).
    with progress if shown and console.is_terminal else nullcontext():
        bar = progress.add_task("training", total=steps)

        def on_progress(step: int, losses: Mapping[str, float]) -> None:
            progress.update(bar, completed=step, description=f"loss {sum(losses.values()):.3f}")

        yield partial(console.print, soft_wrap=True), on_progress


def summary(card: Mapping[str, Any], out: Path) -> str:
    """The result of a training in words.

    Args:
        card: The card of the trained detector.
        out: The folder that it was written to.

    Returns:
        A line on the weights, and one for each set of held-out images.
    """
    lines = [f"{out / 'model.safetensors'}: {card['trained']['parameters']} weights"]
    for name, scores in card["trained"]["scores"].items():
        classes = ", ".join(f"{label} {value:.3f}" for label, value in scores["ap50_per_class"].items())
        lines.append(f"{name} ({scores['images']} images): AP50 {scores['ap50']:.3f}, AP {scores['ap']:.3f}; {classes}")
    return "\n".join(lines)
