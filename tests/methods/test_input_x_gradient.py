"""Gradient x input on the toy, which is linear: a pixel is worth what blackening it costs, and all the score."""

import pytest
import torch
from toy import ToyModel, score

from whybox.errors import UnknownNameError
from whybox.methods.input_x_gradient import InputXGradient, input_x_gradient_map


@pytest.fixture
def toy():
    model = ToyModel()
    trace = model.trace(model.picture())
    return model, trace, model.at([(4, 5, 0), (0, 0, 1), (9, 13, 0)], trace)


def test_the_signed_map_of_a_linear_network_adds_up_to_its_score(toy):
    model, trace, detections = toy
    (maps,) = InputXGradient(sign="signed")(model, trace, detections, [score])
    assert maps.values.shape == (3, *model.canvas)
    assert maps.at_image().shape == (3, *model.image)
    torch.testing.assert_close(maps.values.sum((-2, -1)), detections.scores, rtol=1e-4, atol=1e-4)


def test_a_pixel_is_worth_what_the_score_loses_without_it(toy):
    model, trace, detections = toy
    (maps,) = InputXGradient(sign="signed")(model, trace, detections[0], [score])
    image = trace.image.clone()
    image[:, 18, 22] = 0
    lost = detections.scores[0] - model.trace(image).candidates.scores[detections.source[0], 0]
    torch.testing.assert_close(maps.values[0, 18, 22], lost, rtol=1e-3, atol=1e-4)


def test_signs():
    pixels = torch.tensor([1.0, 2, 3]).reshape(3, 1, 1).expand(3, 1, 2)
    gradient = torch.tensor([[[[1.0, -1]], [[1, -1]], [[1, 0]]]])
    assert input_x_gradient_map(pixels, gradient).tolist() == [[[6, 3]]]
    assert input_x_gradient_map(pixels, gradient, "positive").tolist() == [[[6, 0]]]
    assert input_x_gradient_map(pixels, gradient, "signed").tolist() == [[[6, -3]]]
    with pytest.raises(UnknownNameError, match="unknown sign 'abs'; did you mean absolute"):
        InputXGradient(sign="abs")
