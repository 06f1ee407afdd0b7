"""The files of a run are JSON as every reader takes it, and are read back as they were."""

import gzip
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from runs.small import PLAN, make_model
from test_files import refuse
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.identity import changed
from whybox.runs.evaluation.records import RunFolder, read_columns, read_mark
from whybox.truth import Metric, MetricResult


@dataclass(frozen=True)
class Peak(Metric):
    """The largest number of a map; not defined for every other object."""

    name: ClassVar[str] = "peak"
    title: ClassVar[str] = "Peak"
    group: ClassVar[str] = "complexity"
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    source: ClassVar[str] = "a test"

    def __call__(self, maps, inputs):
        values = maps.flatten(1).amax(1).double()
        values[1::2] = torch.nan
        return MetricResult(values)


def test_a_run_with_an_infinite_range_and_undefined_values_is_strict_json_and_resumed(annotated, tmp_path):
    small = {**PLAN, "methods": ("odam",), "metrics": (Peak(),), "out": tmp_path / "run"}
    first = evaluate(make_model(), annotated, **small)
    assert np.isnan(first.results.values).any()
    json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=refuse)
    for file in (tmp_path / "run" / "records").iterdir():
        json.loads(gzip.decompress(file.read_bytes()), parse_constant=refuse)
    (column,) = read_columns(read_mark(tmp_path / "run"))
    assert column.range == (-math.inf, math.inf)
    next((tmp_path / "run" / "records").iterdir()).unlink()
    again = evaluate(make_model(), annotated, **small)
    assert np.array_equal(again.results.values, first.results.values, equal_nan=True)


def test_numbers_of_a_record_come_back_as_they_were(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {}, [])
    measured = {"values": [math.nan, 0.5], "at": [0.0, 1.0], "curves": [[math.nan, -math.inf], [math.inf, 1.0]]}
    folder.keep({"image": "a", "index": 0, "objects": [], "rows": {"odam": {"metrics": {"peak": measured}}}})
    (record,) = folder.records()
    for name, values in measured.items():
        assert np.array_equal(record["rows"]["odam"]["metrics"]["peak"][name], np.array(values), equal_nan=True)


def test_terms_that_are_not_finite_equal_themselves():
    terms = {"threshold": math.nan, "limits": (0.0, math.inf)}
    assert changed({"threshold": "NaN", "limits": [0.0, "Infinity"]}, terms) == []
    # As older versions wrote them.
    assert changed(json.loads(json.dumps(terms)), terms) == []
    assert changed({"threshold": 1.0, "limits": [0.0, 1.0]}, terms) == ["threshold", "limits"]
