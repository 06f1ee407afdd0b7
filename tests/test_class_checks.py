"""Mistakes in classes and results of methods and metrics are one line each."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import whybox
from whybox import MetricResult, WhyboxError
from whybox.methods.odam import Odam
from whybox.metric_choice import check_metric
from whybox.metrics.sparseness import Sparseness
from whybox.placement import Whole
from whybox.pullback import FeatureGradient
from whybox.runs.evaluation.arguments import _names_and_objects
from whybox.runs.evaluation.measure import _out_of_range


def sub(base, **attributes):
    return dataclass(frozen=True)(type("Mine", (base,), {**attributes, "__annotations__": {}}))


@pytest.mark.parametrize(
    ("base", "attributes", "words"),
    [
        (Odam, {"title": 5}, "title must be a text, got 5"),
        (Odam, {"source": None}, "source must be a text, got None"),
        (Odam, {"name": "My CAM"}, "name must be lower-case letters"),
        (Odam, {"allow_frozen": False}, "did you mean frozen_allowed"),
        (Odam, {"draw": lambda self, gradient: None}, r"draw must take \(self, gradient, detections, stride\)"),
        (Sparseness, {"higher_is_better": "no"}, "higher_is_better must be True or False, got 'no'"),
        (Sparseness, {"lower_is_better": True}, "did you mean higher_is_better"),
        (Sparseness, {"__call__": lambda self, maps: None}, r"__call__ must take \(self, maps, inputs\)"),
    ],
)
def test_a_wrong_class_is_refused(base, attributes, words):
    with pytest.raises(WhyboxError, match=words):
        sub(base, **attributes)()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"range": 1.0}, "range must be"),
        ({"range": (1, 0)}, "range must be"),
        ({"group": "Localisation"}, "did you mean localization"),
        ({"sets": {"standart": ("",)}}, "did you mean standard"),
    ],
)
def test_a_wrong_metric_object_is_refused(attributes, words):
    with pytest.raises(WhyboxError, match=words):
        check_metric(sub(Sparseness, **attributes)())


def test_a_class_in_place_of_an_object_is_told():
    with pytest.raises(WhyboxError, match=r"pass Sparseness\(\)"):
        _names_and_objects("metrics", Sparseness)


def test_values_that_no_metric_of_the_range_has():
    assert _out_of_range(torch.tensor([0.0, torch.nan, 1.0005]), (0.0, 1.0)) == ""
    assert "gave -5, outside its range 0 to 1" in _out_of_range(torch.tensor([-5.0]), (0.0, 1.0))
    assert "gave infinity" in _out_of_range(torch.tensor([torch.inf]), (0.0, torch.inf))
    assert MetricResult([1, 2]).values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("made", [lambda maps: maps.numpy(), lambda maps: maps > 0, lambda maps: maps.double()])
def test_drawn_maps_become_the_gradients_type(made):
    gradient = FeatureGradient(torch.ones(1, 2, 3, 4), torch.ones(2, 3, 4), Whole((3, 4)))
    assert gradient.under(made(torch.ones(1, 3, 4))).values.dtype == torch.float32


def test_nan_maps_and_wrong_options_of_an_object_are_told():
    model, image = whybox.load("whybox/scenes"), whybox.open_data("scenes:count=1")[0].image

    def draw(self, gradient, detections, stride):
        return gradient.on_grid(np.full((len(detections), *gradient.grid), np.nan))

    bad = sub(Odam, draw=draw)
    with pytest.raises(WhyboxError, match="method 'odam' drew NaN or infinity for detection 0"):
        whybox.explain(model, image, method=bad(), top=1)
    with pytest.raises(WhyboxError, match="layer must be a name"):
        whybox.explain(model, image, method=Odam(layer=3), top=1)
    with pytest.raises(WhyboxError, match="unknown route 'quick'"):
        whybox.explain(model, image, method=Odam(route="quick"), top=1)
