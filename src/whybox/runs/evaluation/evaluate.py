"""How far can explanations be trusted: every method measured by every metric over a data set, into a folder with a report."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from whybox import api, registry
from whybox.errors import WhyboxError, unknown
from whybox.files import new_file
from whybox.metric_choice import canonical, written_out
from whybox.model import Model
from whybox.report.evaluation import write_report
from whybox.report.figures import write_figures
from whybox.report.results import Cell, EvaluationReport
from whybox.report.table import table_markdown
from whybox.runs.evaluation.detector_accuracy import detector_accuracy
from whybox.runs.evaluation.engines import ENGINES, Setup, measure_here, measure_in_processes, measure_on_ray
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import METHODS_OF_WHOLE, Plan, identity, make_methods, make_metrics
from whybox.runs.evaluation.records import RunFolder, failures
from whybox.runs.evaluation.results import Results, gather, write_json, write_parquet
from whybox.runs.evaluation.summary import (
    describe,
    examples,
    left_out,
    mean_cells,
    mean_curves,
    table_columns,
    table_rows,
    versus_controls,
    without_words,
)
from whybox.runs.evaluation.texts import answers_for_image, check_prompts, leading
from whybox.runs.labels import lacking
from whybox.truth import DataSet, Metric

MOST_TOLD = 20
"""Problems of a data set that are told one by one at the start."""

Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    results: one value an object, method and metric. report: the table's cells with intervals, curves and examples.
    failed: (image, reason). accuracy: the detector's own. folder: where all of it lies, None where none was asked for.
    """

    results: Results
    report: EvaluationReport
    failed: tuple[tuple[str, str], ...]
    accuracy: Mapping[str, Any]
    folder: Path | None

    def table(self) -> str:
        """The table as Markdown: mean and 95 % interval of every method by every metric."""
        return table_markdown(self.report)

    def mean(self, method: str, metric: str) -> Cell:
        """One cell of the table: mean, low, high, count."""
        cells = self.report.cells
        if (method, metric) not in cells:
            raise unknown("cell", f"{method}, {metric}", [", ".join(key) for key in cells])
        return cells[method, metric]


@dataclass(frozen=True)
class Workers:
    """Who measures. engine: "local" or "ray"; workers: processes or actors; address: of a Ray cluster that is there already."""

    engine: str = "local"
    workers: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise unknown("engine", str(self.engine), ENGINES)
        if type(self.workers) is not int or self.workers < 1:
            raise WhyboxError(f"workers must be a whole number from 1 on, got {self.workers!r}")
        if self.address and self.engine != "ray":
            raise WhyboxError("an address belongs to the engine ray: give engine ray too")

    def measure(self, setup: Setup, indices: Sequence[int]) -> Iterator[ImageRecord]:
        """The images measured, in the order in which they are done."""
        if self.engine == "ray":
            return measure_on_ray(setup, indices, self.workers, self.address)
        if self.workers > 1:
            return measure_in_processes(setup, indices, self.workers)
        return measure_here(setup, indices)


def evaluate(
    model: str | nn.Module | Model,
    data: str | DataSet,
    *,
    out: str | Path | None = None,
    on_problem: str = "skip",
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    tick: Tick = lambda name, part: None,
    warn: Callable[[str], None] = lambda line: warnings.warn(line, stacklevel=4),
    **plan: Any,
) -> Evaluation:
    """Explain the detections of a data set, or the texts and classes that are true of its images, by several methods, and
    measure how far each can be trusted.

    model, data: as `load` and `open_data` take them. The other settings are those of `Plan`: methods, metrics, target, select,
    iou, score_threshold, top, seed, limit, batch, threads, route, prompts, template; what is not given follows the model's
    kind. out: a folder; where the same evaluation was begun there it
    goes on, and the result is the same, bit by bit, as if it had not been broken off; with a larger limit it is extended.
    Without one only the result is returned. engine, workers, address: as in `Workers`. tick: hears of every image; warn: of what
    goes wrong on the way, by default as a Python warning.
    """
    hands = Workers(engine, workers, address)
    loaded = api.load(model)
    setup = Setup(loaded, api.open_data(data, on_problem=on_problem), _plan(plan, loaded))
    _check(setup, warn)
    if out is not None and not isinstance(out, (str, Path)):
        raise WhyboxError(f"out must be a folder's name, got {out!r}")
    if out is None:
        with tempfile.TemporaryDirectory(prefix="whybox-") as folder:
            return _evaluate(setup, hands, Path(folder) / "run", tick, warn, keep=False)
    return _evaluate(setup, hands, Path(out), tick, warn, keep=True)


def _evaluate(setup: Setup, hands: Workers, out: Path, tick: Tick, warn: Callable[[str], None], *, keep: bool) -> Evaluation:
    columns = [describe(spec, metric) for spec, metric in make_metrics(setup.plan).items()]
    folder = RunFolder.open(out, identity(setup.plan, setup.model, setup.data), columns)
    images = list(setup.data.names)[: setup.plan.limit]
    left = folder.left(images)
    if len(images) > len(left):
        tick("measured before", len(images) - len(left))
    for record in hands.measure(setup, left) if left else ():
        folder.keep(record)
        if "failed" in record:
            warn(f"{record['image']}: {record['failed']}")
        tick(record["image"], 1)
    done = finish(setup, folder, keep=keep)
    if len(done.failed) == len(images):
        raise WhyboxError(f"none of {len(images)} images could be measured; {done.failed[0][0]}: {done.failed[0][1]}")
    return done


def _check(setup: Setup, warn: Callable[[str], None]) -> None:
    """What cannot work is refused before the first image is read."""
    make_methods(setup.plan, setup.model)
    make_metrics(setup.plan)
    if not len(setup.data):
        raise WhyboxError(f"{setup.data.name}: holds no image that can be used")
    if len(set(setup.data.names)) < len(setup.data):
        raise WhyboxError(f"{setup.data.name}: names must be one an image and all different; they are what a run goes on by")
    for line in setup.data.problems[:MOST_TOLD]:
        warn(line)
    if (more := len(setup.data.problems) - MOST_TOLD) > 0:
        warn(f"{more} more like these; all are in summary.json and in the report")
    check_prompts(setup.model, setup.data.classes, setup.plan)
    if "text" not in setup.model.gives and (missing := lacking(setup.data.classes, setup.model.classes)):
        warn(f"{setup.model.name} does not know {', '.join(missing)}: objects of these classes are left out")


def _plan(settings: Mapping[str, Any], model: Model) -> Plan:
    """The plan, with names as a list or as text between commas, and the user's own objects among them; what is not set is
    what suits the model."""
    unset = [name for name in ("methods", "metrics") if settings.get(name) is None]
    read = {**_suited(model), **{name: value for name, value in settings.items() if name not in unset}}
    for kind in ("methods", "metrics"):
        given = read.get(kind)
        if given is None:
            continue
        each = given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else [given]
        read[kind] = tuple(one.strip() for one in each if isinstance(one, str) and one.strip())
        read[f"own_{kind}"] = tuple(one for one in each if not isinstance(one, str))
        for one in read[f"own_{kind}"]:
            if not callable(one) or isinstance(one, type) or not hasattr(one, "name"):
                raise WhyboxError(f"{kind}: expected names, or objects that can be called and have a name, got {one!r}")
    known = [field.name for field in fields(Plan) if not field.name.startswith("own_")]
    for name in settings:
        if name not in known:
            raise unknown("setting of evaluate", name, known)
    if answers_for_image(model):
        read["metrics"] = written_out((canonical(name) for name in read["metrics"]), whole_image=True)
    return Plan(**read)


def _suited(model: Model) -> dict[str, Any]:
    """The settings of a model that answers for the whole image where they differ from a detector's."""
    if not answers_for_image(model):
        return {}
    known: Mapping[str, Any] = registry.methods()
    methods = [name for name in METHODS_OF_WHOLE if known[name].needs <= model.gives]
    return {"methods": methods, "metrics": ["standard"], "target": getattr(model, "default_target", "score")}


def finish(setup: Setup, folder: RunFolder, *, keep: bool = True) -> Evaluation:
    """Tables, figures and the report from what is known of the images."""
    records = list(folder.records(list(setup.data.names)[: setup.plan.limit]))
    plan, classes = setup.plan, setup.model.classes
    results = gather(records, plan.rows(), plan.columns(), classes)
    whole = answers_for_image(setup.model)
    accuracy = leading(results.objects) if whole else detector_accuracy(records, classes, setup.data.name)
    report = _report(setup, results, records, accuracy, folder)
    done = Evaluation(results, report, failures(records), accuracy, folder.path if keep else None)
    if keep:
        _write(done, folder.path)
    return done


def _write(done: Evaluation, folder: Path) -> None:
    write_parquet(done.results, folder)
    write_json(summary_of(done), folder / "summary.json")
    write_json({"seconds_per_map": done.results.seconds}, folder / "times.json")
    with new_file(folder / "table.md") as draft:
        draft.write_text(done.table() + "\n", encoding="utf-8")
    with new_file(folder / "index.html") as draft:
        draft.write_text(write_report(done.report), encoding="utf-8")
    write_figures(done.report, folder / "figures")


def _report(
    setup: Setup, results: Results, records: Sequence[ImageRecord], accuracy: Mapping[str, Any], folder: RunFolder
) -> EvaluationReport:
    plan, metrics = setup.plan, make_metrics(setup.plan)
    columns = table_columns(results, metrics)
    cells = mean_cells(results, columns, plan.seed)

    def picture(index: int) -> Image.Image:
        return setup.data[index].image.convert("RGB")

    shown, missing = examples(results, columns, picture, folder.picture)
    return EvaluationReport(
        title=f"{setup.model.name} on {setup.data.name}",
        facts=_facts(setup, results, records, accuracy),
        rows=table_rows(results.rows),
        columns=columns,
        cells=cells,
        versus=versus_controls(results, columns, cells, plan.seed),
        curves=mean_curves(results, columns, plan.seed),
        examples=shown,
        remarks=[*_remarks(setup, results, records, metrics), *missing],
        seconds=results.seconds if answers_for_image(setup.model) else {},
        failed=failures(records),
        problems=setup.data.problems,
    )


def _remarks(setup: Setup, results: Results, records: Sequence[ImageRecord], metrics: Mapping[str, Metric]) -> list[str]:
    """What a reader has to know beside the numbers."""
    plan = setup.plan
    if answers_for_image(setup.model):
        return _remarks_on_texts(results, records, metrics)
    if not len(results):
        ways = {"well_detected": f"lower iou ({plan.iou:g}) or score_threshold ({plan.score_threshold:g}), or select all"}
        return [f"No detection was selected, so nothing was measured: {ways.get(plan.select, 'lower score_threshold')}."]
    given = {"box", "predict", "redraw", "randomized"} if plan.select != "failures" else {"predict", "redraw", "randomized"}
    return left_out(results, metrics, frozenset(given))


def _remarks_on_texts(results: Results, records: Sequence[ImageRecord], metrics: Mapping[str, Metric]) -> list[str]:
    if not len(results):
        return ["No image shows an object that the model was to be asked about, so nothing was measured."]
    given = {"box", "mask", "predict", "redraw", "randomized", "whole"}
    judged = {spec for record in records for row in record.get("rows", {}).values() for spec in row["metrics"]}
    given |= {need for spec in judged for need in metrics[spec].needs}
    told = [*left_out(results, metrics, frozenset(given)), *without_words(results, metrics)]
    if any(record.get("masks") == "boxes" for record in records):
        told.append("The data has no masks: where a metric asks for one, the objects' boxes stand for it.")
    return told


def _facts(
    setup: Setup, results: Results, records: Sequence[ImageRecord], accuracy: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    plan = setup.plan
    used = f"{len(results)} in {len(set(results.images.tolist()))} of {len(records)} images"
    versions = ", ".join(f"{name} {_version(name)}" for name in ("whybox", "torch", "torchvision"))
    return (
        ("Model", setup.model.name),
        ("Data", setup.data.name),
        ("Texts" if "text" in setup.model.gives else "Objects", used),
        ("Selection", _selection(setup)),
        ("Target", plan.target if isinstance(plan.target, str) else getattr(plan.target, "__name__", "your own")),
        _accuracy_fact(accuracy) if answers_for_image(setup.model) else _detector_fact(accuracy),
        ("Seed", str(plan.seed)),
        ("Versions", versions),
    )


def _selection(setup: Setup) -> str:
    """Which detections, texts or classes are explained."""
    plan, classes = setup.plan, len(setup.data.classes)
    if "text" in setup.model.gives:
        own = f"“{plan.template}” of the classes in each image, among {classes}"
        return own if plan.prompts == "class" else "the objects' own phrases, among those of the image"
    if answers_for_image(setup.model):
        return f"the classes in each image, among {len(setup.model.classes or ())}"
    chosen = {
        "well_detected": f"detections that match an object of their class with an IoU over {plan.iou:g}, one to one",
        "all": "all detections",
        "failures": "detections that match no object",
    }[plan.select]
    return f"{chosen}; score at least {plan.score_threshold:g}"


def _detector_fact(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    return ("Detector's AP50", "unknown" if accuracy.get("ap50") is None else f"{accuracy['ap50']:.3f}")


def _accuracy_fact(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    """Of the untouched images: how often what is explained leads all columns."""
    told = "unknown" if not accuracy else f"{accuracy['top1']:.3f} first, {accuracy['top5']:.3f} among five"
    return ("Rank of what is explained", told)


def summary_of(done: Evaluation) -> dict[str, Any]:
    """The table as plain numbers and text: what summary.json holds."""
    report = done.report
    cells = {
        name: [{"method": row, "metric": column, **vars(cell)} for (row, column), cell in table.items()]
        for name, table in (("cells", report.cells), ("versus_controls", report.versus))
    }
    columns = [{"metric": one.key, "title": one.title, "higher_is_better": one.higher_is_better} for one in report.columns]
    return {
        "schema": 1,
        "title": report.title,
        "facts": dict(report.facts),
        "metrics": columns,
        **cells,
        "accuracy": dict(done.accuracy),
        "remarks": list(report.remarks),
        "failed": [{"image": image, "reason": reason} for image, reason in report.failed],
        "problems": list(report.problems),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
