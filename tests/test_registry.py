"""What other packages bring in: what is broken or would stand in another's place is left out, and said."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import ClassVar

import pytest

import whybox
from whybox import metric_choice, registry
from whybox.method import Method
from whybox.method_choice import check_target
from whybox.model import Model
from whybox.truth import METRIC_INPUTS, MetricInput


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


@pytest.fixture
def broken_family(monkeypatch):
    """An entry point of a family that cannot be loaded."""
    entries = [EntryPoint("broken", "no_such_package:Thing", "whybox.models")]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "whybox.models" else [])
    registry.models.cache_clear()
    registry.loaders.cache_clear()
    yield "broken"
    monkeypatch.undo()
    registry.models.cache_clear()
    registry.loaders.cache_clear()


@pytest.mark.filterwarnings("always")
def test_a_family_that_cannot_be_used_is_told_once(broken_family, recwarn):
    assert "torchvision" in registry.loaders()
    assert broken_family not in registry.models()
    assert len([told for told in recwarn if "'broken' of another package was left out" in str(told.message)]) == 1


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
        (
            lambda: dataclass(frozen=True)(lacking(needs=frozenset({"feature"})))(),
            r"Lacking: needs has no 'feature'; did you mean features\? \(known: attention, .*, transformer\)",
        ),
        (
            lambda: dataclass(frozen=True)(lacking(not_for=frozenset({"classifyer"})))(),
            r"not_for has no 'classifyer'; did you mean classifier\?",
        ),
        (lambda: dataclass(frozen=True)(lacking(titel="Blank"))(), r"has no attribute 'titel'; did you mean title\?"),
        (lambda: dataclass(frozen=True)(lacking(frozen_alowed=False))(), r"'frozen_alowed'; did you mean frozen_allowed\?"),
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


def metric_class(**body):
    call = lambda self, maps, inputs: whybox.MetricResult(maps.sum((1, 2)))
    return type("Sum", (whybox.Metric,), {"name": "sum", "higher_is_better": True, "__call__": call} | body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"needs": frozenset({"masks"})},
            r"metric class Sum: needs has no 'masks'; did you mean mask\? \(known: box, .*, words\)",
        ),
        ({"needs": "mask"}, "needs must be a set of names"),
        ({"higher_is_beter": True}, r"a metric has no attribute 'higher_is_beter'; did you mean higher_is_better\?"),
    ],
)
def test_a_metric_class_that_misspells_something_is_refused(body, message):
    with pytest.raises(whybox.WhyboxError, match=message):
        metric_class(**body)()


def test_needs_that_depend_on_a_metrics_options_are_checked_when_it_is_made(monkeypatch):
    known = {"sum": dataclass(frozen=True)(metric_class(needs=property(lambda self: frozenset({"masks"}))))}
    monkeypatch.setattr(registry, "metrics", lambda: known)
    with pytest.raises(whybox.WhyboxError, match=r"metric 'sum': needs has no 'masks'; did you mean mask\?"):
        metric_choice.make_metric("sum")


def test_the_known_needs_of_metrics_are_what_an_input_can_give():
    truth = SimpleNamespace(masks=object(), fixations=(None,))
    names = ("predict", "redraw", "randomized", "whole", "words", "score_texts")
    assert MetricInput.gives.fget(SimpleNamespace(truth=truth, **dict.fromkeys(names, True))) == METRIC_INPUTS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"clases": ("a",)}, r"a model has no attribute 'clases'; did you mean classes\?"),
        ({"gives": frozenset({"candidates", "feature"})}, r"model class Half: gives has no 'feature'; did you mean features\?"),
        ({"kind": "detecter"}, r"model class Half: kind has no 'detecter'; did you mean detector or .*\?"),
    ],
)
def test_a_model_class_that_misspells_something_is_refused(body, message):
    with pytest.raises(whybox.WhyboxError, match=message):
        type("Half", (Model,), body)()


def test_a_plug_in_that_misspells_something_is_left_out(plugged, monkeypatch):
    misspelled = dataclass(frozen=True)(type("Misspelled", (Blank,), {"titel": "Blank"}))
    monkeypatch.setattr(EntryPoint, "load", lambda entry: misspelled)
    with pytest.warns(UserWarning, match="'blank' .* was left out: .* did you mean title?"):
        assert "blank" not in plugged(("blank", HERE))


def test_a_misspelled_target_of_a_method_is_refused():
    method = dataclass(frozen=True)(lacking(targets=frozenset({"scor", "area"})))()
    with pytest.raises(whybox.WhyboxError, match=r"method 'x': targets has no 'scor'; did you mean score\?.*\(known: against, "):
        check_target(method, "score")


def test_an_option_may_resemble_an_attribute():
    @dataclass(frozen=True)
    class Towards(Blank):
        target: str = "score"

    assert Towards().target == "score"
