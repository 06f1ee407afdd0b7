"""`whybox errors`: a detector's errors over a data set, each with the heat map that explains it."""

from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from whybox.cli.options import AsJson, Device, ModelName, Nms, Rename, Threshold, Weights, load_model, read_options, read_pairs
from whybox.cli.output import bar, free_folder, print_json, print_table, tell_own_threshold, warn

MOST_PROBLEMS = 5
"""Number of data set problems to print one by one."""


def errors(
    data: Annotated[str, typer.Option(help="A data set: scenes:count=40, coco:FOLDER:split=val, crowdhuman:FOLDER.")],
    model: ModelName = "whybox/scenes",
    weights: Weights = "default",
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-errors.")] = None,
    method: Annotated[str, typer.Option(help="The explanation method: see `whybox methods`.")] = "odam",
    option: Annotated[list[str] | None, typer.Option(help="A setting of the method.", metavar="KEY=VALUE")] = None,
    score_threshold: Threshold = 0.3,
    limit: Annotated[int | None, typer.Option(help="Use only the first N images.")] = None,
    top: Annotated[int, typer.Option(help="Maximum number of errors on the page, highest scores of each type first.")] = 100,
    rename: Rename = None,
    nms: Nms = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Classify and explain a detector's errors on annotated images (TIDE types): background, missed, duplicate,
    classification and localization errors."""
    settings = read_options(option or [])
    folder = out or free_folder("whybox-errors")

    from whybox import api
    from whybox.files import check_new_folder
    from whybox.runs.labels import asked_for_classes
    from whybox.runs.mistakes.folder import PAGE, images_of, keep_errors
    from whybox.runs.mistakes.mistake import choose
    from whybox.runs.mistakes.search import Search, find_errors

    search = Search(method, score_threshold, limit, top, settings)
    # Refused now, before data and model are loaded.
    check_new_folder(folder)
    images = api.open_data(data, rename=read_pairs("--rename", rename))
    for line in images.problems[:MOST_PROBLEMS]:
        warn(line)
    if len(images.problems) > MOST_PROBLEMS:
        warn(f"{images.name}: {len(images.problems) - MOST_PROBLEMS} more problems like these")
    network = asked_for_classes(load_model(model, weights, device, nms), images)
    with bar(len(images.names[:limit]), "looking for errors") as on_progress:
        search_result = find_errors(network, images, search, on_progress=on_progress, on_warning=warn)
    if search_result.images:
        # One step per image with an error on the page, as `keep_errors` reports it.
        with bar(len(images_of(choose(search_result.mistakes, top))), "explaining them") as on_progress:
            search_result = keep_errors(network, images, search_result, folder, on_progress=on_progress, on_warning=warn)
    if as_json:
        print_json({"folder": str(folder) if search_result.images else None, **search_result.as_dict()})
    elif search_result.images:
        rows = [[name, str(count), _gain(search_result.gains[name])] for name, count in search_result.counts.items()]
        print_table(f"errors in {search_result.images} images", ["error type", "count", "AP50 gain without it"], rows)
        print(f"page: {(folder / PAGE).resolve().as_uri()}")
    tell_own_threshold(network, score_threshold)
    if search_result.failed:
        raise typer.Exit(1 if search_result.images else 2)


def _gain(value: float) -> str:
    """In points; without any object left, there is no AP."""
    return "–" if isnan(value) else f"{100 * value:+.1f}"
