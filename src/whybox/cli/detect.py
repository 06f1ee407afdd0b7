"""`whybox detect`: a model's detections, without maps; and what a rule of duplicate removal decided about the other boxes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whybox.cli.options import MODEL, AsJson, Classes, Device, Images, ModelName, Nms, Texts, Threshold, Top, Weights, load_model
from whybox.cli.output import bar, print_detections, print_json, tell_own_threshold, warn
from whybox.errors import WhyboxError

if TYPE_CHECKING:
    from whybox.runs.explaining.images import Question


def detect(
    images: Images,
    model: ModelName = MODEL,
    weights: Weights = "default",
    score_threshold: Threshold = 0.3,
    top: Top = 100,
    only: Classes = None,
    text: Texts = None,
    nms: Nms = None,
    out: Annotated[Path | None, typer.Option(help="With --nms: a new folder for a page of why boxes were removed.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """List a model's detections, without heat maps. With --nms and --out: a page of what the rule compared and decided."""
    if out is not None and nms is None:
        raise WhyboxError("--out shows what a rule of duplicate removal decided: name one, such as --nms odam or --nms greedy")

    from whybox.files import check_new_folder
    from whybox.runs.explaining.decisions import decide_images
    from whybox.runs.explaining.images import Question

    question = Question(score_threshold=score_threshold, top=top, classes=tuple(only or ()), texts=tuple(text or ()))
    if out is not None:
        # Refused now, before the model is loaded.
        check_new_folder(out)
    loaded = load_model(model, weights, device, nms)
    page = None
    with bar(len(images), "detecting") as on_progress:
        if nms is None:
            told, failed = _detect(loaded, images, question, on_progress)
        else:
            sources = [(str(image), image) for image in images]
            decided = decide_images(loaded, sources, question, out, on_progress=on_progress, on_warning=warn)
            told, failed, page = [dict(each) for each in decided.told], list(decided.failed), decided.page
    if as_json:
        where = {} if out is None else {"page": None if page is None else str(page)}
        print_json({**where, "images": told, "failed": [{"image": name, "error": text} for name, text in failed]})
    else:
        for each in told:
            print_detections(each["image"], each["detections"])
        if page is not None:
            print(f"page: {page.resolve().as_uri()}")
    # An image with as many detections as are wanted misses none.
    if nms is None and any(len(each["detections"]) < top for each in told):
        tell_own_threshold(loaded, score_threshold)
    if failed:
        # 1 says that some images succeeded: see `run` in main.py.
        raise typer.Exit(1 if told else 2)


def _detect(
    model: Any, images: list[Path], question: "Question", on_progress: Any
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The detections by the model's own rule, and the images that could not be read."""
    from whybox.errors import ImageError
    from whybox.runs.explaining.images import describe, detect_image

    model, question = question.of(model)
    told: list[dict[str, Any]] = []
    failed = []
    for image in images:
        try:
            told.append({"image": str(image), "detections": describe(detect_image(model, image, question), model.classes)})
        except ImageError as error:
            failed.append((str(image), str(error)))
            warn(str(error))
        on_progress(str(image), 1)
    return told, failed
