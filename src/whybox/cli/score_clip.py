"""`whybox score-clip`: what an image-text model knows of regions, captions and classes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.options import AsJson, Device, ModelName, Rename, Weights, load_model, read_list, read_pairs
from whybox.cli.output import bar, print_json, print_table, warn

Templates = Annotated[
    list[str] | None,
    typer.Option(
        help="A text with {} for the class name, or a file of such texts; can be repeated. Default: a photo of a {}.",
        metavar="TEXT|FILE",
    ),
]
Captions = Annotated[Path | None, typer.Option(help="Captions in COCO's format. Default: those that the data have.")]


def score_clip(
    model: ModelName = "whybox/scenes-clip",
    data: Annotated[str, typer.Option(help="scenes:count=40, coco:FOLDER:split=val, coco:FILE.json.")] = "scenes:count=40",
    tasks: Annotated[
        str | None,
        typer.Option(help="Of regions, retrieval, classification, comma-separated.", show_default="all that the data allow"),
    ] = None,
    templates: Templates = None,
    captions: Captions = None,
    captions_per_image: Annotated[int, typer.Option(help="Captions of an image that are used, the first ones.")] = 5,
    limit: Annotated[int | None, typer.Option(help="Use only the first N images.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; an interrupted run in it goes on. Default: nothing is kept.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run on the same data: also print the paired differences.")
    ] = None,
    weights: Weights = "default",
    rename: Rename = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score an image-text model: zero-shot classes of regions, image-text retrieval, zero-shot classification."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.runs.clip_scores.compare import compare_scores, difference_table, differences_as_dict
    from whybox.runs.clip_scores.score import annotations_of
    from whybox.runs.clip_scores.score import score_clip as run
    from whybox.runs.clip_scores.scores import read_scores

    # Read now, so that a wrong folder is refused before anything is scored.
    before = None if against is None else read_scores(against)
    wanted = None if tasks is None else read_list(tasks)
    opened = api.open_data(data, rename=read_pairs("--rename", rename))
    if before is not None and before.mark["annotations"] != annotations_of(opened):
        raise WhyboxError(f"--against {against}: scored other data, {before.mark['data']}, than {opened.name}")
    network = load_model(model, weights, device, None)
    settings: dict[str, Any] = {"tasks": wanted, "templates": templates, "captions": captions, "limit": limit, "out": out}
    with bar(min(len(opened), limit or len(opened)), "scoring") as on_progress:
        scores = run(network, opened, captions_per_image=captions_per_image, on_progress=on_progress, on_warning=warn, **settings)
    compared = None if before is None else compare_scores(scores, before)
    if as_json:
        more = {} if compared is None else {"against": str(against), "differences": differences_as_dict(compared)}
        print_json({**scores.as_dict(), "folder": None if out is None else str(out), **more})
    else:
        print_table(f"{scores.mark['model']} on {scores.mark['data']}", *scores.table())
        if compared is not None:
            print_table(f"against {against}", *difference_table(compared))
        for remark in scores.remarks:
            print(remark)
    if scores.failed:
        raise typer.Exit(1 if len(scores.failed) < len(scores.images) else 2)
