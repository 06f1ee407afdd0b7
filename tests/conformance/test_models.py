"""What every model family promises, tried on every registered one."""

from contextlib import suppress

import pytest
import torch

from models.detectors import image
from whybox import registry
from whybox.errors import GradientError, UnknownNameError
from whybox.model import Model
from whybox.ops.maps import draw_maps
from whybox.targets import SIDES, BoxSide, ClassScore


def few(trace, count=12):
    assert len(trace.detections) >= 2
    return trace.detections[:count]


def gradients(model, trace, found, target, route="auto"):
    return [(pullback.rows, pullback.gradient(target).whole()) for pullback in model.pullbacks(trace, found, None, route)]


def test_it_is_a_model_that_says_what_it_gives(model):
    assert isinstance(model, Model)
    assert {"candidates", "features"} <= model.gives
    assert model.layers


def test_a_detection_is_its_candidate(model):
    trace = model.trace(image())
    found = trace.detections
    assert torch.equal(trace.candidates.scores[found.source, found.labels], found.scores)
    raw = trace.candidates.boxes_of(found.source, found.labels)
    height, width = trace.frame.image
    limits = torch.tensor([width, height, width, height])
    assert torch.allclose(raw.clamp(min=0).minimum(limits), found.boxes.clamp(min=0).minimum(limits), atol=1e-2)


def perimeter(trace):
    sides = [BoxSide(side)(trace) for side in SIDES]
    return sides[2] - sides[0] + sides[3] - sides[1]


def moves_boxes(model):
    """Whether the boxes have a gradient: not the one that is the whole image, and not those around masks."""
    return not model.whole_image and model.name != "hf/mask2former"


@pytest.mark.parametrize("target", [ClassScore(), perimeter], ids=["score", "sides"])
def test_gradients_reach_the_features_and_every_row_comes_once(model, target):
    trace = model.trace(image())
    found = few(trace)
    if target is perimeter and not moves_boxes(model):
        with pytest.raises(GradientError):
            gradients(model, trace, found, target)
        return
    parts = gradients(model, trace, found, target)
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(len(found)))
    assert all(part.gradient.isfinite().all() for _, part in parts)
    assert any(part.gradient.any() for _, part in parts)


@pytest.mark.parametrize("target", [ClassScore(), perimeter], ids=["score", "sides"])
@pytest.mark.parametrize("route", ["auto", "fast", "exact"])
def test_products_are_those_of_features_and_gradient(model, route, target):
    """By whatever way a family gets them, and the gradient is the same whether or not they were asked for."""
    trace = model.trace(image())
    found = few(trace, 30)
    pullbacks = None
    with suppress(UnknownNameError):
        pullbacks = list(model.pullbacks(trace, found, None, route))
    if pullbacks is None:
        # Families without windows have no other way than the exact one.
        assert route == "fast"
        return
    for pullback in pullbacks:
        if target is perimeter and pullback.trace.candidates.boxes.grad_fn is None:
            continue  # boxes of the whole image have no gradient
        for (_, asked), (_, other) in zip(pullback.gradients(target), pullback.gradients(target), strict=True):
            products = asked.products()
            terms = other.activation() * other.gradient
            assert products.shape == asked.extent == other.extent
            assert asked.under(products).values is products
            # Sums of terms that cancel have the rounding of the terms.
            torch.testing.assert_close(products, terms.sum(1), rtol=1e-4, atol=1e-5 * float(terms.abs().sum(1).max()))
            assert torch.equal(asked.gradient, other.gradient)


def test_the_target_has_the_same_value_on_the_narrowed_trace(model):
    trace = model.trace(image())
    found = few(trace)
    for pullback in model.pullbacks(trace, found, None, "auto"):
        ours = ClassScore()(pullback.trace).detach()
        assert torch.allclose(ours, found.scores[pullback.rows], atol=1e-5)


def test_default_and_exact_routes_agree_on_direction(model):
    trace = model.trace(image())
    found = few(trace)
    auto, exact = (gradients(model, trace, found, ClassScore(), route) for route in ("auto", "exact"))
    ours = {row: part.gradient[i] for rows, part in auto for i, row in enumerate(rows.tolist())}
    theirs = {row: part.gradient[i] for rows, part in exact for i, row in enumerate(rows.tolist())}
    assert any(gradient.any() for gradient in theirs.values())
    for row, gradient in ours.items():
        one, other = gradient.flatten(), theirs[row].flatten()
        assert torch.nn.functional.cosine_similarity(one, other, 0) > 0.95 or not (one.any() or other.any())


def test_a_gradient_does_not_depend_on_what_else_is_explained(model):
    """The exact route of many detections, however they share passes, is one backward pass each."""
    trace = model.trace(image())
    found = few(trace, 3)
    together = gradients(model, trace, found, ClassScore(), "exact")
    for rows, part in together:
        for row, gradient in zip(rows.tolist(), part.gradient, strict=True):
            ((_, alone),) = gradients(model, trace, found[[row]], ClassScore(), "exact")
            torch.testing.assert_close(gradient, alone.gradient[0], rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_the_module_is_left_as_it_was_also_after_an_exception(model):
    net = model.network
    modes = [part.training for part in net.modules()]
    needs = [weight.requires_grad for weight in net.parameters()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    trace = model.trace(image())

    def broken(passed):
        raise KeyError("the user's own mistake")

    with pytest.raises(KeyError):
        draw_maps(model, trace, few(trace), [broken], lambda *parts: parts[0])
    assert [part.training for part in net.modules()] == modes
    assert [weight.requires_grad for weight in net.parameters()] == needs
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()] == hooks
    assert all(weight.grad is None for weight in net.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_predict_gives_one_set_of_candidates_an_image(model):
    pixels = image()
    candidates = model.predict(torch.stack([pixels, pixels]))
    assert len(candidates) == 2
    alone = model.trace(pixels).candidates
    assert candidates[0].scores.shape[1] == alone.scores.shape[1]
    assert candidates[0].scores.amax() == pytest.approx(float(alone.scores.amax()), abs=1e-3)


def test_images_of_any_shape(model):
    for shape in ((64, 64), (40, 300), (301, 97)):
        trace = model.trace(image(0, *shape))
        assert trace.frame.image == shape
        draw = lambda gradient, *_: gradient.on_grid(gradient.whole().gradient.sum(1))
        maps, _, _ = draw_maps(model, trace, trace.detections[:1], [ClassScore()], draw)
        assert len(maps[0]) == min(1, len(trace.detections))


def test_families_are_found_by_the_folder_listing():
    assert set(registry.models()) >= {"torchvision_onestage", "torchvision_twostage", "hf_detection", "plain"}
    assert set(registry.loaders()) >= {"torchvision", "hf"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(model, mode):
    with mode():
        inside = draw_maps(model, trace := model.trace(image()), few(trace), [ClassScore()], sum_of_products)[0][0]
    trace = model.trace(image())
    outside = draw_maps(model, trace, few(trace), [ClassScore()], sum_of_products)[0][0]
    for one, other in zip(inside, outside, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def sum_of_products(gradient, detections, stride):
    return gradient.under((gradient.gradient * gradient.activation()).sum(1))
