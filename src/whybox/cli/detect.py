"""`whybox detect`: a model's detections, without maps."""

import typer

from whybox.cli.options import MODEL, AsJson, Classes, Device, Images, ModelName, Threshold, Top, Weights, read_weights
from whybox.cli.output import bar, say_detections, say_json, warn


def detect(
    images: Images,
    model: ModelName = MODEL,
    weights: Weights = "default",
    score_threshold: Threshold = 0.3,
    top: Top = 100,
    only: Classes = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """List what a model detects."""
    from whybox import api
    from whybox.errors import ImageError
    from whybox.runs.explaining.images import Question, describe, detect_image

    question = Question(score_threshold=score_threshold, top=top, classes=tuple(only or ()))
    network = api.load(model, weights=read_weights(weights), device=device)
    found, failed = {}, {}
    with bar(len(images), "detecting") as tick:
        for image in images:
            try:
                found[str(image)] = describe(detect_image(network, image, question), network.classes)
            except ImageError as error:
                failed[str(image)] = str(error)
                warn(str(error))
            tick(str(image), 1)
    if as_json:
        images_found = [{"image": name, "detections": rows} for name, rows in found.items()]
        say_json({"images": images_found, "failed": [{"image": name, "error": text} for name, text in failed.items()]})
    else:
        for name, rows in found.items():
            say_detections(name, rows)
    if failed:
        raise typer.Exit(1 if found else 2)
