"""`whybox reproduce`: a table of the ODAM paper under its protocol, on your copy of the data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli import options as read
from whybox.cli.evaluate import Address, Engine, Limit, NumWorkers, ObjectsPerImage, OnProblem, Seed, TopBefore
from whybox.cli.options import MODEL, Device, ModelName, Weights
from whybox.cli.output import bar, warn


def reproduce(
    table: Annotated[str, typer.Argument(help="odam-table1, odam-table2, odam-table3 or odam-table6.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="COCO: coco:FOLDER:split=val2017; or another data set.")] = None,
    crowd: Annotated[str | None, typer.Option(help="For the CrowdHuman columns: crowdhuman:FOLDER.")] = None,
    model: ModelName = MODEL,
    weights: Weights = "default",
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; an interrupted run in it is resumed. Default: whybox-TABLE.")
    ] = None,
    mended: Annotated[
        bool, typer.Option("--mended", help="Fix the reference code's defects: crop the padding, use D-RISE as in its paper.")
    ] = False,
    masks: Annotated[int | None, typer.Option(help="Number of D-RISE masks. Default: 5000, as in the paper.")] = None,
    iou: Annotated[float, typer.Option(help="IoU threshold of a well-detected object.")] = 0.9,
    score_threshold: Annotated[float, typer.Option(help="Minimum score of a detection.")] = 0.1,
    objects_per_image: ObjectsPerImage = None,
    top: TopBefore = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Perturbed images per forward pass.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads of each worker.")] = 1,
    engine: Engine = "local",
    workers: NumWorkers = 1,
    address: Address = None,
    on_problem: OnProblem = "skip",
    device: Device = None,
) -> None:
    """Reproduce a table of the ODAM paper beside the published numbers; without data, print the requirements."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.runs.evaluation.reproduce import reproduce as run
    from whybox.runs.evaluation.reproduce import statement, table_named

    chosen = table_named(table)
    print(statement(chosen) + "\n")
    names = {"data": data, "crowd": crowd}
    opened = {key: api.open_data(name, on_problem=on_problem) for key, name in names.items() if name is not None}
    # A table without CrowdHuman columns ignores --crowd, so that one command line serves all tables.
    opened = {key: images for key, images in opened.items() if any(part.key == key for part in chosen.parts)}
    if not opened:
        raise WhyboxError(f"{table}: no data; pass " + " or ".join(f"--{part.key}" for part in chosen.parts))
    network = api.load(model, weights=read.read_weights(weights), device=device)
    settings: dict[str, Any] = {
        "iou": iou,
        "score_threshold": score_threshold,
        "objects_per_image": objects_per_image,
        "top": top,
        "limit": limit,
        "seed": seed,
        "batch": batch,
        "threads": threads,
    }
    folder = out or Path(f"whybox-{table}")
    count = sum(min(len(images), limit or len(images)) for images in opened.values())
    with bar(count, "evaluating") as on_progress:
        text = run(
            chosen,
            opened,
            network,
            folder,
            mended=mended,
            masks=masks,
            on_warning=warn,
            on_progress=on_progress,
            engine=engine,
            workers=workers,
            address=address,
            **settings,
        )
    print(text)
    for key in opened:
        print(f"report: {(folder / key / 'index.html').resolve().as_uri()}")
