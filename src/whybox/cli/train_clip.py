"""`whybox train-clip`: train a tiny CLIP on captioned scenes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.train import (
    Accelerator,
    Accumulate,
    CardAsJson,
    DeviceCount,
    DeviceKind,
    Every,
    Nodes,
    Precision,
    Resume,
    Strategy,
    Threads,
    command_line,
    fabric_options,
    launch_training,
    progress_bar,
)
from whybox.files import json_text


def train_clip(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the model.")],
    data: Annotated[str, typer.Option(help="scenes: generated scenes with their texts.")] = "scenes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, their order, the crops and the weights.")] = 0,
    count: Annotated[int, typer.Option(help="Number of training scenes; they are rendered once, before the first step.")] = 8000,
    patches: Annotated[float, typer.Option(help="Weight of a second loss on the patches of objects; 0 disables it.")] = 0.0,
    init: Annotated[Path | None, typer.Option(help="Start from this folder's weights.")] = None,
    resume: Resume = False,
    precision: Precision = "float32",
    device: DeviceKind = "cpu",
    accelerator: Accelerator = None,
    devices: DeviceCount = None,
    strategy: Strategy = "auto",
    num_nodes: Nodes = 1,
    accumulate: Accumulate = 1,
    threads: Threads = None,
    held_out: Annotated[int, typer.Option(help="Held-out scenes of each variant to evaluate on.")] = 400,
    every: Every = 250,
    as_json: CardAsJson = False,
) -> None:
    """Train a tiny CLIP. --out gets a folder for CLIPModel.from_pretrained, with a model card."""
    from whybox.training import clip
    from whybox.training.recipe import Recipe

    recipe = Recipe(steps, batch, seed, lr, precision=precision, accumulate=accumulate)
    where = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes}
    fabric = launch_training(precision, device, threads, where)
    with progress_bar(steps, fabric.is_global_zero) as (log, on_progress):
        calls: dict[str, Any] = {"log": log, "on_progress": on_progress, "on_warning": log}
        # Within the bar, because rendering the scenes is logged through it.
        run = clip.begin(data, recipe, count, patches, out, fabric=fabric, init=init, log=log)
        clip.fit(run, out, resume=resume, every=every, interim=min(100, held_out), **calls)
    # The first process alone scores, writes and prints.
    if not fabric.is_global_zero:
        return
    options = {"data": data, "steps": steps, "batch": batch, "lr": lr, "seed": seed, "count": count, "patches": patches}
    options |= {"precision": precision, "device": None if device == "cpu" else device, "threads": threads}
    options |= {"held-out": held_out, "init": init, **fabric_options(where, accumulate)}
    card = clip.keep(run, out, command_line("train-clip", options), held_out)
    print(json_text(card) if as_json else _summary(card, out))


def _summary(card: Mapping[str, Any], out: Path) -> str:
    trained = card["trained"]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in trained["scores"].items())
    return f"{out}: {trained['parameters']} weights\nheld-out scenes ({trained['held_out']} of each variant): {shown}"
