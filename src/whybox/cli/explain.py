"""`whybox explain`: heat maps for the detections in images, saved in a folder with an HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from whybox.cli import options as read
from whybox.cli.options import MODEL, AsJson, Classes, Device, Images, ModelName, Texts, Threshold, Top, Weights
from whybox.cli.output import bar, free_folder, print_outcome, tell_own_threshold, warn


def explain(
    images: Images,
    model: ModelName = MODEL,
    weights: Weights = "default",
    method: Annotated[
        str | None, typer.Option(help="Comma-separated methods, see `whybox methods`. Default for detectors: odam.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Comma-separated targets, see `whybox targets`. Default: score.")] = None,
    text: Texts = None,
    words: Annotated[bool, typer.Option("--words", help="Also weigh the words of the texts: which made each box.")] = False,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-IMAGE.")] = None,
    score_threshold: Threshold = 0.3,
    top: Top = 100,
    only: Classes = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="Explain this box instead of the detections, such as a missed object.", metavar="x1,y1,x2,y2"),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="The class of the --box.", metavar="NAME")] = None,
    layer: Annotated[str | None, typer.Option(help="The layer to explain; several comma-separated layers are fused.")] = None,
    route: Annotated[str, typer.Option(help="How gradients are computed: auto, fast or exact.")] = "auto",
    option: Annotated[list[str] | None, typer.Option(help="A setting of the method.", metavar="KEY=VALUE")] = None,
    nms: read.Nms = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain detections: one heat map per detection, in a folder with raw maps, overlays, a manifest and an HTML page."""
    # Arguments are read before torch is imported: a typing error should not take seconds to be told.
    folder = out or free_folder(f"whybox-{images[0].stem}")
    boxes = read.read_boxes(box or [])
    layers = read.read_list(layer) if layer else ()
    settings = read.read_options(option or [])
    methods, targets = (() if names is None else read.read_list(names) for names in (method, target))

    from whybox.files import check_new_folder
    from whybox.runs.explaining.images import Question, explain_images

    question = Question(
        methods=methods,
        targets=targets,
        score_threshold=score_threshold,
        top=top,
        classes=tuple(only or ()),
        boxes=boxes,
        labels=tuple(label or ()),
        route=route,
        layer=layers[0] if len(layers) == 1 else layers or None,
        options=settings,
        texts=tuple(text or ()),
        words=words,
    )
    # Refused now, before the model is loaded.
    check_new_folder(folder)
    loaded = read.load_model(model, weights, device, nms)
    sources = [(str(image), image) for image in images]
    with bar(len(images) * len(question), "explaining") as on_progress:
        outcome = explain_images(loaded, sources, question, folder, on_progress=on_progress, on_warning=warn)
    print_outcome(outcome, folder, as_json)
    # An image with as many detections as are wanted misses none.
    if not boxes and any(len(kept.explanations[0]["detections"]) < top for kept in outcome.kept):
        tell_own_threshold(loaded, score_threshold)
    if outcome.failed:
        raise typer.Exit(1 if outcome.kept else 2)
