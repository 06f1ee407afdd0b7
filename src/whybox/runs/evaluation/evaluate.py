"""Evaluation of explanation methods: every metric of every method over a data set, in a folder with tables and a report."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from whybox import api, registry
from whybox.errors import WhyboxError, unknown
from whybox.files import write_whole
from whybox.method import Method
from whybox.metric_choice import STANDARD, canonical, written_out
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.report.evaluation import write_report
from whybox.report.figures import write_figures
from whybox.report.results import Cell, EvaluationReport
from whybox.report.table import table_markdown
from whybox.runs.evaluation.detector_accuracy import detector_accuracy
from whybox.runs.evaluation.engines import ENGINES, Setup, measure_here, measure_in_processes, measure_on_ray
from whybox.runs.evaluation.identity import identity
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import METHODS, METHODS_OF_WHOLE, TEMPLATE, Plan, make_methods, make_metrics
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
    told_by_methods,
    versus_controls,
    without_words,
)
from whybox.runs.evaluation.texts import check_prompts, leading, prompted
from whybox.runs.labels import column_names, match_classes
from whybox.truth import DataSet, Metric
from whybox.types import Target, target_name
from whybox.versions import version_of

MOST_LISTED = 20
"""Problems of a data set, or images, that a warning lists one by one."""


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        results: One value per object, method and metric.
        report: The table's cells with intervals, the curves and the examples.
        failed: (image, reason) of each image that could not be measured.
        accuracy: The accuracy of the model itself, by measure.
        folder: The folder of the run; None if none was given.
    """

    results: Results
    report: EvaluationReport
    failed: tuple[tuple[str, str], ...]
    accuracy: Mapping[str, Any]
    folder: Path | None

    def table(self) -> str:
        """The table of every metric of every method.

        Returns:
            Markdown, with means and 95 % intervals.
        """
        return table_markdown(self.report)

    def mean(self, method: str, metric: str) -> Cell:
        """One cell of the table.

        Args:
            method: The method's name with its settings, as in `results.rows`.
            metric: The metric's name with its settings, as in `results.columns`.

        Returns:
            The mean over objects, the ends of its 95 % interval, and the number of objects.

        Raises:
            WhyboxError: The table has no such cell.
        """
        cells = self.report.cells
        if (method, metric) not in cells:
            raise unknown("cell", f"{method}, {metric}", [", ".join(key) for key in cells])
        return cells[method, metric]


@dataclass(frozen=True)
class Workers:
    """The workers that measure the images.

    Attributes:
        engine: "local" or "ray".
        workers: Number of processes, or of actors.
        address: Address of a running Ray cluster; None: one is started here.
    """

    engine: str = "local"
    workers: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise unknown("engine", str(self.engine), ENGINES)
        if type(self.workers) is not int or self.workers < 1:
            raise WhyboxError(f"workers must be a whole number from 1 on, got {self.workers!r}")
        if self.address and self.engine != "ray":
            raise WhyboxError("address is for the engine ray: give engine ray too")

    def measure(self, setup: Setup, indices: Sequence[int]) -> Iterator[ImageRecord]:
        """Measure images.

        Args:
            setup: The model, the data and the plan.
            indices: The images' indices in the data set.

        Returns:
            An iterator of one record per image, in the order of completion.
        """
        if self.engine == "ray":
            return measure_on_ray(setup, indices, self.workers, self.address)
        if self.workers > 1:
            return measure_in_processes(setup, indices, self.workers)
        return measure_here(setup, indices)


def evaluate(
    model: str | nn.Module | Model,
    data: str | DataSet,
    *,
    methods: str | Method | Sequence[str | Method] | None = None,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    target: str | Target | None = None,
    select: str = "well_detected",
    iou: float = 0.9,
    score_threshold: float = 0.1,
    objects_per_image: int | None = None,
    top: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch: int = 8,
    threads: int = 1,
    route: str = "auto",
    prompts: str = "class",
    template: str = TEMPLATE,
    out: str | Path | None = None,
    on_problem: str = "skip",
    rename: Mapping[str, str] | None = None,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    on_progress: OnProgress = no_progress,
    # 4 is the line that calls `evaluate`: above the lambda, `_check` or `_evaluate`, and `evaluate` itself.
    on_warning: OnWarning = lambda line: warnings.warn(line, stacklevel=4),
) -> Evaluation:
    """Explain a data set's detections, texts or classes by several methods, and compute metrics of every map.

    Args:
        model: As `load` takes it.
        data: As `open_data` takes it.
        methods: Names with settings ("drise:masks=500"), separated by commas or in a list, and method objects; two controls
            are added. None: the defaults for the model's kind.
        metrics: Names with settings ("deletion:fill=blurred"), groups and sets ("standard", "all"), and metric objects. None:
            "standard".
        target: What is explained, a name or a callable. None: the score; for a classifier the logit.
        select: Which detections are explained: "well_detected" (matching an object of their class one to one with an IoU over
            `iou`), "all", or "failures" (matching no object over .5). Ignored for whole-image models, as are `iou` and
            `score_threshold`.
        iou: IoU threshold of "well_detected", 0 to 1.
        score_threshold: Lowest score of a detection, 0 to 1.
        objects_per_image: Maximum number of explained objects, or texts, per image, drawn at random (by `seed`) among those
            that `select` chose, whatever their scores. None: all.
        top: Maximum number of detections per image, or texts: those with the highest scores, before detections are matched
            with objects, so that sure detections are preferred. None: for "well_detected" and for texts all, else 100.
        seed: Seed of everything random.
        limit: Evaluate only the first images; None: all.
        batch: Perturbed images per forward pass.
        threads: Threads per process.
        route: "auto", "fast" or "exact", see `explain`.
        prompts: What an image-text model is evaluated on: "class", the classes in the image, each in the template; "phrase", the
            objects' own phrases.
        template: The text around a class name, which replaces "{}".
        out: A folder. An interrupted evaluation with the same settings is resumed there, with bit-identical results; with a
            larger `limit` it is extended. None: only the result is returned.
        on_problem: "skip" leaves out broken annotations and lists them; "refuse" stops at the first.
        rename: New names for classes of the data, those of the model: {"motorbike": "motorcycle"}.
        engine: "local" or "ray".
        workers: Number of processes, or of actors of the cluster.
        address: Address of a running Ray cluster.
        on_progress: Called with an image's name after each image.
        on_warning: Called with a line for each problem; by default a Python warning.

    Returns:
        The values, the table's cells with intervals, and the report.

    Raises:
        WhyboxError: An invalid setting, before the first image is read; or no image could be measured.
    """
    measuring = Workers(engine, workers, address)
    loaded = api.load(model)
    settings: dict[str, Any] = {"methods": methods, "metrics": metrics, "target": target, "select": select, "iou": iou}
    settings |= {"score_threshold": score_threshold, "objects_per_image": objects_per_image, "top": top}
    settings |= {"seed": seed, "limit": limit, "batch": batch, "threads": threads, "route": route}
    settings |= {"prompts": prompts, "template": template}
    setup = Setup(loaded, api.open_data(data, on_problem=on_problem, rename=rename), _plan(settings, loaded))
    notes = _check(setup, on_warning)
    if out is not None and not isinstance(out, (str, Path)):
        raise WhyboxError(f"out must be a folder's name, got {out!r}")
    if out is None:
        with tempfile.TemporaryDirectory(prefix="whybox-") as folder:
            # One path for both: results are read back from the files that they were kept in.
            return _evaluate(setup, measuring, Path(folder) / "run", on_progress, on_warning, notes, keep=False)
    return _evaluate(setup, measuring, Path(out), on_progress, on_warning, notes, keep=True)


def _evaluate(
    setup: Setup,
    measuring: Workers,
    out: Path,
    on_progress: OnProgress,
    on_warning: OnWarning,
    notes: Sequence[str],
    *,
    keep: bool,
) -> Evaluation:
    # Prompted before the identity is taken: the texts are part of it.
    model = prompted(setup.model, setup.data.classes, setup.plan)
    columns = describe(make_metrics(setup.plan))
    folder = RunFolder.open(out, identity(setup.plan, model, setup.data), columns)
    images = list(setup.data.names)[: setup.plan.limit]
    left = folder.left(images)
    reported = _Failures()
    if len(images) > len(left):
        on_progress("measured before", len(images) - len(left))
    for record in measuring.measure(setup, left) if left else ():
        # Kept before it is reported: what a user has seen as done survives a kill.
        folder.keep(record)
        if "failed" in record and (line := reported.add(record["image"], record["failed"])) is not None:
            on_warning(line)
        on_progress(record["image"], 1)
    for line in reported.lines():
        on_warning(line)
    done = finish(setup, folder, keep=keep, notes=notes)
    # Only now: the report has been written, and lists every reason.
    if len(done.failed) == len(images):
        raise WhyboxError(f"none of {len(images)} images could be measured; {done.failed[0][0]}: {done.failed[0][1]}")
    return done


class _Failures:
    """Reports the first image that fails for a reason at once, and the others with the same reason in one line at the end."""

    def __init__(self) -> None:
        # By reason: the images after the first.
        self.others: dict[str, list[str]] = {}

    def add(self, image: str, reason: str) -> str | None:
        """The line to report now; None where the reason was reported before."""
        # Most reasons begin with the image's name, and would all differ.
        shared = reason.replace(image, "").strip(": ")
        if shared in self.others:
            self.others[shared].append(image)
            return None
        self.others[shared] = []
        return f"{image}: {reason}"

    def lines(self) -> list[str]:
        """The lines that remain to be reported."""
        return [
            f"{len(images)} more image{'s' * (len(images) > 1)}: {reason}: {_some(images)}"
            for reason, images in self.others.items()
            if images
        ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")


def _check(setup: Setup, on_warning: OnWarning) -> tuple[str, ...]:
    """Refuse what cannot work before the first image is read, and report problems of the data set.

    Returns:
        What the report has to say on how the classes were matched.
    """
    make_methods(setup.plan, setup.model)
    make_metrics(setup.plan)
    if not len(setup.data):
        raise WhyboxError(f"{setup.data.name}: contains no usable image")
    if len(set(setup.data.names)) < len(setup.data):
        raise WhyboxError(f"{setup.data.name}: image names must be unique, because a run is resumed by them")
    for line in setup.data.problems[:MOST_LISTED]:
        on_warning(line)
    if (more := len(setup.data.problems) - MOST_LISTED) > 0:
        on_warning(f"{more} more problems; all are listed in summary.json and in the report")
    check_prompts(setup.model, setup.data.classes, setup.plan)
    if remark := _prefers_sure(setup):
        on_warning(remark)
    # Its classes are texts that are made of the data's own names: nothing has to be matched.
    if setup.model.takes_text:
        return ()
    sentences = match_classes(setup.model, setup.data)
    for line in sentences:
        on_warning(line)
    return sentences


def _prefers_sure(setup: Setup) -> str:
    """What a limit before matching does to the selection of well-detected objects; "" without one."""
    plan = setup.plan
    if setup.model.whole_image or plan.select != "well_detected" or plan.top is None:
        return ""
    return (
        f"top {plan.top} keeps each image's detections with the highest scores before they are matched with objects, so sure "
        f"detections are preferred; objects_per_image {plan.top} draws among all matched objects"
    )


def _plan(settings: Mapping[str, Any], model: Model) -> Plan:
    """The plan of `evaluate`'s arguments: names and the user's objects are separated, and None becomes the model's default."""
    read = {**settings, **{name: value for name, value in _defaults(model).items() if settings[name] is None}}
    for entries in ("methods", "metrics"):
        read[entries], read[f"own_{entries}"] = _names_and_objects(entries, read[entries])
    if model.whole_image:
        read["metrics"] = written_out((canonical(name) for name in read["metrics"]), whole_image=True)
    return Plan(**read)


def _names_and_objects(entries: str, given: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    listed = given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else [given]
    names = tuple(entry.strip() for entry in listed if isinstance(entry, str) and entry.strip())
    objects = tuple(entry for entry in listed if not isinstance(entry, str))
    for entry in objects:
        if isinstance(entry, type):
            raise WhyboxError(f"{entries}: expected names, or objects, got the class {entry.__name__}; pass {entry.__name__}()")
        if not callable(entry) or not hasattr(entry, "name"):
            raise WhyboxError(f"{entries}: expected names, or objects that can be called and have a name, got {entry!r}")
    return names, objects


def _defaults(model: Model) -> dict[str, Any]:
    """The methods, metrics and target of a model where none are given."""
    methods: Sequence[str] = METHODS
    if model.whole_image:
        methods = [name for name in METHODS_OF_WHOLE if registry.methods()[name].serves(model)]
    return {"methods": methods, "metrics": STANDARD, "target": model.default_target}


def finish(setup: Setup, folder: RunFolder, *, keep: bool = True, notes: Sequence[str] = ()) -> Evaluation:
    """Make the tables, the figures and the report from the records of the images.

    Args:
        setup: The model, the data and the plan.
        folder: The folder with the records.
        keep: Whether the tables, figures and report are written to the folder.
        notes: Sentences for the report without a full stop, on how the data was matched with the model.

    Returns:
        The evaluation of the images measured so far.
    """
    # The folder may hold more images than this run's limit: an earlier one may have gone further.
    records = list(folder.records(list(setup.data.names)[: setup.plan.limit]))
    plan, classes = setup.plan, column_names(setup.model, setup.data.classes)
    results = gather(records, plan.rows(), plan.columns(), classes)
    whole = setup.model.whole_image
    accuracy = leading(results.objects) if whole else detector_accuracy(records, classes, setup.data.name)
    report = _report(setup, results, records, accuracy, folder, notes)
    done = Evaluation(results, report, failures(records), accuracy, folder.path if keep else None)
    if keep:
        _write(done, folder.path)
    return done


def _write(done: Evaluation, folder: Path) -> None:
    write_parquet(done.results, folder)
    write_json(summary_of(done), folder / "summary.json")
    write_json({"seconds_per_map": done.results.seconds}, folder / "times.json")
    write_whole(folder / "table.md", done.table() + "\n")
    write_whole(folder / "index.html", write_report(done.report))
    write_figures(done.report, folder / "figures")


def _report(
    setup: Setup,
    results: Results,
    records: Sequence[ImageRecord],
    accuracy: Mapping[str, Any],
    folder: RunFolder,
    notes: Sequence[str],
) -> EvaluationReport:
    plan, metrics = setup.plan, make_metrics(setup.plan)
    columns = table_columns(results, metrics)
    cells = mean_cells(results, columns, plan.seed)

    def picture(index: int) -> Image.Image:
        return setup.data[index].image.convert("RGB")

    said = [*told_by_methods(records), *(f"{note}." for note in notes)]
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
        remarks=[*_remarks(setup, results, records, metrics), *said, *missing],
        seconds=results.seconds if setup.model.whole_image else {},
        failed=failures(records),
        problems=setup.data.problems,
    )


def _remarks(setup: Setup, results: Results, records: Sequence[ImageRecord], metrics: Mapping[str, Metric]) -> list[str]:
    """Sentences for the report on what is missing from the table, and why."""
    plan = setup.plan
    if setup.model.whole_image:
        return _remarks_on_texts(results, records, metrics)
    if not len(results):
        ways = {"well_detected": f"lower iou ({plan.iou:g}) or score_threshold ({plan.score_threshold:g}), or select all"}
        return [f"No detection was selected, so nothing was measured: {ways.get(plan.select, 'lower score_threshold')}."]
    # Failures match no object, so that no metric was given a box.
    given = {"box", "predict", "redraw", "randomized"} if plan.select != "failures" else {"predict", "redraw", "randomized"}
    sure = _prefers_sure(setup)
    return [*left_out(results, metrics, frozenset(given)), *([f"{sure[:1].upper()}{sure[1:]}."] if sure else [])]


def _remarks_on_texts(results: Results, records: Sequence[ImageRecord], metrics: Mapping[str, Metric]) -> list[str]:
    if not len(results):
        return ["No image contains an annotated object to explain, so nothing was measured."]
    given = {"box", "mask", "predict", "redraw", "randomized", "whole"}
    # What the annotations and methods provide beyond that is known from the metrics that were computed.
    computed = {spec for record in records for row in record.get("rows", {}).values() for spec in row["metrics"]}
    given |= {need for spec in computed for need in metrics[spec].needs}
    remarks = [*left_out(results, metrics, frozenset(given)), *without_words(results, metrics)]
    if any(record.get("masks") == "boxes" for record in records):
        remarks.append("The data has no masks: metrics of masks use the objects' boxes instead.")
    return remarks


def _facts(
    setup: Setup, results: Results, records: Sequence[ImageRecord], accuracy: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    plan = setup.plan
    used = f"{len(results)} in {len(set(results.images.tolist()))} of {len(records)} images"
    packages = ", ".join(f"{name} {version_of(name)}" for name in ("whybox", "torch", "torchvision"))
    return (
        ("Model", setup.model.name),
        ("Data", setup.data.name),
        ("Texts" if setup.model.takes_text else "Objects", used),
        ("Selection", _selection(setup)),
        ("Target", plan.target if isinstance(plan.target, str) else target_name(plan.target)),
        _accuracy_fact(accuracy) if setup.model.whole_image else _detector_fact(accuracy),
        ("Seed", str(plan.seed)),
        ("Versions", packages),
    )


def _selection(setup: Setup) -> str:
    """Which detections, texts or classes are explained."""
    plan, classes = setup.plan, len(setup.data.classes)
    if setup.model.takes_text:
        of_classes = f"“{plan.template}” of the classes in each image, among {classes}"
        chosen = of_classes if plan.prompts == "class" else "the objects' own phrases, among those of the image"
        return f"{chosen}{_limits(plan, 'texts')}"
    if setup.model.whole_image:
        return f"the classes in each image, among {len(setup.model.classes or ())}{_limits(plan, 'classes')}"
    chosen = {
        "well_detected": f"detections that match an object of their class with an IoU over {plan.iou:g}, one to one",
        "all": "all detections",
        "failures": "detections that match no object",
    }[plan.select]
    return f"{chosen}; score at least {plan.score_threshold:g}{_limits(plan, 'detections')}"


def _limits(plan: Plan, noun: str) -> str:
    """The limits on the number of objects of an image, for the report."""
    surest = "" if plan.top is None else f"; each image's {plan.top} {noun} with the highest scores alone"
    drawn = "" if plan.objects_per_image is None else f"; at most {plan.objects_per_image} an image, drawn at random"
    return surest + drawn


def _detector_fact(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    return ("Detector's AP50", "unknown" if accuracy.get("ap50") is None else f"{accuracy['ap50']:.3f}")


def _accuracy_fact(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    """Top-1 and top-5 accuracy of the explained texts or classes, on the unmodified images."""
    fractions = "unknown" if not accuracy else f"{accuracy['top1']:.3f} first, {accuracy['top5']:.3f} among five"
    return ("Rank of what is explained", fractions)


def summary_of(done: Evaluation) -> dict[str, Any]:
    """The table as plain numbers and text: the contents of summary.json.

    Args:
        done: The evaluation.

    Returns:
        The facts, metrics, cells, differences to the controls, accuracy and problems; ready for JSON.
    """
    report = done.report
    cells = {
        name: [{"method": row, "metric": column, **vars(cell)} for (row, column), cell in table.items()]
        for name, table in (("cells", report.cells), ("versus_controls", report.versus))
    }
    columns = [
        {"metric": column.key, "title": column.title, "higher_is_better": column.higher_is_better} for column in report.columns
    ]
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
