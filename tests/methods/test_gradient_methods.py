"""What every gradient method owes: the same maps from a window as from the whole gradient, no matter the layer."""

import pytest
import torch
from toy import ToyModel, doubled, score

from whybox.methods.gradcam import GradCam
from whybox.methods.gradcam_pp import GradCamPP
from whybox.methods.input_x_gradient import InputXGradient
from whybox.methods.odam import Odam
from whybox.methods.ssgradcam_pp import SSGradCamPP

AT_FEATURES = [
    Odam(),
    Odam(smoothing="gaussian"),
    Odam(smoothing="global"),
    GradCam(),
    GradCamPP(),
    GradCamPP(epsilon=1e-6),
    SSGradCamPP(),
    SSGradCamPP(region="whole"),
]
ALL = [*AT_FEATURES, InputXGradient()]
CELLS = [(4, 5, 0), (0, 0, 1), (11, 15, 0), (6, 9, 1), (5, 2, 0)]


def named(method):
    return repr(method)


@pytest.fixture
def toy():
    model = ToyModel()
    trace = model.trace(model.picture())
    return model, trace, model.at(CELLS, trace)


@pytest.mark.parametrize("method", AT_FEATURES, ids=named)
def test_windows_give_the_maps_of_the_whole_gradient(method, toy):
    model, trace, detections = toy
    (windows,) = method(model, trace, detections, [score])
    (whole,) = type(method)(**{**vars(method), "route": "exact"})(model, trace, detections, [score])
    assert windows.routes == ("windows",) * len(CELLS)
    assert whole.routes == ("exact",) * len(CELLS)
    torch.testing.assert_close(windows.values, whole.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", AT_FEATURES, ids=named)
def test_a_window_as_large_as_the_grid_is_still_put_in_its_place(method):
    model = ToyModel(image=(20, 20), canvas=(24, 24))
    model.kernel = model.kernel[..., :5, :5]
    trace = model.trace(model.picture())
    trimmed = ToyModel(image=(20, 20), canvas=(20, 20))
    trimmed.coarse = lambda pixels: torch.zeros((6, 1, 1))
    trimmed.fine = lambda pixels, coarse: trace.features[0].values[:, :5, :5]
    small = trimmed.trace(trimmed.picture())
    detections = trimmed.at([(0, 1, 0), (4, 4, 1)], small)
    (windows,) = method(trimmed, small, detections, [score])
    (whole,) = type(method)(**{**vars(method), "route": "exact"})(trimmed, small, detections, [score])
    torch.testing.assert_close(windows.values, whole.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ALL, ids=named)
def test_shape_and_finiteness(method, toy):
    model, trace, detections = toy
    maps = method(model, trace, detections, [score, doubled])
    for one in maps:
        assert one.at_image().shape == (len(CELLS), *model.image)
        assert one.values.isfinite().all()
        assert one.method == type(method).name
        assert one.options == vars(method)
        assert not one.values.requires_grad


@pytest.mark.parametrize("method", ALL, ids=named)
def test_different_detections_differ(method, toy):
    model, trace, _ = toy
    (maps,) = method(model, trace, model.at([(4, 5, 0), (0, 0, 1), (1, 0, 0)], trace), [score])
    values = maps.normalized().values
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (values[i] - values[j]).abs().amax() > 1e-3


@pytest.mark.parametrize("method", ALL, ids=named)
def test_the_order_of_the_detections_is_kept(method, toy):
    model, trace, detections = toy
    (maps,) = method(model, trace, detections, [score])
    order = [3, 0, 4, 2, 1]
    (turned,) = method(model, trace, detections[order], [score])
    torch.testing.assert_close(turned.values, maps.values[order])


@pytest.mark.parametrize("method", ALL, ids=named)
def test_no_detection_gives_no_map(method, toy):
    model, trace, detections = toy
    (maps,) = method(model, trace, detections[:0], [score])
    assert len(maps) == 0
    assert maps.routes == ()
    assert maps.at_image().shape == (0, *model.image)


def test_no_detection_on_several_layers(toy):
    model, trace, detections = toy
    (maps,) = Odam(layer=("coarse", "fine"))(model, trace, detections[:0], [score])
    assert len(maps) == 0


@pytest.mark.parametrize("method", AT_FEATURES, ids=named)
def test_pooled_features_are_put_back_on_the_grid(method, toy):
    model, trace, detections = toy
    pooled = type(method)(**{**vars(method), "layer": "pooled"})
    (maps,) = pooled(model, trace, detections, [score])
    assert maps.values.shape == (len(CELLS), *model.grid)
    assert maps.values.amax() > 0
    # A 5x5 grid of its own, its middle on the detection's cell: nothing else of the level is touched.
    row, column, _ = CELLS[0]
    inside = maps.values[0, row - 2 : row + 3, column - 2 : column + 3]
    assert inside.count_nonzero() == maps.values[0].count_nonzero()


def test_pooled_odam_is_the_same_product(toy):
    model, trace, detections = toy
    (pooled,) = Odam(layer="pooled")(model, trace, detections, [score])
    (fine,) = Odam()(model, trace, detections, [score])
    torch.testing.assert_close(pooled.values, fine.values)
