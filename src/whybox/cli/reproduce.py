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
from whybox.cli.output import bar, tell_own_threshold, warn

if TYPE_CHECKING:
    from whybox.runs.evaluation.paper_tables import Table
    from whybox.truth import DataSet


def reproduce(
    table: Annotated[str, typer.Argument(help="odam-table1 to odam-table12.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="COCO: coco:FOLDER:split=val2017; or another data set.")] = None,
    crowd: Annotated[str | None, typer.Option(help="For the CrowdHuman columns: crowdhuman:FOLDER.")] = None,
    model: ModelName = MODEL,
    weights: Weights = "default",
    trained: Annotated[
        str | None, typer.Option(help="For tables 9 to 12: the same detector trained with ODAM-Train.", metavar="MODEL")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="For tables 7 and 8: KEY=MODEL or KEY=MODEL@WEIGHTS, a detector of a row. Once for each."),
    ] = None,
    study: Annotated[
        list[Path] | None,
        typer.Option(help="For tables 4 and 5: a folder of `whybox study`; for table 4 one of each design.", metavar="FOLDER"),
    ] = None,
    better: Annotated[
        str | None, typer.Option(help="For table 4: which model of the study is the better detector. Default: its first.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="For tables 4 and 5: simulated respondents, also where people took part.")
    ] = False,
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
    from whybox.runs.crowds.paper_tables import RULE_TABLES
    from whybox.runs.distillation.paper_tables import STUDENT_TABLES
    from whybox.runs.evaluation.reproduce import reproduce as run
    from whybox.runs.evaluation.reproduce import statement, table_named
    from whybox.study.paper_tables import STUDY_TABLES

    if table in STUDY_TABLES:
        _studies(table, study or [], out, better=better, simulated=simulated)
        return
    if table in RULE_TABLES:
        names = (model, trained, crowd or data)
        _rules(table, names, out, weights=weights, mended=mended, limit=limit, on_problem=on_problem, device=device)
        return
    if table in STUDENT_TABLES:
        _students(table, data, row or [], out, limit=limit, on_problem=on_problem, device=device)
        return
    chosen = table_named(table, (*RULE_TABLES, *STUDENT_TABLES, *STUDY_TABLES))
    print(statement(chosen) + "\n")
    opened = _open_data(chosen, {"data": data, "crowd": crowd}, on_problem)
    network = api.load(model, weights=read.read_weights(weights), device=device)
    second = api.load(trained, device=device) if trained and chosen.trained else None
    settings: dict[str, Any] = {
        "trained": second,
        "mended": mended,
        "masks": masks,
        "iou": iou,
        "score_threshold": score_threshold,
    }
    settings |= {"objects_per_image": objects_per_image, "top": top, "limit": limit, "seed": seed}
    settings |= {"batch": batch, "threads": threads, "engine": engine, "workers": workers, "address": address}
    folder = out or Path(f"whybox-{table}")
    count = sum(min(len(images), limit or len(images)) for images in opened.values()) * (1 if second is None else 2)
    with bar(count, "evaluating") as on_progress:
        text = run(chosen, opened, network, folder, on_warning=warn, on_progress=on_progress, **settings)
    print(text)
    for page in sorted(folder.glob("*/index.html")):
        print(f"report: {page.resolve().as_uri()}")
    for each in (network, second):
        if each is not None:
            tell_own_threshold(each, score_threshold)


def _rules(
    table: str,
    names: tuple[str, str | None, str | None],
    out: Path | None,
    *,
    weights: str,
    mended: bool,
    limit: int | None,
    on_problem: str,
    device: str | None,
) -> None:
    """A table of rules of duplicate removal; names: of the model, of the trained one, and of the data."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.runs.crowds.paper_tables import RULE_TABLES
    from whybox.runs.crowds.reproduce import reproduce_rules, rule_statement

    chosen, (model, trained, data) = RULE_TABLES[table], names
    print(rule_statement(chosen) + "\n")
    if data is None:
        raise WhyboxError(f"{table}: no data; pass --crowd")
    images = api.open_data(data, on_problem=on_problem)
    network = api.load(model, weights=read.read_weights(weights), device=device)
    second = None if trained is None else api.load(trained, device=device)
    folder = out or Path(f"whybox-{table}")
    with bar(min(len(images), limit or len(images)) * (1 if second is None else 2), "removing duplicates") as on_progress:
        calls: dict[str, Any] = {"on_progress": on_progress, "on_warning": warn}
        print(reproduce_rules(chosen, images, network, folder, trained=second, mended=mended, limit=limit, **calls))


def _students(
    table: str, data: str | None, rows: list[str], out: Path | None, *, limit: int | None, on_problem: str, device: str | None
) -> None:
    """A table of students that were taught; rows: "KEY=MODEL" or "KEY=MODEL@WEIGHTS"."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.runs.distillation.paper_tables import STUDENT_TABLES
    from whybox.runs.distillation.reproduce import parse_rows, reproduce_students, student_statement

    chosen = STUDENT_TABLES[table]
    print(student_statement(chosen) + "\n")
    if data is None:
        raise WhyboxError(f"{table}: no data; pass --data")
    named = parse_rows(chosen, rows)
    images = api.open_data(data, on_problem=on_problem)
    models = {key: api.load(model, weights=weights or "default", device=device) for key, (model, weights) in named.items()}
    with bar(min(len(images), limit or len(images)) * len(models), "detecting") as on_progress:
        calls: dict[str, Any] = {"on_progress": on_progress, "on_warning": warn}
        print(reproduce_students(chosen, images, models, out or Path(f"whybox-{table}"), limit=limit, **calls))


def _studies(table: str, folders: list[Path], out: Path | None, *, better: str | None, simulated: bool) -> None:
    """A table of studies with people."""
    from whybox.errors import WhyboxError
    from whybox.study.paper_tables import STUDY_TABLES
    from whybox.study.reproduce import reproduce_study, study_statement

    chosen = STUDY_TABLES[table]
    print(study_statement(chosen) + "\n")
    if not folders:
        raise WhyboxError(f"{table}: no answers; pass --study with the folder of a study ({' or '.join(chosen.designs)})")
    print(reproduce_study(chosen, folders, out or Path(f"whybox-{table}"), better=better, simulated=simulated or None))


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
