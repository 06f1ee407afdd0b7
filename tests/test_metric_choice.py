"""Metrics by name, and the sets that are read from their classes."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from whybox import registry
from whybox.errors import WhyboxError
from whybox.metric_choice import canonical, make_metric, metric_sets, written_out
from whybox.metrics.deletion import Deletion
from whybox.runs.evaluation.plan import Plan
from whybox.truth import Metric, MetricResult


@dataclass(frozen=True)
class Brightness(Metric):
    """An outsider's metric: all that it has to say."""

    times: float = 2.0

    name: ClassVar[str] = "brightness"
    higher_is_better: ClassVar[bool] = True
    group: ClassVar[str] = "complexity"

    def __call__(self, maps, inputs):
        return MetricResult(self.times * maps.flatten(1).mean(1))


@pytest.fixture
def plugin(monkeypatch):
    known = {**registry.metrics(), "brightness": Brightness}
    monkeypatch.setattr(registry, "metrics", lambda: known)
    metric_sets.cache_clear()
    yield
    metric_sets.cache_clear()


def test_a_metric_of_few_lines_has_all_that_a_table_needs():
    metric = Brightness()
    assert (metric.title, metric.needs, metric.across) == ("Brightness", frozenset(), "")
    assert metric.range == (-float("inf"), float("inf"))


@pytest.mark.usefixtures("plugin")
def test_a_plugin_stands_in_its_group_and_in_all():
    assert {"brightness", "sparseness"} <= set(metric_sets()["complexity"])
    assert "brightness" in metric_sets()["all"]
    assert "brightness" in written_out(["all"], whole_image=True)
    assert "brightness" not in metric_sets()["standard"]
    assert {"brightness", "sparseness"} <= set(Plan(metrics=("complexity",)).columns())


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Pointing-Game:region=mask", "pointing_game:region=mask"),
        ("pointing game", "pointing_game"),
        ("Object discrimination index", "odi"),
        ("VEA", "vea"),
        ("Standard", "standard"),
        ("deletoin", "deletoin"),
    ],
)
def test_a_name_may_be_written_in_several_ways(written, name):
    assert canonical(written) == name


def test_a_column_is_one_however_it_was_written():
    assert Plan(metrics=("Deletion", "deletion"), methods=("ODAM", "odam", "Grad-CAM++")).columns() == ("deletion",)
    assert Plan(methods=("ODAM", "odam", "Grad-CAM++")).rows()[:2] == ("odam", "gradcam_pp")


def test_sets_are_those_of_the_classes():
    for metric in registry.metrics().values():
        assert metric.name in {spec.split(":")[0] for spec in metric_sets()[metric.group]}
        for name, settings in metric.sets.items():
            assert {f"{metric.name}:{words}".rstrip(":") for words in settings} <= set(metric_sets()[name])
    assert make_metric("deletion:fill=blurred") == Deletion(fill="blurred")


def test_standard_of_a_whole_image_is_matching():
    assert set(written_out(["standard"], whole_image=True)) == set(metric_sets()["matching"])
    assert set(metric_sets()["matching"]) < set(written_out(["all"], whole_image=True))
    assert not any("text" in spec for spec in metric_sets()["all"])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("deletoin", "unknown metric 'deletoin'; did you mean deletion"),
        ("faithfullness", "did you mean faithfulness"),
        ("deletion:fil=black", "metric 'deletion' has no option 'fil'; did you mean fill"),
        ("deletion:fill=blackk", "metric 'deletion': fill must be one of random, black, mean, blurred, got 'blackk'"),
        ("deletion:points=nan", "points must be a whole number, got nan"),
        ("deletion:most=true", "most must be a whole number or none, got True"),
    ],
)
def test_a_mistake_is_one_line(spec, told):
    with pytest.raises(WhyboxError) as caught:
        make_metric(spec)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
