"""What every method promises, tried on every registered one, on a model of every family that gives what it needs."""

import pytest
import torch

import whybox
from conformance.conftest import FAMILIES, sample
from models.detectors import image
from whybox import registry

SETTINGS = {
    "drise": {"masks": 8, "candidate_threshold": 0.0},
    "rise": {"masks": 8},
    "m2ib": {"steps": 2, "batch": 2},
    "smoothgrad": {"samples": 1},
    "integrated_gradients": {"steps": 1},
}
"""Options that keep a costly method quick here."""
FEW = ("input_x_gradient", "smoothgrad", "integrated_gradients")
"""Methods that go back to the input: a backward pass through the whole model for every detection."""


def serves(family, method):
    """Whether the family gives what the method needs, and nothing that it is not for."""
    return registry.methods()[method].serves(sample(family))


def explain(family, method, picture, **options):
    model = sample(family)
    trace = whybox.trace(model, picture)
    found = whybox.detect(model, trace, score_threshold=-1.0, top=2 if method in FEW else 6)
    return whybox.explain(
        model, trace, method=method, **{"detections": found, "target": "score"} | SETTINGS.get(method, {}) | options
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_maps_are_finite_seeded_and_differ_between_detections(family, method):
    if not serves(family, method):
        with pytest.raises(whybox.WhyboxError, match="what works with it"):
            explain(family, method, image())
        return
    result = explain(family, method, image())
    again = explain(family, method, image())
    assert len(result.maps) == len(result.detections) >= 2
    assert result.maps.at_image().shape == (len(result.maps), 150, 201)
    assert result.maps.values.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(result.maps.native, again.maps.native, strict=True))
    assert registry.methods()[method].same_for_all or len(torch.unique(result.maps.normalized().at_image(), dim=0)) > 1
    assert result.maps.method == method
    assert result.maps.target == "score"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_no_detection_gives_an_empty_result(family, method):
    if serves(family, method):
        result = explain(family, method, image(), detections=whybox.Detections.empty())
        assert len(result.maps) == len(result.detections) == 0
        assert result.maps.at_image().shape == (0, 150, 201)


@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_every_method_serves_some_family(method):
    assert any(serves(family, method) for family in FAMILIES)


@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_a_method_names_its_source_and_its_needs(method):
    kind = registry.methods()[method]
    assert len(kind.source) > 10
    assert isinstance(kind.needs, frozenset)
    assert kind() == kind()


def test_a_method_that_a_model_cannot_serve_is_refused_with_what_works(monkeypatch):
    model = sample("plain")
    monkeypatch.setattr(type(model), "gives", frozenset({"candidates"}), raising=False)
    with pytest.raises(whybox.WhyboxError, match=r"'odam' needs features.*what works with it: control_blob, control_box, drise"):
        whybox.explain(model, image(), method="odam")
