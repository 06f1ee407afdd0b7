"""A new study: objects are drawn from a data set, their maps are drawn as pictures, and the folder is written."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from whybox import api
from whybox.data.images import read_image
from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.explained import class_name
from whybox.files import check_new_folder, json_text, new_folder
from whybox.frame import Frame
from whybox.method_choice import make_method
from whybox.model import Model
from whybox.ops.matching import match_well_detected
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.report.overlay import draw_box, jpeg_bytes, overlay, shrink
from whybox.specs import parse_spec
from whybox.study.design import Candidate, Design, Question, Seen
from whybox.study.folder import CONSENT, CONSENT_TEXT, PICTURES, STUDY, Study
from whybox.study.sampling import balanced, size_bounds, size_of
from whybox.truth import DataSet, Sample, Truth
from whybox.versions import versions

LONGEST = 720
"""Longest side of a picture, in pixels."""
IMAGE_ALONE = "image alone"
SECONDS = 20
"""What a question takes, for the consent text."""
TOP = 100


@dataclass(frozen=True)
class Recipe:
    """The settings of a new study.

    Attributes:
        count: Number of objects asked about.
        per_person: Questions per person; None: as many as there are objects.
        checks: Attention checks, among the questions of every person.
        failures_allowed: Who fails more of them is left out of the report.
        score_threshold: The lowest score of a detection.
        iou: From which IoU with an object of its class a detection counts as having found it.
        limit: Use only the first images; None: all.
        seed: Of every draw.
        items: Draw among these alone, named as in `Question.item`: the objects of another study; None: among all.
    """

    count: int = 30
    per_person: int | None = None
    checks: int = 2
    failures_allowed: int = 0
    score_threshold: float = 0.3
    iou: float = 0.5
    limit: int | None = None
    seed: int = 0
    items: Set[str] | None = None

    def __post_init__(self) -> None:
        least = {"count": 1, "checks": 0, "failures_allowed": 0, "seed": 0, "per_person": 1, "limit": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low):
                raise WhyboxError(f"{name} must be a whole number from {low}, got {value!r}")


def make_study(
    design: Design,
    data: DataSet,
    models: Mapping[str, Model],
    methods: Sequence[str],
    out: Path,
    recipe: Recipe,
    *,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> Study:
    """Make the folder of a study.

    Args:
        design: What is asked.
        data: Annotated images.
        models: By the name that the report gives them: two for `better_detector`, any number for `attention`, which then asks
            about what all of them found, else one. All with class names and boxes.
        methods: Names with settings ("drise:masks=500"): one for `better_detector`, none for `attention`.
        out: A new folder; it is written completely or not at all.
        recipe: The settings.
        on_progress: Called after each image that was searched, and each that was drawn.
        on_warning: Called with a line for each image that cannot be used.

    Returns:
        The study.

    Raises:
        WhyboxError: Models or methods do not fit the design, or too few objects were found.
    """
    check_new_folder(out)
    _check(design, models, methods)
    rng = np.random.default_rng(recipe.seed)
    indices = range(min(len(data), recipe.limit or len(data)))
    found: list[Candidate] = []
    places: dict[str, int] = {}
    for index in indices:
        try:
            sample = data[index]
            found += design.candidates(_look(sample, data, models, recipe), rng)
            places[sample.name] = index
        except FATAL:
            raise
        except WhyboxError as error:
            on_warning(f"{data.names[index]}: left out: {reason_of(error)}")
        on_progress(str(data.names[index]), 1)
    if not found:
        raise WhyboxError(f"no object in {len(indices)} images of {data.name} fits a question of {design.title.lower()}")
    bounds = size_bounds([candidate.area for candidate in found])
    chosen = balanced(_wanted(found, recipe), recipe.count, bounds, rng)
    if len(chosen) < recipe.count:
        on_warning(f"{len(chosen)} objects were found, {recipe.count} were asked for")
    with new_folder(out) as draft:
        (draft / PICTURES).mkdir()
        drawer = _Drawer(design, dict(models), tuple(methods), recipe, draft / PICTURES)
        questions = _draw_all(drawer, data, chosen, places, bounds, on_progress)
        study = Study(
            design,
            recipe.seed,
            drawer.conditions,
            min(recipe.per_person or len(questions), len(questions)),
            recipe.failures_allowed,
            tuple(questions),
            _make_checks(design, questions, recipe, rng),
            _facts(data, models, methods, recipe, len(found), bounds),
        )
        if not design.side_by_side and study.per_person < len(study.conditions):
            on_warning(
                f"{study.per_person} questions for {len(study.conditions)} conditions: tests over people need who met both"
            )
        (draft / STUDY).write_text(json_text(study.as_dict()), encoding="utf-8")
        count = study.per_person + len(study.checks)
        consent = CONSENT_TEXT.format(task=design.task, count=count, minutes=max(1, round(count * SECONDS / 60)))
        (draft / CONSENT).write_text(consent, encoding="utf-8")
    return study


def _check(design: Design, models: Mapping[str, Model], methods: Sequence[str]) -> None:
    """Refuse models and methods that do not fit the design, before anything runs."""
    if not design.compares and methods:
        raise WhyboxError(f"{design.name} compares no methods: leave them out")
    wanted = {"models": 2, "methods": 1}.get(design.compares, len(models))
    if len(models) != wanted:
        raise WhyboxError(f"{design.name} needs {wanted} model{'s' * (wanted > 1)}, got {len(models)}")
    if design.compares == "models" and len(methods) != 1:
        raise WhyboxError(f"{design.name} compares models: give one method, got {len(methods)}")
    if design.compares == "methods" and design.side_by_side and len(methods) < 2:
        raise WhyboxError(f"{design.name} compares methods: give at least two")
    for name, model in models.items():
        if model.whole_image or not model.classes:
            raise WhyboxError(f"{name}: a study needs a detector with class names")
        for method in methods:
            plain, options = parse_spec(method)
            make_method(plain, model, **options)


def _item(candidate: Candidate) -> str:
    return f"{candidate.image} {candidate.item}"


def _wanted(found: Sequence[Candidate], recipe: Recipe) -> list[Candidate]:
    """Those that may be drawn."""
    if recipe.items is None:
        return list(found)
    wanted = [candidate for candidate in found if _item(candidate) in recipe.items]
    if not wanted:
        raise WhyboxError("no object of the other study was found here: is it of the same data?")
    return wanted


def _look(sample: Sample, data: DataSet, models: Mapping[str, Model], recipe: Recipe) -> Seen:
    """What is annotated in an image, and what the models find."""
    traces = [api.trace(model, sample.image) for model in models.values()]
    found, names, matched = [], [], []
    for model, trace in zip(models.values(), traces, strict=True):
        detections = api.detect(model, trace, score_threshold=recipe.score_threshold, top=TOP)
        own = [class_name(label, model.classes) for label in detections.labels.tolist()]
        # Matched by name; -1 and -2, which equal nothing, are classes and objects that do not count.
        labels = torch.tensor([data.classes.index(name) if name in data.classes else -1 for name in own], dtype=torch.long)
        truth = sample.truth
        wanted = torch.where(truth.ignore, torch.full_like(truth.labels, -2), truth.labels)
        boxes = detections.boxes.detach().cpu().float()
        matched.append(match_well_detected(boxes, labels, truth.boxes, wanted, iou=recipe.iou, legacy=False))
        found.append(detections)
        names.append(own)
    classes = [model.classes or () for model in models.values()]
    picture = traces[0].image if traces else read_image(sample.image)
    return Seen(sample.name, picture, sample.truth, _names_of(sample.truth, data), traces, found, names, classes, matched)


def _names_of(truth: Truth, data: DataSet) -> list[str]:
    """The class name of each annotated object; "" for one that does not count."""
    known = dict(enumerate(data.classes))
    pairs = zip(truth.labels.tolist(), truth.ignore.tolist(), strict=True)
    return ["" if ignored else known.get(label, "") for label, ignored in pairs]


@dataclass(frozen=True)
class _Drawer:
    """Draws the pictures of questions."""

    design: Design
    models: dict[str, Model]
    methods: tuple[str, ...]
    recipe: Recipe
    folder: Path

    @property
    def conditions(self) -> tuple[str, ...]:
        if not self.design.compares:
            return self.design.own_conditions
        if self.design.compares == "models":
            return tuple(self.models)
        return (*self.methods, *((IMAGE_ALONE,) if self.design.image_alone else ()))

    def draw(self, seen: Seen, candidate: Candidate, question: Question) -> Question:
        """The question with the files of its pictures."""
        plain = shrink(seen.picture, LONGEST)
        if self.design.blur:
            return self._cover(plain, question)
        boxed = self._boxed(plain, seen, candidate)
        pictures = {}
        for condition in self.conditions:
            drawn = boxed if condition == IMAGE_ALONE else self._map(plain, seen, candidate, condition)
            pictures[condition] = self._keep(drawn, question.key, condition)
        shown = self._keep(boxed, question.key, "") if self.design.with_image else ""
        return replace(question, pictures=pictures, picture=shown)

    def _cover(self, plain: Image.Image, question: Question) -> Question:
        covered = plain.filter(ImageFilter.GaussianBlur(self.design.blur * max(plain.size)))
        pictures = {condition: self._keep(plain, question.key, condition) for condition in self.conditions}
        return replace(question, pictures=pictures, picture=self._keep(covered, question.key, ""))

    def _map(self, plain: Image.Image, seen: Seen, candidate: Candidate, condition: str) -> Image.Image:
        place = list(self.models).index(condition) if self.design.compares == "models" else 0
        method = self.methods[0] if self.design.compares == "models" else condition
        model, row = list(self.models.values())[place], candidate.rows[place]
        name, options = parse_spec(method)
        made = make_method(name, model, **options)
        explained = api.explain(model, seen.traces[place], method=made, detections=seen.found[place][[row]])
        return overlay(plain, explained.maps, explained.detections.boxes[0] if self.design.boxed else None)

    def _boxed(self, plain: Image.Image, seen: Seen, candidate: Candidate) -> Image.Image:
        drawn, size = plain.copy(), (plain.height, plain.width)
        box = seen.found[0].boxes[candidate.rows[0]].detach().cpu().float()
        draw_box(drawn, Frame(seen.size, size, size).boxes_to_network(box[None])[0])
        return drawn

    def _keep(self, picture: Image.Image, *words: str) -> str:
        # A name that does not tell the method to who looks at the page's addresses.
        name = f"{sha256(repr((self.recipe.seed, *words)).encode()).hexdigest()[:20]}.jpg"
        (self.folder / name).write_bytes(jpeg_bytes(picture))
        return name


def _draw_all(
    drawer: _Drawer,
    data: DataSet,
    chosen: Sequence[Candidate],
    places: Mapping[str, int],
    bounds: tuple[float, float],
    on_progress: OnProgress,
) -> list[Question]:
    """The questions, in the order of the candidates; every image is looked at once."""
    by_image = defaultdict(list)
    for number, candidate in enumerate(chosen):
        by_image[candidate.image].append((number, candidate))
    questions: dict[int, Question] = {}
    for image, numbered in by_image.items():
        seen = _look(data[places[image]], data, drawer.models, drawer.recipe)
        for number, candidate in numbered:
            size = size_of(candidate.area, bounds)
            choices: dict[str, Any] = {name: getattr(candidate, name) for name in ("choices", "right", "details")}
            question = Question(f"q{number + 1:03}", _item(candidate), candidate.image, candidate.label, size, {}, **choices)
            questions[number] = drawer.draw(seen, candidate, question)
            on_progress(image, 1)
    return [questions[number] for number in sorted(questions)]


def _make_checks(design: Design, questions: Sequence[Question], recipe: Recipe, rng: np.random.Generator) -> tuple[Question, ...]:
    """Attention checks with the pictures of questions that are asked, too."""
    checks = []
    for i in range(recipe.checks):
        question = questions[int(rng.integers(len(questions)))]
        instruction, expected = design.instruct(question, design.options(question), rng)
        checks.append(replace(question, key=f"check{i + 1}", instruction=instruction, expected=expected))
    return tuple(checks)


def _facts(
    data: DataSet, models: Mapping[str, Model], methods: Sequence[str], recipe: Recipe, found: int, bounds: tuple[float, float]
) -> dict[str, Any]:
    asked = {"data": data.name, "models": list(models), "methods": list(methods)}
    settings = {name: getattr(recipe, name) for name in ("score_threshold", "iou", "limit")}
    return {**asked, **settings, "objects_found": found, "size_bounds": list(bounds), "versions": versions()}
