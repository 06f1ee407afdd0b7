"""What other packages bring in: what is broken or would stand in another's place is left out, and said."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import whybox
from whybox import registry
from whybox.method import Method


@dataclass(frozen=True)
class Blank(Method):
    name: ClassVar[str] = "blank"
    title: ClassVar[str] = "Blank"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    source: ClassVar[str] = "a test"

    def __call__(self, model, trace, detections, targets):
        maps = [trace.image.new_zeros(trace.frame.image)] * len(detections)
        return [self.heat_maps(maps, trace.frame, target) for target in targets]


@pytest.fixture
def plugged(monkeypatch):
    """A function that gives the methods there are with some entry points, afresh."""

    def methods(*pairs):
        entries = [EntryPoint(name, value, "whybox.methods") for name, value in pairs]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "whybox.methods" else [])
        registry.methods.cache_clear()
        return registry.methods()

    yield methods
    monkeypatch.undo()
    registry.methods.cache_clear()


HERE = f"{__name__}:Blank"


def test_a_method_from_outside_is_known_by_its_name(plugged, monkeypatch):
    monkeypatch.setattr(EntryPoint, "load", lambda entry: Blank)
    assert plugged(("blank", HERE))["blank"] is Blank


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("broken", "no_such_package:Thing", "No module named 'no_such_package'"),
        ("odam", "json:JSONDecoder", "'odam' is taken"),
        ("decoder", "json:JSONDecoder", "a class that derives from whybox.Method"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_the_rest_goes_on(plugged, name, value, reason):
    with pytest.warns(UserWarning, match=rf"whybox.methods '{name}' .* was left out: .*{reason}"):
        known = plugged((name, value))
    assert {"odam", "gradcam"} <= set(known)
    assert known["odam"].title == "ODAM"


def test_an_entry_point_and_its_class_have_one_name(plugged, monkeypatch):
    monkeypatch.setattr(EntryPoint, "load", lambda entry: Blank)
    with pytest.warns(UserWarning, match="'empty' .* its class is named 'blank'"):
        assert "empty" not in plugged(("empty", HERE))


def lacking(**changes):
    body = {"name": "x", "needs": frozenset({"candidates"}), "source": "a test", "__call__": Blank.__call__} | changes
    return type("Lacking", (Method,), {key: value for key, value in body.items() if value is not None})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: dataclass(frozen=True)(lacking(name=None))(), "method class Lacking lacks name"),
        (lambda: dataclass(frozen=True)(lacking(needs=None))(), "method class Lacking lacks needs"),
        (lambda: dataclass(frozen=True)(lacking(source=None))(), "method class Lacking lacks source"),
        (lambda: dataclass(frozen=True)(lacking(needs="features"))(), "needs must be a set of names"),
        (lambda: lacking()(), "must be a dataclass"),
    ],
)
def test_a_method_class_that_forgets_something_is_refused_when_an_object_is_made(method, message):
    with pytest.raises(whybox.WhyboxError, match=message):
        method()


def test_a_metric_class_that_forgets_something_is_refused():
    class Nameless(whybox.Metric):
        higher_is_better = True

        def __call__(self, maps, inputs):
            return whybox.MetricResult(maps.sum((1, 2)))

    with pytest.raises(whybox.WhyboxError, match="metric class Nameless lacks name"):
        Nameless()
