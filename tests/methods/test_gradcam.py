"""Grad-CAM, Grad-CAM++ and SSGrad-CAM++ against loops written from the papers' formulas."""

import pytest
import torch
from toy import ToyModel, score

from whybox.errors import UnknownNameError, WhyboxError
from whybox.methods.gradcam import GradCam, gradcam_map
from whybox.methods.gradcam_pp import GradCamPP, gradcam_pp_map, gradcam_pp_weights
from whybox.methods.ssgradcam_pp import SSGradCamPP, ssgradcam_pp_map

CHANNELS, HEIGHT, WIDTH = 4, 5, 6
CELLS = [(4, 5, 0), (0, 0, 1), (11, 15, 0), (6, 9, 1)]


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(11)
    shape = (CHANNELS, HEIGHT, WIDTH)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    return features, torch.randn((2, *shape), generator=generator, dtype=torch.float64)


@pytest.fixture
def toy():
    model = ToyModel()
    trace = model.trace(model.picture())
    return model, trace, model.at(CELLS, trace)


def cells():
    return [(i, j) for i in range(HEIGHT) for j in range(WIDTH)]


def gradcam_by_loops(features, gradient):
    """Selvaraju et al., eq. 1 and 2."""
    result = torch.zeros((HEIGHT, WIDTH), dtype=torch.float64)
    for k in range(CHANNELS):
        weight = sum(gradient[k, i, j] for i, j in cells()) / (HEIGHT * WIDTH)
        for i, j in cells():
            result[i, j] += weight * features[k, i, j]
    return result.clamp(min=0)


def pp_weight_by_loops(features, gradient, k, mask, epsilon=0.0):
    """Chattopadhay et al., eq. 7 and 19; `mask` is Yamauchi's M, all ones for Grad-CAM++."""
    total = sum(mask[a, b] * features[k, a, b] for a, b in cells())
    weight = 0.0
    for i, j in cells():
        g = gradient[k, i, j]
        if mask[i, j] and g > 0:
            weight += g**2 / (2 * g**2 + total * g**3 + epsilon) * g
    return weight


def gradcam_pp_by_loops(features, gradient, epsilon):
    result = torch.zeros((HEIGHT, WIDTH), dtype=torch.float64)
    ones = torch.ones((HEIGHT, WIDTH))
    for k in range(CHANNELS):
        result += pp_weight_by_loops(features, gradient, k, ones, epsilon) * features[k]
    return result.clamp(min=0)


def ssgradcam_pp_by_loops(features, gradient, mask):
    result = torch.zeros((HEIGHT, WIDTH), dtype=torch.float64)
    for k in range(CHANNELS):
        weight = pp_weight_by_loops(features, gradient, k, mask)
        peak = max(abs(gradient[k, i, j]) for i, j in cells())
        for i, j in cells():
            result[i, j] += weight * abs(gradient[k, i, j]) / peak * features[k, i, j]
    return result.clamp(min=0)


def test_gradcam_is_its_formula(layer):
    features, gradient = layer
    expected = torch.stack([gradcam_by_loops(features, g) for g in gradient])
    torch.testing.assert_close(gradcam_map(features, gradient), expected)
    torch.testing.assert_close(gradcam_map(features.expand(2, -1, -1, -1), gradient), expected)
    assert expected.amax() > 0


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5])
def test_gradcam_pp_is_its_formula(layer, epsilon):
    features, gradient = layer
    expected = torch.stack([gradcam_pp_by_loops(features, g, epsilon) for g in gradient])
    torch.testing.assert_close(gradcam_pp_map(features, gradient, epsilon=epsilon), expected)
    assert expected.amax() > 0


def test_gradcam_pp_does_not_drown_small_gradients(layer):
    features, gradient = layer
    weights = gradcam_pp_weights(features.float().sum((-2, -1)), gradient.float() * 1e-15)
    torch.testing.assert_close(weights, gradient.float().relu().sum((-2, -1)) * 5e-16, rtol=1e-5, atol=0)


def test_gradcam_pp_of_an_unreached_channel_is_zero_and_finite(layer):
    features, _ = layer
    for epsilon in (0.0, 1e-6):
        values = gradcam_pp_map(features, torch.zeros((1, CHANNELS, HEIGHT, WIDTH), dtype=torch.float64), epsilon=epsilon)
        assert torch.equal(values, torch.zeros_like(values))


def test_a_vanishing_denominator_counts_for_nothing():
    total = torch.tensor([-2.0])
    assert gradcam_pp_weights(total, torch.ones((1, 1, 1, 1))).item() == 0.0


@pytest.mark.parametrize("whole", [True, False])
def test_ssgradcam_pp_is_its_formula(layer, whole):
    features, gradient = layer
    mask = torch.zeros((2, HEIGHT, WIDTH), dtype=torch.float64)
    mask[0, 1:4, 2:5] = 1
    mask[1, 0:2, 0:3] = 1
    if whole:
        mask[:] = 1
    weights = gradcam_pp_weights(mask.flatten(1) @ features.flatten(1).T, gradient * mask[:, None])
    expected = torch.stack([ssgradcam_pp_by_loops(features, g, m) for g, m in zip(gradient, mask, strict=True)])
    torch.testing.assert_close(ssgradcam_pp_map(features, gradient, weights), expected)
    assert expected.amax() > 0


def test_ssgradcam_pp_of_the_whole_has_gradcam_pps_weights(toy):
    """Where a channel's gradient has the same size in every cell, its space map is 1 and the map is Grad-CAM++'s."""
    model, trace, _ = toy
    features = trace.features[0].values
    flat = torch.rand((3, len(features), 1, 1)).expand(-1, -1, *model.grid)
    weights = gradcam_pp_weights(features.sum((-2, -1)), flat)
    torch.testing.assert_close(ssgradcam_pp_map(features, flat, weights), gradcam_pp_map(features, flat))


def test_ssgradcam_pp_takes_the_cells_that_the_box_touches(toy):
    model, trace, detections = toy
    features = trace.features[0].values
    (maps,) = SSGradCamPP()(model, trace, detections, [score])
    for n, (row, column, label) in enumerate(CELLS):
        gradient = torch.nn.functional.pad(torch.zeros_like(features), (2, 2, 2, 2))
        gradient[:, row : row + 5, column : column + 5] = model.kernel[label]
        gradient = gradient[None, :, 2:-2, 2:-2]
        mask = torch.zeros(model.grid)
        # The toy's boxes are the five cells of 4 pixels on either side that its kernel sees.
        mask[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 1
        weights = gradcam_pp_weights((mask * features).sum((-2, -1))[None], gradient * mask)
        expected = ssgradcam_pp_map(features, gradient, weights)[0]
        torch.testing.assert_close(maps.native[n], expected, rtol=1e-4, atol=1e-4)


def test_the_region_matters(toy):
    model, trace, detections = toy
    small = type(detections)(
        detections.boxes + torch.tensor([8.0, 8, -8, -8]), detections.scores, detections.labels, detections.source
    )
    (box,) = SSGradCamPP()(model, trace, small, [score])
    (whole,) = SSGradCamPP(region="whole")(model, trace, small, [score])
    assert not torch.allclose(box.values, whole.values)
    assert all(values.amax() > 0 for values in box.native)


@pytest.mark.parametrize("method", [GradCam(), GradCamPP()], ids=repr)
def test_gradcam_cannot_tell_two_of_a_class_apart(toy, method):
    """Away from the edges the toy's gradient is the same kernel, wherever the detection is: so are its weights."""
    model, trace, _ = toy
    two = model.at([(4, 5, 1), (7, 11, 1)], trace)
    (maps,) = method(model, trace, two, [score])
    torch.testing.assert_close(maps.native[0], maps.native[1])
    assert (maps.native[0] > 0).sum() > 25


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown region 'boxes'; did you mean box"):
        SSGradCamPP(region="boxes")
    with pytest.raises(WhyboxError, match="epsilon must not be negative"):
        GradCamPP(epsilon=-1e-6)
