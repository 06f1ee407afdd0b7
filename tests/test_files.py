"""JSON as every reader takes it: NaN and infinities, which the standard lacks, are null or texts."""

import json
import math

import pytest

from whybox.files import json_text, strict_json

INF, NAN = float("inf"), float("nan")


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def read_strictly(text):
    return json.loads(text, parse_constant=refuse)


VALUE = {"range": (0.0, INF), "deep": [{"a": [-INF, 1.5, NAN]}], "text": "NaN", "whole": 3, "none": None, "yes": True}


@pytest.mark.parametrize("indent", [None, 2])
def test_nothing_is_lost(indent):
    read = read_strictly(strict_json(VALUE, indent=indent))
    assert read["range"] == [0.0, "Infinity"]
    assert tuple(map(float, read["range"])) == VALUE["range"]
    low, middle, undefined = map(float, read["deep"][0]["a"])
    assert (low, middle) == (-INF, 1.5)
    assert math.isnan(undefined)
    assert [read[name] for name in ("text", "whole", "none", "yes")] == ["NaN", 3, None, True]


def test_what_is_only_looked_at_becomes_null():
    assert read_strictly(json_text(VALUE))["deep"] == [{"a": [None, 1.5, None]}]
