"""`whybox train-clip`: fit a tiny CLIP on captioned scenes."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.train import progress_bar


def train_clip(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the model.")],
    data: Annotated[str, typer.Option(help="scenes: generated ones, with their texts.")] = "scenes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, their order, the windows and the weights.")] = 0,
    count: Annotated[int, typer.Option(help="Scenes to train on; they are drawn once, before the first step.")] = 8000,
    patches: Annotated[float, typer.Option(help="Weight of a second loss, on the patches of objects; 0: none.")] = 0.0,
    init: Annotated[Path | None, typer.Option(help="Start from this folder's weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 where the processor has it.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="Processor threads; by default torch decides.")] = None,
    held_out: Annotated[int, typer.Option(help="Held-out scenes of each kind to score on.")] = 400,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train a tiny CLIP; --out then holds a folder that CLIPModel.from_pretrained reads, with a card."""
    import torch

    from whybox.training import clip
    from whybox.training.detector import Recipe

    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe(steps, batch, seed, lr, precision=precision, zoom=clip.ZOOM)
    with progress_bar(steps) as (say, tick):
        run = clip.begin(data, recipe, count, patches, out, init=init, say=say)
        clip.fit(run, out, resume=resume, every=every, interim=min(100, held_out), say=say, tick=tick)
    options = {"data": data, "steps": steps, "batch": batch, "lr": lr, "seed": seed, "count": count, "patches": patches}
    options |= {"precision": precision, "threads": threads, "held-out": held_out, "init": init}
    card = clip.keep(run, out, _command(options), held_out)
    print(json.dumps(card, indent=2) if as_json else _summary(card, out))


def _command(options: Mapping[str, Any]) -> str:
    """The command line that does this again, wherever its results are put."""
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["whybox", "train-clip", *words, "--out", "DIR"])


def _summary(card: Mapping[str, Any], out: Path) -> str:
    trained = card["trained"]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in trained["scores"].items())
    return f"{out}: {trained['parameters']} weights\nheld-out scenes ({trained['held_out']} of each kind): {shown}"
