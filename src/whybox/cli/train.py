"""`whybox train`: fit a small detector on generated scenes or on any data set."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

PRECISION = "float32, bfloat16 where the processor has it, or Fabric's name: 16-mixed, 64-true, ..."
Accelerator = Annotated[str | None, typer.Option(help="Instead of --device, Fabric's name: cpu, cuda, mps, auto.")]
DeviceCount = Annotated[str | None, typer.Option(help="How many of them, or which: 2, '0,1' or auto. One process each.")]
Strategy = Annotated[str, typer.Option(help="How several processes work together: auto, ddp, ddp_find_unused_parameters_true.")]
Nodes = Annotated[int, typer.Option(help="Machines; start the same command on each.")]
Accumulate = Annotated[int, typer.Option(help="Take each step in so many parts, one after another, to save memory.")]


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the weights and their card.")],
    data: Annotated[str, typer.Option(help="scenes, coco:FOLDER, coco:FILE.json, crowdhuman:FOLDER, or a plug-in's.")] = "scenes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 16,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that images are fitted into.")] = "320x240",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, the order and the augmentation.")] = 0,
    init: Annotated[str | None, typer.Option(help="Start from these weights: whybox/scenes or a folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    limit: Annotated[int | None, typer.Option(help="Train on this many images only.")] = None,
    precision: Annotated[str, typer.Option(help=PRECISION)] = "float32",
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    accelerator: Accelerator = None,
    devices: DeviceCount = None,
    strategy: Strategy = "auto",
    num_nodes: Nodes = 1,
    accumulate: Accumulate = 1,
    threads: Annotated[int | None, typer.Option(help="Processor threads of each process; by default torch decides.")] = None,
    held_out: Annotated[int, typer.Option(help="Held-out scenes to score on, and half as many crowds.")] = 200,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train a compact FCOS detector; its weights and card go into --out, which `--model` then takes."""
    from whybox.training import detector
    from whybox.training.examples import open_training_data
    from whybox.training.recipe import Recipe

    recipe = Recipe(steps, batch, seed, lr, precision=precision, accumulate=accumulate)
    where = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes}
    fabric = launch_training(precision, device, threads, where)
    opened = open_training_data(data, seed, limit, held_out)
    network, arguments = detector.start(opened.classes, size, seed, init)
    with progress_bar(steps, fabric.is_global_zero) as (log, on_progress):
        calls: dict[str, Any] = {"log": log, "on_progress": on_progress, "on_warning": log}
        run = detector.fit(network, opened, recipe, out, fabric=fabric, resume=resume, every=every, **calls)
    if not fabric.is_global_zero:
        return
    options = {"data": data, "steps": steps, "batch": batch, "size": size, "lr": lr, "seed": seed, "init": init}
    options |= {"held-out": held_out, "limit": limit, "precision": precision, "device": device, "threads": threads}
    options |= given(where, accumulate)
    card = detector.keep(run, opened, out, "compact_fcos", arguments, command_line("train", options))
    print(json.dumps(card, indent=2) if as_json else _summary(card, out))


def launch_training(precision: str, device: str, threads: int | None, where: Mapping[str, Any]) -> Any:
    """Fabric with these options, launched.

    Args:
        precision: The recipe's.
        device: A device's name.
        threads: Processor threads of each process; None: torch decides.
        where: Accelerator, devices, strategy and nodes, see `launch.choose`.

    Returns:
        Fabric: several processes come back from here where several devices are asked for.
    """
    import torch

    from whybox.training import launch

    fabric = launch.launch(launch.choose(device, **where), precision)
    if threads:
        torch.set_num_threads(threads)
    return fabric


def given(where: Mapping[str, Any], accumulate: int) -> dict[str, Any]:
    """What of Fabric's options differs from one process that takes its steps whole, by the option's name."""
    usual = {"strategy": "auto", "num_nodes": 1}
    chosen = {name.replace("_", "-"): value for name, value in where.items() if value != usual.get(name)}
    return chosen | ({"accumulate": accumulate} if accumulate > 1 else {})


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """The command line that does this again, wherever its results are put."""
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["whybox", command, *words, "--out", "DIR"])


@contextmanager
def progress_bar(
    steps: int, shown: bool = True
) -> Iterator[tuple[Callable[[str], None], Callable[[int, Mapping[str, float]], None]]]:
    """A progress bar on standard error, nothing but the checkpoints' lines without a terminal.

    Args:
        steps: Where it ends.
        shown: False: neither bar nor lines.

    Yields:
        `log` and `on_progress` of a training.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, quiet=not shown)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
    # Not entered without a terminal: older releases of rich, 14.1 among them, then print an empty line.
    with progress if shown and console.is_terminal else nullcontext():
        bar = progress.add_task("training", total=steps)

        def on_progress(step: int, losses: Mapping[str, float]) -> None:
            progress.update(bar, completed=step, description=f"loss {sum(losses.values()):.3f}")

        yield partial(console.print, soft_wrap=True), on_progress


def _summary(card: Mapping[str, Any], out: Path) -> str:
    lines = [f"{out / 'model.safetensors'}: {card['trained']['parameters']} weights"]
    for name, scores in card["trained"]["scores"].items():
        classes = ", ".join(f"{label} {value:.3f}" for label, value in scores["ap50_per_class"].items())
        lines.append(f"{name} ({scores['images']} images): AP50 {scores['ap50']:.3f}, AP {scores['ap']:.3f}; {classes}")
    return "\n".join(lines)
