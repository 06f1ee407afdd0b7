"""What is evaluated, in words."""

import pytest

from whybox.api import open_data
from whybox.errors import WhyboxError
from whybox.metric_choice import make_metric, metric_sets
from whybox.runs.evaluation.plan import CONTROLS, Plan, tell_apart, titles


def test_groups_are_written_out_once_and_controls_join():
    plan = Plan(methods=("odam", "control_box", "odam"), metrics=("faithfulness", "deletion", "leakage"))
    assert plan.rows() == ("odam", "control_box", "control_blob")
    assert plan.columns() == (*metric_sets()["faithfulness"], "leakage")


def test_every_set_names_metrics_that_exist():
    for members in metric_sets().values():
        for spec in members:
            assert make_metric(spec).title
    added = set(Plan(metrics=("all",)).columns()) - set(Plan(metrics=("standard",)).columns())
    assert added == {"randomization", "stability", "pixel_ap", "mask_iou", "pixel_accuracy", "sparseness"}


def test_titles_name_the_settings():
    assert titles(["odam", "drise:masks=500", *CONTROLS])["drise:masks=500"] == "D-RISE (masks 500)"


def test_titles_are_unique():
    named = titles(["odam", "odam:smoothing=global", "control_blob", "control_blob:sigma=0.5", "ODAM"])
    assert len(set(named.values())) == len(named)
    assert named["odam:smoothing=global"] == "ODAM (smoothing global)"


def test_equal_titles_get_the_fewest_settings_that_tell_them_apart():
    specs = ["vea", "vea:auc=mean:region=box", "vea:auc=trapezoid:region=box"]
    assert list(tell_apart(dict.fromkeys(specs[:2], "VEA")).values()) == ["VEA", "VEA (auc mean)"]
    assert list(tell_apart(dict.fromkeys(specs, "VEA")).values()) == ["VEA", "VEA (auc mean)", "VEA (auc trapezoid)"]
    crossed = ["m:a=1:b=1", "m:a=1:b=2", "m:a=2:b=1"]
    assert list(tell_apart(dict.fromkeys(crossed, "M (box)")).values())[1] == "M (box, a 1, b 2)"
    assert list(tell_apart({"own": "Leakage", "leakage": "Leakage"}).values()) == ["Leakage (own)", "Leakage (leakage)"]
    assert tell_apart({"leakage": "Leakage", "odi": "ODI"}) == {"leakage": "Leakage", "odi": "ODI"}


def test_an_option_of_two_kinds_takes_both():
    assert make_metric("attention_divergence:base=e").range[1] == pytest.approx(0.6931, abs=1e-4)
    assert make_metric("attention_divergence:base=2").range[1] == pytest.approx(1.0)
    assert make_metric("deletion:most=100").most == 100


def test_a_longer_series_of_scenes_is_the_same_data_and_another_seed_is_not():
    digests = [open_data(f"scenes:{words}").digest for words in ("count=4", "count=9", "count=4:seed=7", "count=4:size=96x64")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_an_option_out_of_its_range_is_one_line():
    with pytest.raises(WhyboxError, match="points must be at least 2"):
        make_metric("deletion:points=1")
