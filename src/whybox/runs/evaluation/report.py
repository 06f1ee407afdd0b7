"""The report of an evaluation: its table, the facts of the run, and remarks on what is missing and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from whybox.report.results import EvaluationReport
from whybox.runs.evaluation.engines import Setup
from whybox.runs.evaluation.measure import ImageRecord
from whybox.runs.evaluation.plan import Plan, make_metrics
from whybox.runs.evaluation.records import RunFolder, failures
from whybox.runs.evaluation.results import Results
from whybox.runs.evaluation.summary import (
    count_routes,
    examples,
    left_out,
    mean_cells,
    mean_curves,
    routes_in_words,
    table_columns,
    table_rows,
    told_by_methods,
    told_of_unseen,
    versus_controls,
    without_words,
)
from whybox.truth import Metric
from whybox.types import target_name
from whybox.versions import version_of


def make_report(
    setup: Setup,
    results: Results,
    records: Sequence[ImageRecord],
    accuracy: Mapping[str, Any],
    folder: RunFolder,
    notes: Sequence[str],
) -> EvaluationReport:
    """Make the report of an evaluation.

    Args:
        setup: The model, the data and the plan.
        results: The measured values.
        records: The images' records.
        accuracy: The accuracy of the model itself, by measure.
        folder: The folder with the records, for the pictures of the examples.
        notes: Sentences without a full stop, on how the data was matched with the model.

    Returns:
        The table's cells with intervals, the curves, the examples, and what is said of them.
    """
    plan, metrics = setup.plan, make_metrics(setup.plan)
    columns = table_columns(results, metrics)
    cells = mean_cells(results, columns, plan.seed)

    def picture(index: int) -> Image.Image:
        return setup.data[index].image.convert("RGB")

    said = [*told_by_methods(records), *told_of_unseen(records), *(f"{note}." for note in notes)]
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
    sure = prefers_sure(setup)
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
    routes = routes_in_words(count_routes(results))
    packages = ", ".join(f"{name} {version_of(name)}" for name in ("whybox", "torch", "torchvision"))
    return (
        ("Model", setup.model.name),
        ("Data", setup.data.name),
        ("Texts" if setup.model.takes_text and setup.model.whole_image else "Objects", used),
        ("Selection", _selection(setup)),
        ("Target", plan.target if isinstance(plan.target, str) else target_name(plan.target)),
        _accuracy_fact(accuracy) if setup.model.whole_image else _detector_fact(accuracy),
        *((("Gradient routes", routes),) if routes else ()),
        ("Seed", str(plan.seed)),
        ("Versions", packages),
    )


def _selection(setup: Setup) -> str:
    """Which detections, texts or classes are explained."""
    plan, classes = setup.plan, len(setup.data.classes)
    if setup.model.takes_text and setup.model.whole_image:
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


def prefers_sure(setup: Setup) -> str:
    """What a limit before matching does to the selection of well-detected objects.

    Args:
        setup: The model, the data and the plan.

    Returns:
        A sentence without a full stop; "" without such a limit.
    """
    plan = setup.plan
    if setup.model.whole_image or plan.select != "well_detected" or plan.top is None:
        return ""
    return (
        f"top {plan.top} keeps each image's detections with the highest scores before they are matched with objects, so sure "
        f"detections are preferred; objects_per_image {plan.top} draws among all matched objects"
    )
