"""`whybox analyze`: analyses of an image-text model's maps (composition, attributes, concreteness, several objects)."""

from pathlib import Path
from typing import Annotated

import typer

from whybox.cli.options import AsJson, Device, Weights, read_list, read_weights
from whybox.cli.output import bar, free_folder, print_json, print_table


def analyze(
    analysis: Annotated[str, typer.Argument(help="composition, attributes, concreteness or objects.", show_default=False)],
    model: Annotated[str, typer.Option(help="An image-text model: name or folder.")] = "whybox/scenes-clip",
    weights: Weights = "default",
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods, with settings after colons: rise:masks=500.")
    ] = "grad_eclip",
    count: Annotated[int, typer.Option(help="Number of generated scenes; for objects, of mosaics of four.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the scenes (held out from training) and of the confidence intervals.")] = 0,
    ratings: Annotated[
        Path | None, typer.Option(help="For concreteness: a CSV file with columns word,rating.", metavar="FILE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-ANALYSIS.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Analyze maps of texts: how a caption's map is composed of its words' maps, whether maps follow color, noun or relation,
    which words have weight, and several objects in one prompt."""
    from whybox import api
    from whybox.files import check_new_folder
    from whybox.report.analysis import analysis_plain
    from whybox.runs.analyses import run
    from whybox.runs.analyses.concreteness import read_ratings

    folder = out or free_folder(f"whybox-{analysis}")
    check_new_folder(folder)
    known = None if ratings is None else read_ratings(ratings)
    # Refuses an unknown analysis before the model is loaded.
    run.study_of(analysis, count, seed, known)
    network = api.load(model, weights=read_weights(weights), device=device)
    with bar(count, f"analyzing {analysis}") as on_progress:
        analyzed = run.analyze(
            analysis, network, methods=read_list(methods), count=count, seed=seed, ratings=known, on_progress=on_progress
        )
    run.keep(analyzed, folder)
    if as_json:
        return print_json({"folder": str(folder), **analyzed.as_dict()})
    heads, rows = analysis_plain(analyzed.result)
    print_table(analyzed.result.title, heads, rows)
    print(f"page: {(folder / run.PAGE).resolve().as_uri()}")
