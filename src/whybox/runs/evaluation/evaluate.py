"""Evaluation of explanation methods: every metric of every method over a data set, in a folder with tables and a report."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from whybox import api
from whybox.errors import WhyboxError, unknown
from whybox.files import write_whole
from whybox.method import Method
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress
from whybox.report.evaluation import write_report
from whybox.report.figures import write_figures
from whybox.report.results import Cell, EvaluationReport
from whybox.report.table import table_markdown
from whybox.runs.evaluation.arguments import check, make_plan
from whybox.runs.evaluation.detector_accuracy import detector_accuracy
from whybox.runs.evaluation.engines import ENGINES, Setup, measure_here, measure_in_processes, measure_on_ray
from whybox.runs.evaluation.failed_images import FailedImages
from whybox.runs.evaluation.identity import identity
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import TEMPLATE, make_metrics
from whybox.runs.evaluation.records import RunFolder, failures
from whybox.runs.evaluation.report import make_report
from whybox.runs.evaluation.results import Results, gather, write_json, write_parquet
from whybox.runs.evaluation.summary import count_routes, describe
from whybox.runs.evaluation.texts import leading, prompted
from whybox.runs.labels import column_names
from whybox.truth import DataSet, Metric
from whybox.types import Target


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
    # 4 is the line that calls `evaluate`: above the lambda, `check` or `_evaluate`, and `evaluate` itself.
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
    setup = Setup(loaded, api.open_data(data, on_problem=on_problem, rename=rename), make_plan(settings, loaded))
    notes = check(setup, on_warning)
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
    reported = FailedImages()
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
    plan, model = setup.plan, setup.model
    # A detector that reads text is prompted with the data's classes, in their order.
    of_data = model.takes_text and not model.whole_image
    classes = setup.data.classes if of_data else column_names(model, setup.data.classes)
    results = gather(records, plan.rows(), plan.columns(), classes)
    whole = setup.model.whole_image
    accuracy = leading(results.objects) if whole else detector_accuracy(records, classes, setup.data.name)
    report = make_report(setup, results, records, accuracy, folder, notes)
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


def summary_of(done: Evaluation) -> dict[str, Any]:
    """The table as plain numbers and text: the contents of summary.json.

    Args:
        done: The evaluation.

    Returns:
        The facts, metrics, cells, differences to the controls, accuracy, routes of the gradients and problems; ready for JSON.
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
        "routes": count_routes(done.results),
        "remarks": list(report.remarks),
        "failed": [{"image": image, "reason": reason} for image, reason in report.failed],
        "problems": list(report.problems),
    }
