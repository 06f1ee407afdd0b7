"""`whybox drift`: what new weights look at that the old did not, as a page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.options import AsJson, Device, Nms, Threshold, load_model
from whybox.cli.output import bar, free_folder, print_json, print_table, tell_own_threshold, warn


def drift(
    data: Annotated[str, typer.Option(help="A folder with images, or a data set such as coco:FOLDER.")],
    before: Annotated[str, typer.Option(help="The model before, as for `whybox explain --model`.")],
    after: Annotated[str | None, typer.Option(help="The model after. Default: the same with other weights.")] = None,
    before_weights: Annotated[str, typer.Option(help="default or a file.", metavar="PATH")] = "default",
    after_weights: Annotated[str, typer.Option(help="default or a file.", metavar="PATH")] = "default",
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-drift.")] = None,
    method: Annotated[str | None, typer.Option(help="The explanation method. Default for detectors: odam.")] = None,
    target: Annotated[str | None, typer.Option(help="What is explained. Default: score.")] = None,
    score_threshold: Threshold = 0.3,
    limit: Annotated[int | None, typer.Option(help="Use only the first N images.")] = None,
    top: Annotated[int, typer.Option(help="Maximum number of changes on the page, largest first.", min=1)] = 60,
    nms: Nms = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on images: what one alone finds, and how scores and maps of the others moved, largest changes first."""
    folder = out or free_folder("whybox-drift")

    from whybox.drift import KINDS
    from whybox.files import check_new_folder
    from whybox.runs.drifts.drift import PAGE, find_drift
    from whybox.viewer.images import open_images

    # Refused now, before the models are loaded.
    check_new_folder(folder)
    images = open_images([data])
    pairs = ((before, before_weights), (after or before, after_weights))
    loaded: list[Any] = [load_model(name, weights, device, nms) for name, weights in pairs]
    names = [name if weights == "default" else f"{name} ({Path(weights).name})" for name, weights in pairs]
    if names[0] == names[1]:
        names = [f"{names[0]}, before", f"{names[1]}, after"]
    with bar(len(images.names[:limit]), "comparing") as on_progress:
        found = find_drift(
            dict(zip(names, loaded, strict=True)),
            images,
            folder,
            method=method,
            target=target,
            score_threshold=score_threshold,
            limit=limit,
            top=top,
            on_progress=on_progress,
            on_warning=warn,
        )
    for each in loaded:
        tell_own_threshold(each, score_threshold)
    if as_json:
        print_json({"folder": str(folder), **found.as_dict()})
    else:
        print_table(f"changes in {found.images} images", ["change", "count"], [[kind, str(found.counts[kind])] for kind in KINDS])
        print(f"correlation of the maps of what both found: {found.correlation:.3f}")
        print(f"page: {(folder / PAGE).resolve().as_uri()}")
    if found.failed:
        raise typer.Exit(1 if found.images else 2)
