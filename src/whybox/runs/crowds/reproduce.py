"""Reproduction of the ODAM paper's tables on duplicate removal: the paper's numbers beside the measured ones."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whybox import api
from whybox.accuracy.crowd_sample import CrowdSample
from whybox.duplicates import make_rule, remove_duplicates, with_nms
from whybox.errors import WhyboxError
from whybox.files import json_text, write_whole
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.report.table import markdown_line
from whybox.rule import Rule
from whybox.runs.crowds.paper_tables import COLUMNS, HIGHER_IS_BETTER, NEEDS, RuleRow, RuleTable
from whybox.runs.evaluation.identity import weights_digest
from whybox.runs.evaluation.paper_tables import PAPER
from whybox.runs.image_records import keep_records, read_records
from whybox.runs.labels import check_columns, match_classes, to_columns
from whybox.truth import DataSet


def rule_statement(table: RuleTable) -> str:
    """Describe a table: its title, its source, what it needs, its caveats and the paper's numbers.

    Args:
        table: The table.

    Returns:
        Several lines of text.
    """
    lines = [f"{table.name}: {table.title}", f"Source: {PAPER}", "", f"Needs: {NEEDS}.", *table.caveats]
    for kind, title in (("one_stage", "FCOS"), ("two_stage", "Faster R-CNN")):
        rows = [[row.title, *map("{:g}".format, getattr(row, kind))] for row in table.rows if getattr(row, kind)]
        lines += ["", _lines([f"{title} (paper)", *_heads(table)], rows)]
    return "\n".join(lines)


def reproduce_rules(
    table: RuleTable,
    data: DataSet,
    model: Model,
    out: Path,
    *,
    trained: Model | None = None,
    mended: bool = False,
    limit: int | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> str:
    """Compute a table of the paper.

    Args:
        table: One of `RULE_TABLES`.
        data: Annotated images.
        model: A detector trained without ODAM-Train.
        out: A folder for what each rule keeps in each image, one file per detector; an interrupted run in it is resumed.
        trained: The detector trained with ODAM-Train; None: its rows are left out.
        mended: Fix the defects of the reference implementation: Soft-NMS returns the lowered scores.
        limit: Use only the first images; None: all.
        on_progress: Called after each image of each detector.
        on_warning: Called with a line for each problem.

    Returns:
        The table as Markdown, with the paper's numbers for a detector of this kind beside the measured ones.

    Raises:
        WhyboxError: A folder of another run, a model without boxes, or nothing could be measured.
    """
    published = "two_stage" if "roi" in model.gives else "one_stage"
    measured: dict[str, list[float]] = {}
    for key, network in {"model": model, "trained": trained}.items():
        if network is None:
            continue
        rows = [row for row in table.rows if row.model == key]
        rules = _usable(network, {row.title: (mended and row.mended) or row.rule for row in rows}, on_warning)
        file = out / f"detections-{key}.jsonl"
        keep_detections(network, data, rules, file, limit=limit, on_progress=on_progress, on_warning=on_warning)
        measured |= _measures(file)
    if not measured:
        raise WhyboxError(f"{table.name}: nothing could be measured")
    text = _markdown(table, measured, published)
    write_whole(out / "table.md", "\n".join([f"# {table.title}", "", text, "", *table.caveats, ""]))
    values = [_plain(table, row, measured, published) for row in table.rows]
    content = {"table": table.name, "mended": mended, "data": data.name, "paper": published, "values": values}
    write_whole(out / "table.json", json_text(content).encode())
    return text


def _usable(model: Model, rules: Mapping[str, str], on_warning: OnWarning) -> dict[str, Rule]:
    """The rules that the model gives what they compare."""
    usable = {}
    for title, text in rules.items():
        try:
            usable[title] = with_nms(model, make_rule(text)).rule  # type: ignore[attr-defined]
        except WhyboxError as error:
            if model.whole_image:
                raise
            on_warning(f"{title}: left out: {error}")
    return usable


def keep_detections(
    model: Model,
    data: DataSet,
    rules: Mapping[str, Rule],
    file: Path,
    *,
    limit: int | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> None:
    """Write what each rule keeps in each image: a line of JSON per image, after a first one that says what the file is.

    Args:
        model: A detector.
        data: Annotated images.
        rules: Rules by title.
        file: The file. If it holds some of the images already, the run goes on after them.
        limit: Use only the first images; None: all.
        on_progress: Called after each image.
        on_warning: Called for an image that cannot be used.

    Raises:
        WhyboxError: The file is of another run, or the model knows none of the data's classes.
    """
    match_classes(model, data)
    model_words = [*model.identity, weights_digest(model)]
    about = {"model": model_words, "data": data.name, "rules": {title: repr(rule) for title, rule in rules.items()}}
    calls: dict[str, Any] = {"limit": limit, "on_progress": on_progress, "on_warning": on_warning}
    keep_records(file, about, data, lambda sample: _record(model, data, sample, rules), **calls)


def _record(model: Model, data: DataSet, sample: Any, rules: Mapping[str, Rule]) -> dict[str, Any]:
    start = time.perf_counter()
    trace = api.trace(model, sample.image)
    device = trace.candidates.scores.device
    passed = _now(device) - start
    check_columns(model, trace.candidates.scores.shape[1], data)
    truth = to_columns(sample.truth, data.classes, model.classes, first_column=model.first_column)
    kept = {}
    for title, rule in rules.items():
        start = _now(device)
        found = remove_duplicates(model, trace, rule).kept
        seconds = passed + _now(device) - start
        columns = {"boxes": found.boxes.tolist(), "scores": found.scores.tolist(), "labels": found.labels.tolist()}
        kept[title] = {**columns, "seconds": seconds}
    objects = {"boxes": truth.boxes.tolist(), "labels": truth.labels.tolist(), "ignore": truth.ignore.tolist()}
    return {"image": sample.name, "size": list(trace.frame.image), "truth": objects, "kept": kept}


def _now(device: torch.device) -> float:
    """The time after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _measures(file: Path) -> dict[str, list[float]]:
    """By the rule's title, in the order of `COLUMNS`; a class of an image counts as an image."""
    samples: dict[str, CrowdSample] = {}
    seconds: dict[str, list[float]] = {}
    for number, record in enumerate(read_records(file)):
        truth = {name: np.asarray(values) for name, values in record["truth"].items()}
        for title, kept in record["kept"].items():
            found = {name: np.asarray(kept[name]) for name in ("boxes", "scores", "labels")}
            seconds.setdefault(title, []).append(kept["seconds"])
            sample = samples.setdefault(title, CrowdSample())
            # Classes without an object in any image would only add false alarms: on CrowdHuman, people alone are annotated.
            for label in np.unique(truth["labels"]):
                mine, there = found["labels"] == label, truth["labels"] == label
                objects = {"boxes": truth["boxes"][there], "ignore": truth["ignore"][there], "size": record["size"]}
                sample.add(number, {"boxes": found["boxes"].reshape(-1, 4)[mine], "scores": found["scores"][mine]}, objects)
    numbers = {}
    for title, sample in samples.items():
        values = sample.measures()
        shares = (values.ap, values.jaccard_index, values.miss_rate, values.recall)
        numbers[title] = [*(100 * value for value in shares), float(np.median(seconds[title]))]
    return numbers


def _heads(table: RuleTable) -> list[str]:
    arrows = ("↑" if better else "↓" for better in HIGHER_IS_BETTER)
    return [f"{column} {arrow}" for column, arrow in zip(COLUMNS, arrows, strict=True)][: table.columns]


def _markdown(table: RuleTable, measured: Mapping[str, Sequence[float]], published: str) -> str:
    rows = []
    for row in table.rows:
        paper, ours = getattr(row, published), measured.get(row.title)
        cells = []
        for column in range(table.columns):
            cells += [f"{paper[column]:g}" if paper else "", "" if ours is None else f"{ours[column]:.4g}"]
        rows.append([row.title, *cells])
    heads = [text for head in _heads(table) for text in (f"{head}, paper", "ours")]
    return _lines(["rule", *heads], rows)


def _plain(table: RuleTable, row: RuleRow, measured: Mapping[str, Sequence[float]], published: str) -> dict[str, Any]:
    paper, ours = getattr(row, published), measured.get(row.title)
    names = COLUMNS[: table.columns]
    mine = None if ours is None else dict(zip(names, ours, strict=False))
    return {"rule": row.title, "model": row.model, "paper": dict(zip(names, paper, strict=False)) or None, "ours": mine}


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_line(cells) for cells in (head, ["---"] * len(head), *rows))
