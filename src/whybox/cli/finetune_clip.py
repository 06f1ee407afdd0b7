"""`whybox finetune-clip`: fine-tune a CLIP with its own explanations."""

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

MODEL = "A CLIP whose vision transformer has a class token: hf/NAME, open_clip/NAME, whybox/scenes-clip or a folder."
DATA = "coco-captions:FOLDER or coco-captions:FILE.json, with :split=val or :images=FOLDER."
MAPS = "Whose heat maps find the regions of phrases: grad_eclip, gradcam, maskclip; none: the contrastive loss alone."
FORM = "sff: SFF-CLIP; earlier: constant weights of phrases, no momentum model."
PRESENCE = "Weight of a phrase: max (of its map), relative (to the step's mean) or constant. Default: the form's."
TANGENT = "Below this cosine of a region with its phrase the loss goes on as a line, 0.05 for example; else without a gradient."
TAGGER = "What finds adjectives and nouns: rules, nltk or spacy (if its model is installed)."
REPEATS = "Phrases of other regions with the same words: 'left out' or 'negative'."


def finetune_clip(
    model: Annotated[str, typer.Option(help=MODEL)],
    data: Annotated[str, typer.Option(help=DATA)],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the model.")],
    epochs: Annotated[int, typer.Option(help="How often every image is shown.")] = 10,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of --epochs.")] = None,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 0.1,
    warmup: Annotated[int, typer.Option(help="Steps of the warm-up, at most a quarter of all.")] = 1000,
    maps: Annotated[str, typer.Option(help=MAPS)] = "grad_eclip",
    form: Annotated[str, typer.Option(help=FORM)] = "sff",
    weight: Annotated[float, typer.Option(help="Factor of the region-phrase loss; 0: the contrastive loss alone.")] = 1.0,
    reduction: Annotated[str, typer.Option(help="Over the phrases of a step: mean, or sum as the paper writes.")] = "mean",
    presence: Annotated[str | None, typer.Option(help=PRESENCE)] = None,
    tangent: Annotated[float | None, typer.Option(help=TANGENT)] = None,
    repeats: Annotated[str, typer.Option(help=REPEATS)] = "left out",
    phrases: Annotated[int, typer.Option(help="Phrases of a caption, at most.")] = 5,
    tagger: Annotated[str, typer.Option(help=TAGGER)] = "rules",
    seed: Annotated[int, typer.Option(help="Seed of the order and of the choice among an image's captions.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Train on only N images.")] = None,
    resume: Resume = False,
    precision: Precision = "float32",
    device: DeviceKind = "cpu",
    accelerator: Accelerator = None,
    devices: DeviceCount = None,
    strategy: Strategy = "auto",
    num_nodes: Nodes = 1,
    accumulate: Accumulate = 1,
    threads: Threads = None,
    every: Every = 250,
    as_json: CardAsJson = False,
) -> None:
    """Fine-tune a CLIP on captions: phrases are matched with the regions that its own maps point at. --out gets a model."""
    from dataclasses import replace

    from whybox.losses.region_phrase import of_form
    from whybox.training import finetune_clip as training

    chosen: Any = {"maps": maps, "weight": weight, "reduction": reduction, "repeats": repeats, "tangent": tangent}
    options = of_form(form, **chosen, **({} if presence is None else {"presence": presence}))
    usual = training.RECIPE
    rates: Any = {"lr": lr, "weight_decay": weight_decay, "warmup": warmup}
    recipe = replace(usual, steps=steps or 1, batch=batch, seed=seed, precision=precision, accumulate=accumulate, **rates)
    where = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes}
    fabric = launch_training(precision, device, threads, where)
    chosen = {"tagger": tagger, "most": phrases, "limit": limit, "epochs": None if steps else epochs}
    with progress_bar(steps or 1, fabric.is_global_zero) as (log, _):
        run = training.begin(model, data, recipe, options, fabric=fabric, log=log, **chosen)
    # A bar of its own, because the number of steps follows from the data.
    with progress_bar(run.recipe.steps, fabric.is_global_zero) as (log, on_progress):
        training.fit(run, out, resume=resume, every=every, log=log, on_progress=on_progress, on_warning=log)
    # The first process alone writes and prints.
    if not fabric.is_global_zero:
        return
    given = {"model": model, "data": data, "epochs": None if steps else epochs, "steps": steps, "batch": batch, "lr": lr}
    given |= {"weight-decay": weight_decay, "warmup": warmup, "maps": maps, "form": form, "weight": weight}
    given |= {
        "presence": presence,
        "tangent": tangent,
        "reduction": reduction,
        "repeats": repeats,
        "phrases": phrases,
        "tagger": tagger,
        "seed": seed,
        "limit": limit,
    }
    given |= {"precision": precision, "device": None if device == "cpu" else device, "threads": threads}
    card = training.keep(run, out, command_line("finetune-clip", given | fabric_options(where, accumulate)))
    print(json_text(card) if as_json else _summary(card, out))


def _summary(card: Mapping[str, Any], out: Path) -> str:
    trained, loads = card["trained"], card["load"].replace("DIR", str(out))
    return f"{out}: {trained['parameters']} weights, {trained['steps']} steps on {trained['images']} images\nwhybox.load: {loads}"
