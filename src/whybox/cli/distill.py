"""`whybox distill`: train a student detector that also learns from a teacher."""

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
    summary,
)
from whybox.errors import WhyboxError
from whybox.files import json_text

LOSS = "odam_kd, fgd, feature_imitation, pkd or mgd, with options: odam_kd:form=gradcam:weight=2."
STUDENT = "compact_fcos, compact_faster_rcnn, or a folder of `whybox train`, to go on from its weights."


def distill(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the student's weights and their card.")],
    teacher: Annotated[str, typer.Option(help="A folder of `whybox train`, or whybox/scenes.")],
    student: Annotated[str, typer.Option(help=STUDENT)] = "compact_fcos",
    data: Annotated[
        str, typer.Option(help="scenes, coco:FOLDER, coco:FILE.json, crowdhuman:FOLDER, or a plug-in data set.")
    ] = "scenes",
    loss: Annotated[str, typer.Option(help=LOSS)] = "odam_kd",
    width: Annotated[float, typer.Option(help="Factor of the channels of a new student's backbone: 0.5 for half of them.")] = 1.0,
    depth: Annotated[int, typer.Option(help="Residual blocks of each of a new student's four stages.")] = 1,
    init: Annotated[str | None, typer.Option(help="Start a new student from these weights, wherever they fit.")] = None,
    inherit: Annotated[
        bool,
        typer.Option(
            "--inherit/--no-inherit",
            help="Give a new student the teacher's neck and head (not with --init).",
        ),
    ] = True,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 16,
    size: Annotated[str, typer.Option(help="Input size WIDTHxHEIGHT; images are resized to fit into it.")] = "320x240",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of the scenes, their order, the augmentation and the weights.")] = 0,
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
    """Train a student that also imitates a teacher. --out gets its weights and card, and is then a name for --model."""
    import torch

    from whybox import zoo
    from whybox.training import detector, distillation
    from whybox.training.examples import open_training_data
    from whybox.training.recipe import Recipe

    made = distillation.make_loss(loss)
    recipe = Recipe(steps, batch, seed, lr, precision=precision, accumulate=accumulate)
    where = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes}
    fabric = launch_training(precision, device, threads, where)
    network, start = (student, init) if student in zoo.builders() else (zoo.load(student).card["network"], student)
    if start == student and (init or width != 1 or depth != 1):
        raise WhyboxError(f"the student {student} has weights and a shape of its own: leave out --init, --width and --depth")
    taught_by = zoo.load(teacher)
    opened = open_training_data(data, seed, limit, held_out)
    if tuple(opened.classes) != taught_by.classes:
        theirs, ours = ", ".join(taught_by.classes), ", ".join(opened.classes)
        raise WhyboxError(f"the teacher's classes are {theirs}; those of the data are {ours}: both must be the same")
    built, arguments = detector.start(opened.classes, size, seed, start, network=network, width=width, depth=depth)
    if inherit and start is None:
        distillation.inherit(built, taught_by.network)
    # Forked and seeded, so that the blocks' random weights are the same again.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        distiller = distillation.Distiller(taught_by.network, built, made)
    with progress_bar(steps, fabric.is_global_zero) as (log, on_progress):
        calls: dict[str, Any] = {"log": log, "on_progress": on_progress, "on_warning": log, "fabric": fabric}
        run = detector.fit(built, opened, recipe, out, distiller=distiller, resume=resume, every=every, **calls)
    # The first process alone scores, writes and prints.
    if not fabric.is_global_zero:
        return
    options = {"teacher": teacher, "student": student, "data": data, "loss": loss, "steps": steps, "batch": batch}
    options |= {"size": size, "lr": lr, "seed": seed, "init": init, "width": width if width != 1 else None}
    options |= {"depth": depth if depth != 1 else None}
    options |= {"held-out": held_out, "limit": limit, "precision": precision, "device": device, "threads": threads}
    options |= fabric_options(where, accumulate)
    command = command_line("distill", options)
    if not inherit:
        command = command.replace(" --out DIR", " --no-inherit --out DIR")
    card = detector.keep(run, opened, out, network, arguments, command)
    print(json_text(card) if as_json else summary(card, out))
