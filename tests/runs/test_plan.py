"""What is evaluated, in words."""

import pytest

from whybox.errors import WhyboxError
from whybox.runs.plan import CONTROLS, GROUPS, Plan, make_metric, titles


def test_groups_are_written_out_once_and_controls_join():
    plan = Plan(methods=("odam", "control_box", "odam"), metrics=("faithfulness", "deletion", "leakage"))
    assert plan.rows() == ("odam", "control_box", "control_blob")
    assert plan.columns() == (*GROUPS["faithfulness"], "leakage")


def test_every_group_names_metrics_that_exist():
    for members in GROUPS.values():
        for spec in members:
            assert make_metric(spec).title
    everything = Plan(metrics=("all",)).columns()
    assert {"randomisation", "stability"} == set(everything) - set(Plan(metrics=("standard",)).columns())


def test_titles_name_the_settings():
    assert titles(["odam", "drise:masks=500", *CONTROLS])["drise:masks=500"] == "D-RISE (masks 500)"


def test_an_option_out_of_its_range_is_one_line():
    with pytest.raises(WhyboxError, match="points must be at least 2"):
        make_metric("deletion:points=1")
