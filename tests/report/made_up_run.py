"""A made-up run: two methods and two controls by three metrics, small enough to check by eye."""

from PIL import Image

from whybox.report.results import Cell, Column, Curve, EvaluationReport, Example, Panel, Row

NAN = float("nan")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&'\""

ROWS = (Row("odam", "ODAM"), Row("gradcam", "Grad-CAM"), Row("blob", "Blob", True), Row("box", "Box", True))
COLUMNS = (
    Column("deletion", "Deletion", False, (0, 1), "A, 2018", frozenset({"predict"}), "less is better", "share"),
    Column("energy", "Energy in the box", True, (0, 1), "B, 2020", frozenset({"box"})),
    Column("compact", "Compactness", True, (0, float("inf")), "C, 2023"),
)
MEANS = {
    "deletion": (0.25, 0.30, 0.35, 0.40),
    "energy": (0.50, 0.60, 0.55, 0.70),
    "compact": (1.75, NAN, 1.5, 1.25),
}
VERSUS = {
    ("odam", "deletion"): Cell(0.10, 0.05, 0.15, 40),
    ("gradcam", "deletion"): Cell(0.05, -0.01, 0.11, 40),
    ("odam", "energy"): Cell(-0.20, -0.25, -0.15, 40),
    ("gradcam", "energy"): Cell(-0.10, -0.15, -0.05, 40),
    ("odam", "compact"): Cell(0.25, NAN, NAN, 12),
}


def made_up_cells():
    return {
        (row.key, column.key): Cell(mean, mean - 0.02, mean + 0.03, 12 if column.key == "compact" else 40)
        for column in COLUMNS
        for row, mean in zip(ROWS, MEANS[column.key], strict=True)
    }


def made_up_curves():
    at, low, high = (0, 0.5, 1), (0.9, 0.25, 0), (1, 0.8, 0.1)
    return {(row.key, "deletion"): Curve(at, (1, 0.3 + i / 10, 0), low, high) for i, row in enumerate(ROWS)}


def made_up_example(column="deletion", kind="best", color=(200, 40, 40)):
    picture = Image.new("RGB", (80, 60), (90, 120, 90))
    panels = [Panel(row.title, Image.new("RGB", (80, 60), color), 0.125, (1.0, 0.5, 0.0)) for row in ROWS]
    return Example(column, kind, f"a.jpg, {kind}", picture, (10.0, 12.0, 40.0, 50.0), (8.0, 12.0, 42.0, 52.0), panels)


def made_up_report(**fields):
    given = {
        "title": "Two methods",
        "facts": (("Model", "toy"), ("Seed", "0")),
        "rows": ROWS,
        "columns": COLUMNS,
        "cells": made_up_cells(),
        "versus": VERSUS,
        "curves": made_up_curves(),
        "examples": [made_up_example(kind=kind) for kind in ("best", "median", "worst")],
    }
    return EvaluationReport(**given | fields)
