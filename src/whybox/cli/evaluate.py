"""`whybox evaluate`: measure the explanations of a model over a data set."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whybox.cli import options as read
from whybox.cli.options import AsJson, Device, ModelName, Rename, Weights
from whybox.cli.output import bar, print_json, print_table, tell_own_threshold, warn

if TYPE_CHECKING:
    from whybox.runs.evaluation.evaluate import Evaluation

Data = Annotated[str, typer.Option(help="scenes:count=40, coco:FOLDER:split=val, coco:FILE.json, crowdhuman:FOLDER.")]
Methods = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated methods, with settings after colons: drise:masks=500.",
        show_default="odam,gradcam,gradcam_pp,drise:masks=500; for image-text models grad_eclip,game,maskclip,raw_attention",
    ),
]
Metrics = Annotated[str, typer.Option(help="standard, all, a group, or comma-separated metrics: see `whybox metrics`.")]
Target = Annotated[str | None, typer.Option(help="The target to explain.", show_default="score; for classifiers the logit")]
Prompts = Annotated[str, typer.Option(help="For image-text models: class (class names) or phrase (the objects' own phrases).")]
Template = Annotated[str, typer.Option(help="With --prompts class: the prompt template, {} stands for the class.")]
Select = Annotated[str, typer.Option(help="well_detected (IoU with the ground truth above --iou), all or failures.")]
ScoreThreshold = Annotated[float, typer.Option(help="Minimum score of a detection.")]
Batch = Annotated[int, typer.Option(help="Perturbed images per forward pass.")]
Threads = Annotated[int, typer.Option(help="CPU threads of each worker.")]
Engine = Annotated[str, typer.Option(help="local or ray.")]
NumWorkers = Annotated[int, typer.Option(help="Number of local processes, or of Ray actors.")]
Address = Annotated[str | None, typer.Option(help="Address of a running Ray cluster. Default: start a local one.")]
Limit = Annotated[int | None, typer.Option(help="Use only the first N images.")]
ObjectsPerImage = Annotated[
    int | None,
    typer.Option(help="Maximum number of explained objects per image, drawn at random after matching.", show_default="all"),
]
TopBefore = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of detections per image before matching, highest scores first: prefers sure detections.",
        show_default="all for --select well_detected, else 100",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
OnProblem = Annotated[str, typer.Option(help="Broken annotations and images: skip (and report them) or refuse.")]


def evaluate(
    out: Annotated[Path, typer.Option(help="The run's folder; an interrupted run in it is resumed.")],
    data: Data = "scenes:count=20",
    model: ModelName = "whybox/scenes",
    weights: Weights = "default",
    methods: Methods = None,
    metrics: Metrics = "standard",
    target: Target = None,
    prompts: Prompts = "class",
    template: Template = "a photo of a {}",
    select: Select = "well_detected",
    iou: Annotated[float, typer.Option(help="IoU threshold of --select well_detected.")] = 0.9,
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
    rename: Rename = None,
    nms: read.Nms = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate explanations over a data set: tables with confidence intervals and controls, figures, Parquet and a report.

    Interrupted runs resume with bit-identical results.
    """
    from whybox import api
    from whybox.runs.evaluation.evaluate import evaluate as run

    network = read.load_model(model, weights, device, nms)
    opened = api.open_data(data, on_problem=on_problem, rename=read.read_pairs("--rename", rename))
    settings: dict[str, Any] = {"methods": None if methods is None else read.read_list(methods), "target": target}
    settings |= {"metrics": read.read_list(metrics), "prompts": prompts, "template": template, "select": select, "iou": iou}
    settings |= {"score_threshold": score_threshold, "objects_per_image": objects_per_image, "top": top, "limit": limit}
    settings |= {"seed": seed, "batch": batch, "threads": threads, "engine": engine, "workers": workers, "address": address}
    with bar(min(len(opened), limit or len(opened)), "evaluating") as on_progress:
        done = run(network, opened, out=out, on_progress=on_progress, on_warning=warn, **settings)
    print_evaluation(done, out, as_json)
    tell_own_threshold(network, score_threshold)
    if done.failed:
        raise typer.Exit(1 if len(done.results) else 2)


def print_evaluation(done: "Evaluation", out: Path, as_json: bool) -> None:
    """Print the table, the remarks and the path of the report.

    Args:
        done: The evaluation.
        out: Its folder.
        as_json: Whether to print a summary as JSON instead.
    """
    if as_json:
        from whybox.runs.evaluation.evaluate import summary_of

        return print_json({**summary_of(done), "folder": str(out)})
    _print_table(done)
    if done.report.seconds:
        print(f"seconds per map: {', '.join(f'{row} {seconds:.2g}' for row, seconds in done.report.seconds.items())}")
    if routes := dict(done.report.facts).get("Gradient routes"):
        print(f"gradient routes: {routes}")
    for remark in done.report.remarks:
        print(remark)
    print(f"report: {(out / 'index.html').resolve().as_uri()}")


def _print_table(done: "Evaluation") -> None:
    """On a terminal only the means, one row per metric; elsewhere the whole table as Markdown."""
    from whybox.report.table import MARK, table_plain

    if not sys.stdout.isatty():
        # In a pipe or a file, Markdown: it keeps the intervals, and has no width to fit into.
        return print(done.table())
    heads, rows = table_plain(done.report)
    print_table(done.report.title, heads, rows)
    print(f"* the best method; {MARK} not shown to beat the better control. Confidence intervals: table.md and the report.")
