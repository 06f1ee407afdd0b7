"""Score an image-text model on a data set: classes of regions, image-text retrieval, zero-shot classification."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from whybox import api
from whybox.attention import ImageTextModel
from whybox.errors import FATAL, WhyboxError, reason_of, unknown
from whybox.files import json_text, write_whole
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.runs.clip_scores.class_texts import choose_templates, embed_classes
from whybox.runs.clip_scores.folder import TASKS, Record, ScoreFolder
from whybox.runs.clip_scores.scores import ClipScores
from whybox.runs.clip_scores.sources import captions_of, known_classes, one_object_each, stuff_of
from whybox.runs.clip_scores.tasks import ClassTask, score_captions, score_objects, score_regions
from whybox.runs.evaluation.code_digest import digest_text
from whybox.runs.evaluation.failed_images import FailedImages
from whybox.runs.evaluation.identity import weights_digest
from whybox.truth import DataSet, Sample
from whybox.types import Trace
from whybox.versions import version_of

SUMMARY = "scores.json"
CAPTIONS = 5
"""Captions of an image: COCO's protocol takes the first five."""
PACKAGES = ("whybox", "torch", "torchvision")

Step = Callable[[Sample, Trace], Record]


def score_clip(
    model: Any,
    data: str | DataSet,
    *,
    tasks: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    captions: str | Path | None = None,
    captions_per_image: int = CAPTIONS,
    limit: int | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> ClipScores:
    """Score what an image-text model knows of regions, whether it finds the right caption and image, and what it recognizes.

    Args:
        model: A name, a module, or a loaded model.
        data: Annotated images; retrieval also needs their captions.
        tasks: Of "regions", "retrieval", "classification"; None: all that the data allow.
        templates: Texts with one "{}" for the class name, or files of such texts; a class is the mean of their embeddings. None:
            the model's prompts, where it has one for each class, or else "a photo of a {}.".
        captions: A file in COCO's caption format; None: the captions that the data set has.
        captions_per_image: How many captions of an image are used, the first ones.
        limit: Use only the first images; None: all.
        out: The folder of the results; images that have a record in it are not scored again. None: nothing is kept.
        on_progress: Called after each image.
        on_warning: Called for an image that cannot be scored.

    Returns:
        The scores.

    Raises:
        WhyboxError: The model is no image-text model, the data have no captions or classes, or an argument is invalid.
    """
    loaded = _check_model(api.load(model))
    opened = api.open_data(data)
    _check_counts(limit, captions_per_image)
    chosen, remarks = _check_tasks(tasks), list[str]()
    names = list(opened.names)[:limit]
    file = None if captions is None else Path(captions)
    texts: list[tuple[str, ...]] = []
    if "retrieval" in chosen:
        try:
            texts = captions_of(opened, file, len(names), captions_per_image)
        except WhyboxError as error:
            # Asked for by name, or by a file, it is an error.
            if tasks is not None or file is not None:
                raise
            chosen = tuple(task for task in chosen if task != "retrieval")
            remarks.append(f"No retrieval: {error}.")
    by_class = set(chosen) - {"retrieval"}
    classes = tuple(known_classes(opened)) if by_class else tuple(opened.classes)
    used = choose_templates(loaded, classes, templates) if by_class or templates is not None else ()
    stuff = stuff_of(opened) if "regions" in chosen else None
    if "regions" in chosen and stuff is None:
        remarks.append("The data do not say which classes are stuff: all count as things.")
    identity = _identity(loaded, opened, classes, used, captions_per_image)
    folder = ScoreFolder.open(None if out is None else Path(out), {**identity, "stuff": stuff})
    task = ClassTask(classes, embed_classes(loaded, classes, used).cpu(), one_object_each(opened)) if by_class else None
    steps = _steps(loaded, chosen, task)
    failed = _run(loaded, opened, names, texts, folder, steps, on_progress, on_warning)
    remarks += _remarks(folder, names, chosen, task, texts)
    scores = ClipScores(folder, tuple(names), tuple(failed), tuple(remarks))
    if folder.path is not None:
        write_whole(folder.path / SUMMARY, json_text(scores.as_dict()))
    return scores


def _check_model(model: Any) -> ImageTextModel:
    if not isinstance(model, ImageTextModel) or not model.whole_image:
        raise WhyboxError(f"{model.name} matches no images with texts; regions and captions are scored with a CLIP or a SigLIP")
    return model


def _check_counts(limit: Any, captions_per_image: Any) -> None:
    # type and not isinstance, because True is an int.
    if limit is not None and (type(limit) is not int or limit < 1):
        raise WhyboxError(f"limit must be a whole number from 1, or None, got {limit!r}")
    if type(captions_per_image) is not int or captions_per_image < 1:
        raise WhyboxError(f"captions_per_image must be a whole number from 1, got {captions_per_image!r}")


def _check_tasks(tasks: Any) -> tuple[str, ...]:
    if tasks is None:
        return TASKS
    if isinstance(tasks, str) or not tasks:
        raise WhyboxError(f"tasks must be a list of {', '.join(TASKS)}, got {tasks!r}")
    for name in tasks:
        if name not in TASKS:
            raise unknown("task", str(name), TASKS)
    return tuple(task for task in TASKS if task in tasks)


def _identity(
    model: ImageTextModel, data: DataSet, classes: Sequence[str], templates: Sequence[str], captions: int
) -> dict[str, Any]:
    """What may not change while a run is resumed, with values that JSON can hold."""
    return {
        "model": model.name,
        "weights": weights_digest(model),
        "model_settings": digest_text(model.identity),
        "data": data.name,
        "annotations": annotations_of(data),
        "classes": list(classes),
        "templates": list(templates),
        "captions_per_image": captions,
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def annotations_of(data: DataSet) -> str:
    """What tells the annotations of one data set from another's: its digest, or else its classes."""
    return getattr(data, "digest", "") or digest_text(["\n".join(data.classes)])


def _steps(model: ImageTextModel, chosen: Sequence[str], task: ClassTask | None) -> dict[str, Step]:
    """What is done for the tasks that need classes."""
    if task is None:
        return {}
    steps: dict[str, Step] = {
        "regions": lambda sample, trace: score_regions(model, sample, trace, task),
        "classification": lambda sample, trace: score_objects(model, sample, trace, task),
    }
    return {name: step for name, step in steps.items() if name in chosen}


def _run(
    model: ImageTextModel,
    data: DataSet,
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    folder: ScoreFolder,
    steps: dict[str, Step],
    on_progress: OnProgress,
    on_warning: OnWarning,
) -> list[tuple[str, str]]:
    """Score every image that lacks a record; the images that could not be scored, with the reason."""
    failed, told = list[tuple[str, str]](), FailedImages()
    for index, name in enumerate(names):
        captions = texts[index] if texts else ()
        left = {task: step for task, step in steps.items() if name not in folder.records[task]}
        if captions and folder.records["retrieval"].get(name, {}).get("captions") != list(captions):
            left["retrieval"] = partial(score_captions, model, captions=captions)
        try:
            if left:
                sample = data[index]
                trace = api.trace(model, sample.image)
                for task, step in left.items():
                    folder.keep(task, step(sample, trace))
        except FATAL:
            raise
        except Exception as error:
            reason = reason_of(error)
            failed.append((name, reason))
            if (line := told.add(name, reason)) is not None:
                on_warning(line)
        on_progress(name, 1)
    for line in told.lines():
        on_warning(line)
    return failed


def _remarks(
    folder: ScoreFolder, names: Sequence[str], chosen: Sequence[str], task: ClassTask | None, texts: Sequence[Sequence[str]]
) -> list[str]:
    remarks = []
    if "regions" in chosen:
        rows = [row for record in folder.of("regions", names) for row in record["regions"]]
        if unseen := sum(row["box"] is None for row in rows):
            remarks.append(f"{unseen} of {len(rows)} boxes lie outside what the network sees of the image and are left out.")
        if rows and all(row["mask"] is None for row in rows):
            remarks.append("The data have no masks: regions are boxes alone.")
    if "classification" in chosen and task is not None:
        what = "whole images" if task.whole else "the objects' boxes, cut out and padded to a square"
        remarks.append(f"Classification is of {what}.")
    if texts:
        missing = sum(not captions for captions in texts)
        lacking = f"; {missing} without a caption are left out" if missing else ""
        remarks.append(f"Retrieval is among {len(texts) - missing} images and {sum(map(len, texts))} captions{lacking}.")
        if cut := sum(record["cut"] for record in folder.of("retrieval", names)):
            verb = "is" if cut == 1 else "are"
            remarks.append(f"{cut} of {sum(map(len, texts))} captions {verb} longer than the model's context.")
    return remarks
