"""The texts and classes that a whole-image model is evaluated on, and the ground truth objects of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from whybox.errors import UnknownNameError, WhyboxError
from whybox.frame import Size
from whybox.model import Model
from whybox.ops.regions import Regions
from whybox.runs.evaluation.plan import TEMPLATE, Plan
from whybox.runs.labels import to_columns
from whybox.truth import Sample, Truth
from whybox.types import Detections, Trace


def fill_template(template: str, name: str) -> str:
    """Fill a class name into a template; an "a" before it becomes "an" before a vowel.

    Args:
        template: Text with one "{}".
        name: The class name.

    Returns:
        The text.
    """
    before, after = template.split("{}")
    # With a space before it, so that only the word "a" is meant and not the end of another.
    if name[:1].lower() in tuple("aeiou") and f" {before}".lower().endswith(" a "):
        before = f"{before[:-1]}n "
    return f"{before}{name}{after}"


def check_prompts(model: Model, data_classes: Sequence[str], plan: Plan) -> None:
    """Refuse settings that do not fit the model or the data, before the first image is read.

    Args:
        model: The model.
        data_classes: The data set's class names.
        plan: The settings of the run.

    Raises:
        WhyboxError: `prompts` or `template` for a model without text input, `prompts="phrase"` for a detector,
            `select="failures"` for a whole-image model, or no class names.
    """
    reads_text = model.takes_text
    if not reads_text and (plan.prompts, plan.template) != ("class", TEMPLATE):
        raise WhyboxError(f"prompts and template are for image-text models, and {model.name} reads no text; leave them out")
    if model.whole_image and plan.select == "failures":
        raise WhyboxError("select failures is for detectors: the texts of an image-text model are always true of the image")
    if model.whole_image and not reads_text and model.classes is None:
        raise WhyboxError(f"{model.name} has no class names to match with the data's: load it with classes=")
    if reads_text and not model.whole_image and plan.prompts != "class":
        # Its accuracy is counted per class, and an object's phrase is no class of other images.
        raise WhyboxError(f"prompts {plan.prompts} is for image-text models; {model.name} finds boxes of the data's classes")
    if reads_text and plan.prompts == "class" and not data_classes:
        raise WhyboxError("the data set has no class names to make texts of; use prompts phrase if its objects have phrases")


def prompted(model: Model, data_classes: Sequence[str], plan: Plan) -> Model:
    """Prompt an image-text model with all classes.

    Args:
        model: The model.
        data_classes: The data set's class names.
        plan: Its `template` makes the texts.

    Returns:
        The prompted model; any other model, and prompts "phrase", leave it unchanged.
    """
    if not model.takes_text or plan.prompts != "class":
        return model
    try:
        return _prompt(model, [fill_template(plan.template, name) for name in data_classes])
    except WhyboxError as error:
        if model.whole_image or plan.template == "{}":
            raise
        # A detector that reads all texts as one, such as Grounding DINO, has room for the names of many classes, no more.
        raise WhyboxError(f"{error}; template {{}} makes texts of the class names alone") from error


def _prompt(model: Any, texts: Sequence[str]) -> Model:
    with_texts: Model = model.prompt(list(texts))
    return with_texts


def read_again(model: Model) -> Model:
    """Encode an image-text model's texts again, with its current weights.

    Args:
        model: The model.

    Returns:
        The model with new text embeddings; any other model unchanged.
    """
    return _prompt(model, model.classes or ()) if model.takes_text else model


def ask_about(model: Model, sample: Sample, data_classes: Sequence[str], plan: Plan) -> tuple[Model, Truth]:
    """The model prompted for one image, and the image's objects with the model's score columns as labels.

    Args:
        model: The result of `prompted`.
        sample: The image and its objects.
        data_classes: The data set's class names.
        plan: Its `prompts` decides.

    Returns:
        The model and the truth.

    Raises:
        UnknownNameError: `prompts="phrase"` for objects without phrases.
    """
    truth = sample.truth
    if not model.takes_text:
        return model, to_columns(truth, data_classes, model.classes, first_column=model.first_column)
    if plan.prompts == "class":
        return model, truth
    if len(truth.phrases) != len(truth):
        raise UnknownNameError("prompts phrase needs objects with phrases, and this data set has none; use prompts class")
    texts = list(dict.fromkeys(truth.phrases))
    columns = torch.tensor([texts.index(phrase) for phrase in truth.phrases], dtype=torch.long)
    return _prompt(model, texts), replace(truth, labels=columns)


def group_by_text(truth: Truth, size: Size) -> Truth:
    """Merge the objects of each label into one, because a text names all objects of its class.

    Args:
        truth: The annotated objects, with labels that are score columns.
        size: Of the image, (H, W).

    Returns:
        One object per label. Its mask is the union of the objects' masks (of their boxes if there are no masks); its box
        encloses their boxes, clipped to the image. Ignored regions are kept. Parts, fixations and phrases are dropped.
    """
    boxes = clip_boxes_to_image(truth.boxes, size)
    masks = Regions(boxes, size).of(torch.arange(len(truth))) if truth.masks is None else truth.masks
    groups = [(truth.labels == label) & ~truth.ignore for label in sorted(set(truth.labels[~truth.ignore].tolist()))]
    ignored = torch.nonzero(truth.ignore)[:, 0]
    around = [torch.cat([boxes[members, :2].amin(0), boxes[members, 2:].amax(0)]) for members in groups]
    ids = ["+".join(truth[members].ids) for members in groups]
    return Truth(
        torch.stack([*around, *boxes[ignored]]) if len(truth) else truth.boxes,
        torch.cat([*(truth.labels[members][:1] for members in groups), truth.labels[ignored]]),
        (*ids, *truth[ignored].ids),
        torch.arange(len(groups) + len(ignored)) >= len(groups),
        torch.stack([*(masks[members].any(0) for members in groups), *masks[ignored]]) if len(truth) else masks,
    )


def texts_in(trace: Trace, truth: Truth, top: int | None) -> tuple[Detections, Tensor]:
    """The texts of a grouped truth as detections.

    Args:
        trace: The image's trace.
        truth: The result of `group_by_text`.
        top: Maximum number of texts; those with the highest scores are kept. None: all.

    Returns:
        The T texts as detections, and for each the row (T,) of its object in `truth`.
    """
    candidates = trace.candidates
    rows = torch.nonzero(~truth.ignore)[:, 0].to(candidates.scores.device)
    labels = truth.labels.to(rows.device)[rows]
    scores = candidates.scores[0, labels]
    # Sorted back: `top` chooses the texts and does not reorder them.
    kept = scores.argsort(descending=True, stable=True)[:top].sort().values
    # The only candidate of a whole-image model is row 0, the image.
    source = torch.zeros_like(labels)
    texts = Detections(candidates.boxes_of(source, labels), scores, labels, source)
    return texts[kept], rows[kept]


def rank_of(texts: Detections, trace: Trace) -> list[int]:
    """The rank of each text's or class's score among all columns.

    Args:
        texts: T texts or classes as detections.
        trace: The image's trace.

    Returns:
        T ranks, 1 for the highest score.
    """
    scores = trace.candidates.scores[0]
    ranks: list[int] = ((scores > texts.scores[:, None]).sum(1) + 1).tolist()
    return ranks


def leading(objects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Top-1 and top-5 accuracy of the model itself on the explained texts or classes, for the unmodified images.

    Args:
        objects: The explained texts or classes with their rank among all columns.

    Returns:
        "top1" and "top5", 0 to 1; empty without objects.
    """
    ranks = [row["rank"] for row in objects]
    return {f"top{count}": sum(rank <= count for rank in ranks) / len(ranks) for count in (1, 5)} if ranks else {}
