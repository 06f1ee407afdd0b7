"""What a model that answers for the whole image is asked about: texts made of annotations, and the objects of each."""

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
    """The template with the name in place of {}; "a" before it becomes "an" before a vowel."""
    before, after = template.split("{}")
    if name[:1].lower() in tuple("aeiou") and f" {before}".lower().endswith(" a "):
        before = f"{before[:-1]}n "
    return f"{before}{name}{after}"


def check_prompts(model: Model, data_classes: Sequence[str], plan: Plan) -> None:
    """What cannot be asked is refused before the first image is read."""
    reads = model.takes_text
    if not reads and (plan.prompts, plan.template) != ("class", TEMPLATE):
        raise WhyboxError(f"prompts and template are for image-text models, and {model.name} reads no text; leave them out")
    if model.whole_image and plan.select == "failures":
        raise WhyboxError("select failures is for detectors: a text that is asked about is there, and none matches nothing")
    if model.whole_image and not reads and model.classes is None:
        raise WhyboxError(f"{model.name} has no class names to match with the data's: load it with classes=")
    if reads and plan.prompts == "class" and not data_classes:
        raise WhyboxError("the data set names no classes to make texts of; take prompts phrase, where its objects have phrases")


def prompted(model: Model, data_classes: Sequence[str], plan: Plan) -> Model:
    """The model as it is asked about every image: an image-text model about all classes, any other as it is."""
    if not model.takes_text or plan.prompts != "class":
        return model
    return _prompt(model, [fill_template(plan.template, name) for name in data_classes])


def _prompt(model: Any, texts: Sequence[str]) -> Model:
    asked: Model = model.prompt(list(texts))
    return asked


def read_again(model: Model) -> Model:
    """The model with its texts encoded anew, by the weights that it has now."""
    return _prompt(model, model.classes or ()) if model.takes_text else model


def ask_about(model: Model, sample: Sample, data_classes: Sequence[str], plan: Plan) -> tuple[Model, Truth]:
    """The model, `prompted`, as it is asked about one image, and its objects with the model's columns for labels."""
    truth = sample.truth
    if not model.takes_text:
        return model, to_columns(truth, data_classes, model.classes, first_column=model.first_column)
    if plan.prompts == "class":
        return model, truth
    if len(truth.phrases) != len(truth):
        raise UnknownNameError("prompts phrase needs objects with phrases of their own, and this data set has none; take class")
    texts = list(dict.fromkeys(truth.phrases))
    columns = torch.tensor([texts.index(phrase) for phrase in truth.phrases], dtype=torch.long)
    return _prompt(model, texts), replace(truth, labels=columns)


def group_by_text(truth: Truth, size: Size) -> Truth:
    """One object for every label: what a text names are all objects of its kind, together. size: of the image, (H, W).

    Its mask is the union of their masks, where the data has none of their boxes; its box goes around their boxes inside the
    image. Ignored regions stay what they are. Parts, fixations and phrases of single objects are left out.
    """
    boxes = clip_boxes_to_image(truth.boxes, size)
    masks = Regions(boxes, size).of(torch.arange(len(truth))) if truth.masks is None else truth.masks
    groups = [(truth.labels == label) & ~truth.ignore for label in sorted(set(truth.labels[~truth.ignore].tolist()))]
    ignored = torch.nonzero(truth.ignore)[:, 0]
    around = [torch.cat([boxes[own, :2].amin(0), boxes[own, 2:].amax(0)]) for own in groups]
    ids = ["+".join(truth[own].ids) for own in groups]
    return Truth(
        torch.stack([*around, *boxes[ignored]]) if len(truth) else truth.boxes,
        torch.cat([*(truth.labels[own][:1] for own in groups), truth.labels[ignored]]),
        (*ids, *truth[ignored].ids),
        torch.arange(len(groups) + len(ignored)) >= len(groups),
        torch.stack([*(masks[own].any(0) for own in groups), *masks[ignored]]) if len(truth) else masks,
    )


def texts_in(passed: Trace, truth: Truth, top: int) -> tuple[Detections, Tensor]:
    """The texts of a grouped truth as detections, the `top` with the highest scores, and the row of the object of each."""
    candidates = passed.candidates
    rows = torch.nonzero(~truth.ignore)[:, 0].to(candidates.scores.device)
    labels = truth.labels.to(rows.device)[rows]
    scores = candidates.scores[0, labels]
    kept = scores.argsort(descending=True, stable=True)[:top].sort().values
    none = torch.zeros_like(labels)
    found = Detections(candidates.boxes_of(none, labels), scores, labels, none)
    return found[kept], rows[kept]


def rank_of(found: Detections, passed: Trace) -> list[int]:
    """The place of each text's or class's score among all columns, 1 for the highest."""
    scores = passed.candidates.scores[0]
    ranks: list[int] = ((scores > found.scores[:, None]).sum(1) + 1).tolist()
    return ranks


def leading(objects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How good the model itself is: the share of the explained texts or classes that stand first, or among the first five,
    of all columns in the untouched image."""
    ranks = [one["rank"] for one in objects]
    return {f"top{count}": sum(rank <= count for rank in ranks) / len(ranks) for count in (1, 5)} if ranks else {}
