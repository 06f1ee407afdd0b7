"""`whybox reproduce`: a table of the ODAM paper, by its own protocol, on the data that you have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli import options as read
from whybox.cli.evaluate import Address, Engine, Limit, NumWorkers, OnProblem, Seed
from whybox.cli.options import MODEL, Device, Top, Weights
from whybox.cli.output import bar, warn


def reproduce(
    table: Annotated[str, typer.Argument(help="odam-table1, odam-table2, odam-table3 or odam-table6.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="COCO: coco:FOLDER:split=val2017; or any other data set.")] = None,
    crowd: Annotated[str | None, typer.Option(help="For the CrowdHuman columns: crowdhuman:FOLDER.")] = None,
    model: Annotated[str, typer.Option(help="A name from `whybox models`, or a folder of `whybox train`.")] = MODEL,
    weights: Weights = "default",
    out: Annotated[
        Path | None, typer.Option(help="The folder; an interrupted run in it is resumed. Default: the table's name.")
    ] = None,
    mended: Annotated[bool, typer.Option("--mended", help="Crop the padding, and take D-RISE as its own paper has it.")] = False,
    masks: Annotated[int | None, typer.Option(help="D-RISE's masks, where 5000 are too many.")] = None,
    iou: Annotated[float, typer.Option(help="IoU from which an object counts as found well.")] = 0.9,
    score_threshold: Annotated[float, typer.Option(help="Lowest score of a detection.")] = 0.1,
    top: Top = 100,
    limit: Limit = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Perturbed images a forward pass.")] = 8,
    threads: Annotated[int, typer.Option(help="Processor threads of each worker.")] = 1,
    engine: Engine = "local",
    workers: NumWorkers = 1,
    address: Address = None,
    on_problem: OnProblem = "skip",
    device: Device = None,
) -> None:
    """Compute a table of the ODAM paper and print its numbers beside ours; without data, say what to put where."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.runs.evaluation.reproduce import reproduce as run
    from whybox.runs.evaluation.reproduce import statement, table_named

    chosen = table_named(table)
    print(statement(chosen) + "\n")
    given = {"data": data, "crowd": crowd}
    opened = {key: api.open_data(text, on_problem=on_problem) for key, text in given.items() if text is not None}
    opened = {key: one for key, one in opened.items() if any(part.key == key for part in chosen.parts)}
    if not opened:
        raise WhyboxError(f"{table}: no data to compute it on; give " + " or ".join(f"--{part.key}" for part in chosen.parts))
    network = api.load(model, weights=read.read_weights(weights), device=device)
    settings: dict[str, Any] = {
        "iou": iou,
        "score_threshold": score_threshold,
        "top": top,
        "limit": limit,
        "seed": seed,
        "batch": batch,
        "threads": threads,
    }
    folder = out or Path(f"whybox-{table}")
    count = sum(min(len(one), limit or len(one)) for one in opened.values())
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
