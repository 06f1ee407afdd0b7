"""A run of one analysis: its questions, its measures with intervals, and the folder with numbers, table and page."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whybox import api
from whybox.errors import WhyboxError, unknown
from whybox.files import json_text, new_folder
from whybox.model import Model
from whybox.progress import OnProgress, no_progress
from whybox.report.analysis import Analysis, Measure, Number, Panel, analysis_markdown, write_analysis
from whybox.report.overlay import overlay, shrink
from whybox.report.results import Cell
from whybox.runs.analyses.asking import CUT, Answers, Observation, Question, Study, ask
from whybox.runs.analyses.attributes import ATTRIBUTES
from whybox.runs.analyses.composition import COMPOSITION
from whybox.runs.analyses.concreteness import CONCRETENESS, rate
from whybox.runs.analyses.objects import OBJECTS
from whybox.runs.statistics import bootstrap_mean
from whybox.specs import parse_spec

STUDIES: Mapping[str, Study] = {
    "composition": COMPOSITION,
    "attributes": ATTRIBUTES,
    "concreteness": CONCRETENESS,
    "objects": OBJECTS,
}
PAGE = "index.html"
EXAMPLES = 4
LONGEST = 320
"""Longest side of a picture on the page, in pixels."""

Seen = tuple[str, Observation]
"""The image's name, and a value observed in it."""


@dataclass(frozen=True)
class Analyzed:
    """An analysis that was run.

    Attributes:
        name: A key of `STUDIES`.
        model: The model's name.
        count: The requested number of scenes.
        seed: The seed of the scenes.
        images: Number of explained images.
        result: The measures, remarks and examples.
    """

    name: str
    model: str
    count: int
    seed: int
    images: int
    result: Analysis

    def as_dict(self) -> dict[str, Any]:
        """The numbers and settings as plain values: the contents of analysis.json.

        Returns:
            A dict ready for JSON; NaN where a measure is not defined.
        """
        titles = {measure.key: measure.title for measure in self.result.measures}
        rows = [
            {"method": method, "measure": key, "title": titles[key], **_plain(number)}
            for (method, key), number in self.result.numbers.items()
        ]
        facts: dict[str, Any] = {"analysis": self.name, "model": self.model, "methods": list(self.result.methods)}
        facts |= {"count": self.count, "seed": self.seed, "images": self.images}
        return {"schema": 1, "kind": "analysis", **facts, "numbers": rows, "remarks": list(self.result.remarks)}


def _plain(number: Number) -> dict[str, Any]:
    cell = number.cell
    return {
        "mean": cell.mean,
        "low": cell.low,
        "high": cell.high,
        "chance": number.chance,
        "values": cell.count,
        "images": number.images,
    }


def analyze(
    name: str,
    model: Model,
    *,
    methods: Sequence[str] = ("grad_eclip",),
    count: int = 100,
    seed: int = 0,
    ratings: Mapping[str, float] | None = None,
    on_progress: OnProgress = no_progress,
) -> Analyzed:
    """Run an analysis over generated scenes that no training uses.

    Args:
        name: A key of `STUDIES`.
        model: An image-text model.
        methods: Names with settings ("rise:masks=500").
        count: Number of scenes, or of mosaics for "objects".
        seed: Seed of the scenes and of the bootstrap.
        ratings: Ratings by word, for "concreteness"; None: no correlation with ratings.
        on_progress: Called after each image.

    Returns:
        The measures with their intervals, and examples.

    Raises:
        WhyboxError: An unknown analysis, an invalid setting, or a model or method that does not fit.
    """
    study = study_of(name, count, seed, ratings)
    methods = tuple(dict.fromkeys(methods))
    made = _methods(model, methods, study)
    seen: dict[str, list[Seen]] = {method: [] for method in methods}
    examples: list[tuple[str, Sequence[Panel]]] = []
    # 0 is what stays where no scene gives a question.
    images, started = 0, time.perf_counter()
    for images, question in enumerate(study.questions(count, seed), start=1):
        answers = ask(model, question, made)
        for method, answer in zip(methods, answers, strict=True):
            seen[method] += [(str(images), observation) for observation in question.observe(answer)]
        if len(examples) < EXAMPLES:
            examples.append((question.title, _panels(question, answers[0])))
        on_progress(f"image {images}", 1)
    numbers = {
        (method, measure.key): number
        for method in methods
        for measure in study.measures
        if (number := _number(seen[method], measure, ratings, seed)) is not None
    }
    facts = [("model", model.name), ("methods", ", ".join(methods)), ("images", str(images)), ("seed", str(seed))]
    facts.append(("took", f"{time.perf_counter() - started:.0f} s"))
    # The first method's suffices: a text is cut by the model, for every method alike.
    remarks = [study.remark, *_cut(seen[methods[0]]), *_empty(study, numbers)]
    result = Analysis(study.title, study.lead, tuple(methods), study.measures, numbers, facts, remarks, examples)
    return Analyzed(name, model.name, count, seed, images, result)


def study_of(name: str, count: int, seed: int, ratings: Mapping[str, float] | None = None) -> Study:
    """Find an analysis, and check its settings.

    Args:
        name: A key of `STUDIES`.
        count: Number of scenes.
        seed: Seed of the scenes.
        ratings: Ratings by word, or None.

    Returns:
        The analysis.

    Raises:
        WhyboxError: An unknown analysis, or an invalid setting.
    """
    if name not in STUDIES:
        raise unknown("analysis", name, STUDIES)
    if type(count) is not int or type(seed) is not int or count < 1 or seed < 0:
        raise WhyboxError(f"count is a whole number from 1 and seed one from 0, got count={count} and seed={seed}")
    if ratings is not None and name != "concreteness":
        raise WhyboxError(f"ratings are for the analysis concreteness; {name} does not use them")
    return STUDIES[name]


def _methods(model: Model, names: Sequence[str], study: Study) -> list[Any]:
    """Make the methods; refuse a model without text input, and methods without the maps of words that the analysis needs."""
    if not model.takes_text:
        raise WhyboxError(f"{model.name} reads no text; an analysis needs an image-text model such as CLIP")
    made = []
    for name in names:
        plain, options = parse_spec(name)
        made.append(api.make_method(plain, model, **options))
        if study.needs_words and not api.draws_words(made[-1], model):
            raise WhyboxError(f"method {plain!r} has no maps of words, which this analysis needs; use grad_eclip")
    return made


def _number(seen: Sequence[Seen], measure: Measure, ratings: Mapping[str, float] | None, seed: int) -> Number | None:
    """The mean and interval of a measure over all images; None where there is no value."""
    if measure.key.startswith("rated "):
        return _rated(seen, measure.key.removeprefix("rated "), ratings or {}, seed)
    known = [(image, observed) for image, observed in seen if observed.measure == measure.key and np.isfinite(observed.value)]
    if not known:
        return None
    images = [image for image, _ in known]
    estimate = bootstrap_mean([observed.value for _, observed in known], images, seed=seed)
    chances = [observed.chance for _, observed in known]
    return Number(Cell(*estimate, len(known)), len(set(images)), float(np.mean(chances)))


def _rated(seen: Sequence[Seen], prefix: str, ratings: Mapping[str, float], seed: int) -> Number | None:
    values = [(image, observed.item, observed.value) for image, observed in seen if observed.measure.startswith(f"{prefix} ")]
    rated = rate(values, ratings, seed=seed)
    return Number(Cell(rated.mean, rated.low, rated.high, rated.words), rated.images, 0.0) if np.isfinite(rated.mean) else None


def _empty(study: Study, numbers: Mapping[tuple[str, str], Number]) -> list[str]:
    """A sentence that names the measures without a value."""
    known = {key for _, key in numbers}
    lacking = [measure.title for measure in study.measures if measure.key not in known and not measure.key.startswith("rated ")]
    return [f"Without a value in these images: {'; '.join(lacking)}."] if lacking else []


def _cut(seen: Sequence[Seen]) -> list[str]:
    """A sentence on the texts that are longer than the model's context."""
    values = [observed.value for _, observed in seen if observed.measure == CUT]
    truncated = round(sum(values))
    return [f"{truncated} of {len(values)} texts were longer than the model's context and are left out."] if truncated else []


def _panels(question: Question, answers: Answers) -> list[Panel]:
    """The image alone, and with the map of each shown text over it."""
    explanation = answers.explanation
    picture = shrink(explanation.image, LONGEST)
    panels = [Panel(picture, "the image")]
    for text in question.shown:
        row = explanation.names.index(text)
        panels.append(Panel(overlay(picture, explanation.maps[row]), text))
    return panels


def keep(analyzed: Analyzed, out: Path) -> None:
    """Write analysis.json, table.md and the page.

    Args:
        analyzed: The result of `analyze`.
        out: A new folder; it is written completely or not at all.
    """
    with new_folder(out) as draft:
        (draft / "analysis.json").write_text(json_text(analyzed.as_dict()), encoding="utf-8")
        (draft / "table.md").write_text(analysis_markdown(analyzed.result), encoding="utf-8")
        (draft / PAGE).write_text(write_analysis(analyzed.result), encoding="utf-8")
