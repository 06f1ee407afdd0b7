"""`whybox reproduce`: a table of the ODAM paper under its protocol, on your copy of the data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whybox.cli import options as read
from whybox.cli.evaluate import (
    Address,
    Batch,
    Engine,
    Limit,
    NumWorkers,
    ObjectsPerImage,
    OnProblem,
    ScoreThreshold,
    Seed,
    Threads,
    TopBefore,
)
from whybox.cli.options import MODEL, Device, ModelName, Weights
from whybox.cli.output import bar, warn

if TYPE_CHECKING:
    from whybox.runs.evaluation.reproduce import Table
    from whybox.truth import DataSet


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
    score_threshold: ScoreThreshold = 0.1,
    objects_per_image: ObjectsPerImage = None,
    top: TopBefore = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch: Batch = 8,
    threads: Threads = 1,
    engine: Engine = "local",
    workers: NumWorkers = 1,
    address: Address = None,
    on_problem: OnProblem = "skip",
    device: Device = None,
) -> None:
    """Reproduce a table of the ODAM paper beside the published numbers; without data, print the requirements."""
    from whybox import api
    from whybox.runs.evaluation.reproduce import reproduce as run
    from whybox.runs.evaluation.reproduce import statement, table_named

    chosen = table_named(table)
    print(statement(chosen) + "\n")
    opened = _open_data(chosen, {"data": data, "crowd": crowd}, on_problem)
    network = api.load(model, weights=read.read_weights(weights), device=device)
    settings: dict[str, Any] = {"mended": mended, "masks": masks, "iou": iou, "score_threshold": score_threshold}
    settings |= {"objects_per_image": objects_per_image, "top": top, "limit": limit, "seed": seed}
    settings |= {"batch": batch, "threads": threads, "engine": engine, "workers": workers, "address": address}
    folder = out or Path(f"whybox-{table}")
    count = sum(min(len(images), limit or len(images)) for images in opened.values())
    with bar(count, "evaluating") as on_progress:
        text = run(chosen, opened, network, folder, on_warning=warn, on_progress=on_progress, **settings)
    print(text)
    for key in opened:
        print(f"report: {(folder / key / 'index.html').resolve().as_uri()}")


def _open_data(table: "Table", names: dict[str, str | None], on_problem: str) -> "dict[str, DataSet]":
    """The data sets that were given for the parts of a table."""
    from whybox import api
    from whybox.errors import WhyboxError

    opened = {key: api.open_data(name, on_problem=on_problem) for key, name in names.items() if name is not None}
    # A table without CrowdHuman columns ignores --crowd, so that one command line serves all tables.
    opened = {key: images for key, images in opened.items() if any(part.key == key for part in table.parts)}
    if not opened:
        raise WhyboxError(f"{table.name}: no data; pass " + " or ".join(f"--{part.key}" for part in table.parts))
    return opened
