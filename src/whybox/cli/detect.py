"""`whybox detect`: a model's detections, without maps."""

import typer

from whybox.cli.options import MODEL, AsJson, Classes, Device, Images, ModelName, Nms, Texts, Threshold, Top, Weights, load_model
from whybox.cli.output import bar, print_detections, print_json, warn


def detect(
    images: Images,
    model: ModelName = MODEL,
    weights: Weights = "default",
    score_threshold: Threshold = 0.3,
    top: Top = 100,
    only: Classes = None,
    text: Texts = None,
    nms: Nms = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """List a model's detections, without heat maps."""
    from whybox.errors import ImageError
    from whybox.runs.explaining.images import Question, describe, detect_image

    question = Question(score_threshold=score_threshold, top=top, classes=tuple(only or ()), texts=tuple(text or ()))
    loaded, question = question.of(load_model(model, weights, device, nms))
    detected, failed = {}, {}
    with bar(len(images), "detecting") as on_progress:
        for image in images:
            try:
                detected[str(image)] = describe(detect_image(loaded, image, question), loaded.classes)
            except ImageError as error:
                failed[str(image)] = str(error)
                warn(str(error))
            on_progress(str(image), 1)
    if as_json:
        results = [{"image": name, "detections": rows} for name, rows in detected.items()]
        print_json({"images": results, "failed": [{"image": name, "error": text} for name, text in failed.items()]})
    else:
        for name, rows in detected.items():
            print_detections(name, rows)
    if failed:
        # 1 says that some images succeeded: see `run` in main.py.
        raise typer.Exit(1 if detected else 2)
