"""Every rule of duplicate removal on every family with boxes, held to a plain loop over all candidates' maps."""

import pytest
import torch
from torch.nn.functional import normalize

import whybox
from conformance.conftest import FAMILIES, sample
from models.detectors import image
from suppression.fits import any_rule
from suppression.test_rules import plain_odam
from whybox import registry
from whybox.duplicates import WithNms, make_rule, map_vectors, remove_duplicates
from whybox.errors import WhyboxError
from whybox.model import Model
from whybox.suppression.greedy import greedy_rows

WITH_BOXES = [family for family in FAMILIES if not sample(family).whole_image]
MOST = 60
"""Candidates of a test, those with the highest scores."""


@pytest.fixture(params=WITH_BOXES)
def model(request):
    return sample(request.param)


def best_of(found):
    """The best ones, and all with the same score as the last of them."""
    found = found[found.scores.argsort(descending=True, stable=True)]
    return found[found.scores >= found.scores[:MOST][-1]]


def test_what_a_rule_gets_are_candidates(model):
    trace = whybox.trace(model, image())
    found = model.unsuppressed(trace)
    assert len(found) > 1
    assert torch.equal(found.scores, trace.candidates.scores[found.source, found.labels])
    pairs = set(zip(found.source.tolist(), found.labels.tolist(), strict=True))
    assert pairs >= set(zip(trace.detections.source.tolist(), trace.detections.labels.tolist(), strict=True))
    height, width = trace.frame.image
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()


def test_greedy_keeps_what_the_candidates_say(model):
    trace = whybox.trace(model, image())
    found = model.unsuppressed(trace)
    # Best first: some scores of random weights are equal.
    found = found[found.scores.argsort(descending=True, stable=True)]
    expected = found[greedy_rows(found.boxes, found.scores, found.labels, 0.3, model.most_detections or len(found))]
    kept = whybox.detect(model, trace, nms="greedy:iou_threshold=0.3", score_threshold=0, top=10_000)
    assert torch.equal(kept.scores, expected.scores)
    assert torch.allclose(kept.boxes, expected.boxes)


def test_odam_is_the_papers_algorithm_on_all_maps(model):
    trace = whybox.trace(model, image())
    found = best_of(model.unsuppressed(trace))
    least = float(found.scores.min())
    maps = map_vectors(model, trace, found)
    assert len(maps) == len(found)
    rule = {"iou_threshold": 0.3, "high": 0.9, "low": 0.6}
    rows = plain_odam(found.boxes, found.scores, found.labels, maps, **rule)[: model.most_detections]
    wrapped = whybox.with_nms(model, "odam", **rule)
    removal = remove_duplicates(model, trace, wrapped.rule, least)
    assert torch.equal(removal.kept.source, found[rows].source)
    assert torch.equal(whybox.detect(wrapped, trace, score_threshold=least, top=10_000).source, found[rows].source)


def test_maps_are_those_that_explain_gives(model):
    trace = whybox.trace(model, image())
    found = best_of(model.unsuppressed(trace))[:6]
    layer = {"layer": "roi"} if "roi" in model.gives else {}
    target = "score" if trace.candidates.logits is None else "logit"
    routes = {} if "torchvision" not in type(model).__module__ else {"route": "fast"}
    result = whybox.explain(model, trace, detections=found, method="odam", target=target, **layer, **routes)
    height, width = trace.frame.network
    shown = normalize(result.maps.resized((-(-height // 16), -(-width // 16))).flatten(1), dim=1)
    assert torch.allclose(shown, normalize(map_vectors(model, trace, found), dim=1), atol=1e-5)


def test_maps_and_decisions_are_the_same_inside_autocast(model):
    trace, rule = whybox.trace(model, image()), make_rule("odam", iou_threshold=0.3, high=0.9, low=0.6)
    found = best_of(model.unsuppressed(trace))
    least = float(found.scores.min())
    maps, kept = map_vectors(model, trace, found), remove_duplicates(model, trace, rule, least).kept
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(map_vectors(model, trace, found), maps)
        assert torch.equal(remove_duplicates(model, trace, rule, least).kept.source, kept.source)


def test_a_model_with_a_rule_is_a_model(model):
    soft = whybox.with_nms(model, "soft", sigma=0.3)
    assert isinstance(soft, WithNms)
    assert soft.network is model.network
    assert (soft.kind, soft.layers, soft.gives, soft.classes) == (model.kind, model.layers, model.gives, model.classes)
    assert soft.identity != model.identity
    assert "nms=soft:decay=gaussian:sigma=0.3" in soft.settings
    trace = whybox.trace(soft, image())
    assert (trace.detections.scores <= trace.candidates.scores[trace.detections.source, trace.detections.labels]).all()
    result = whybox.explain(soft, trace, top=3, score_threshold=0)
    assert torch.equal(result.detections.scores, trace.detections.scores[:3])
    # A second rule takes the place of the first.
    assert whybox.with_nms(soft, "greedy").inner is model


def test_a_model_with_a_rule_hides_no_attribute_of_the_model():
    """What `Model` itself defines is found before the inner model is asked; the two that are left out follow from `kind`."""
    wrapped = whybox.with_nms(sample("plain"), "greedy")
    public = {name for name in vars(Model) if not name.startswith("_")}
    assert public - {"whole_image", "takes_text"} <= {*vars(WithNms), *vars(wrapped)}


def test_every_rule_is_refused_or_works(model):
    for name, rule in registry.rules().items():
        if "embeddings" in rule.needs:
            with pytest.raises(WhyboxError, match=r"compares learned embeddings, and .* has no embedding head"):
                whybox.with_nms(model, name)
        else:
            kept = whybox.detect(whybox.with_nms(model, any_rule(name)), image(), score_threshold=0)
            assert 0 < len(kept) <= len(model.unsuppressed(whybox.trace(model, image())))


def test_a_differentiable_trace_has_a_rule_without_a_gradient():
    model = sample("torchvision_onestage")
    trace = whybox.trace(whybox.with_nms(model, "odam"), image(), differentiable=True)
    removal = remove_duplicates(model, trace, make_rule("odam"))
    assert trace.candidates.scores.requires_grad
    assert not removal.result.similarity.requires_grad
    assert not removal.kept.scores.requires_grad


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(WITH_BOXES)))
def test_models_of_the_whole_image_have_no_boxes_to_suppress(family):
    with pytest.raises(WhyboxError, match="predicts for the whole image: there are no boxes to suppress"):
        whybox.with_nms(sample(family), "odam")
