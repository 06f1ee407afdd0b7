"""The report of a run: one HTML page that holds all that it shows."""

from whybox.report.results import Cell, Column, Curve, EvaluationReport, Example, Panel, Row
from whybox.report.table import table_latex, table_markdown

__all__ = ["Cell", "Column", "Curve", "EvaluationReport", "Example", "Panel", "Row", "table_latex", "table_markdown"]
