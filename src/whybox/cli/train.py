"""`whybox train`: fit a small detector on generated scenes or on a COCO-format folder."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the weights and their card.")],
    data: Annotated[str, typer.Option(help="scenes, coco:FOLDER or coco:FILE.json.")] = "scenes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 16,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT that images are fitted into.")] = "320x240",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, the order and the augmentation.")] = 0,
    init: Annotated[str | None, typer.Option(help="Start from these weights: whybox/scenes or a folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    limit: Annotated[int | None, typer.Option(help="Train on this many images only.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 where the processor has it.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads; by default torch decides.")] = None,
    held_out: Annotated[int, typer.Option(help="Held-out scenes to score on, and half as many crowds.")] = 200,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train a compact FCOS detector; its weights and card go into --out, which `--model` then takes."""
    import torch

    from whybox.training import detector

    if threads:
        torch.set_num_threads(threads)
    task = detector.task(data, seed, limit, held_out)
    network, arguments = detector.start(task.classes, size, seed, init)
    recipe = detector.Recipe(steps, batch, seed, lr, precision=precision)
    network.to(detector.device(device))
    with progress_bar(steps) as (say, tick):
        run = detector.fit(network, task, recipe, out, resume=resume, every=every, say=say, tick=tick)
    options = {"data": data, "steps": steps, "batch": batch, "size": size, "lr": lr, "seed": seed, "init": init}
    options |= {"held-out": held_out, "limit": limit, "precision": precision, "device": device, "threads": threads}
    card = detector.keep(run, out, "compact_fcos", arguments, _command(options))
    print(json.dumps(card, indent=2) if as_json else _summary(card, out))


def _command(options: Mapping[str, Any]) -> str:
    """The command line that does this again, wherever its results are put."""
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["whybox", "train", *words, "--out", "DIR"])


@contextmanager
def progress_bar(steps: int) -> Iterator[tuple[Callable[[str], None], Callable[[int, Mapping[str, float]], None]]]:
    """A progress bar on standard error, nothing but the checkpoints' lines without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    # Not entered without a terminal: older releases of rich, 14.1 among them, then print an empty line.
    with progress if console.is_terminal else nullcontext():
        bar = progress.add_task("training", total=steps)

        def tick(step: int, losses: Mapping[str, float]) -> None:
            progress.update(bar, completed=step, description=f"loss {sum(losses.values()):.3f}")

        yield partial(console.print, soft_wrap=True), tick


def _summary(card: Mapping[str, Any], out: Path) -> str:
    lines = [f"{out / 'model.safetensors'}: {card['trained']['parameters']} weights"]
    for name, scores in card["trained"]["scores"].items():
        classes = ", ".join(f"{label} {value:.3f}" for label, value in scores["ap50_per_class"].items())
        lines.append(f"{name} ({scores['images']} images): AP50 {scores['ap50']:.3f}, AP {scores['ap']:.3f}; {classes}")
    return "\n".join(lines)
