"""ODAM against its formula, scipy's Gaussian, and the identities between its smoothings."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from toy import ToyModel, doubled, score

from whybox.errors import UnknownNameError, WhyboxError
from whybox.frame import resize_maps
from whybox.methods.gradcam import GradCam
from whybox.methods.odam import Odam, odam_map, smooth_gradient
from whybox.placement import Boxes, Whole
from whybox.pullback import FeatureGradient
from whybox.types import Detections, min_max

CELLS = [(4, 5, 0), (0, 0, 1), (11, 15, 0), (6, 9, 1), (5, 2, 0)]


@pytest.fixture
def toy():
    model = ToyModel()
    trace = model.trace(model.picture())
    return model, trace, model.at(CELLS, trace)


def maps_of(method, toy, target=score):
    model, trace, detections = toy
    return method(model, trace, detections, [target])[0]


def test_map_is_the_hand_computed_product(toy):
    model, trace, _ = toy
    fine = trace.features[0].values
    got = maps_of(Odam(), toy)
    for (row, column, label), values in zip(CELLS, got.native, strict=True):
        expected = torch.zeros(model.grid)
        for i in range(5):
            for j in range(5):
                r, c = row + i - 2, column + j - 2
                if 0 <= r < model.grid[0] and 0 <= c < model.grid[1]:
                    expected[r, c] = max(0.0, float((model.kernel[label, :, i, j] * fine[:, r, c]).sum()))
        torch.testing.assert_close(values, expected)


def test_map_of_many_rows_equals_einsum():
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn((256, 60, 90), generator=generator)
    own = torch.randn((5, 256, 60, 90), generator=generator)
    gradient = torch.randn((5, 256, 60, 90), generator=generator)
    torch.testing.assert_close(
        odam_map(shared, gradient), torch.einsum("chw,nchw->nhw", shared, gradient).relu(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        odam_map(own, gradient), torch.einsum("nchw,nchw->nhw", own, gradient).relu(), rtol=1e-4, atol=1e-4
    )


def test_map_carries_gradient():
    features = torch.rand((3, 4, 4), dtype=torch.float64, requires_grad=True)
    gradient = torch.rand((2, 3, 4, 4), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(odam_map, (features, gradient))


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_global_smoothing_is_gradcam_exactly(toy, route):
    odam = maps_of(Odam(smoothing="global", route=route), toy)
    gradcam = maps_of(GradCam(route=route), toy)
    assert torch.equal(odam.values, gradcam.values)
    assert odam.values.amax() > 0


@pytest.mark.parametrize("sigma", [(1.0, 1.0), (0.6, 2.3), (3.0, 0.5)])
def test_gaussian_equals_scipys(sigma):
    gradient = torch.randn((1, 2, 40, 50), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    got = smooth_gradient(gradient, torch.tensor([sigma], dtype=torch.float64))[0]
    for mine, raw in zip(got, gradient[0], strict=True):
        expected = gaussian_filter(raw.numpy(), sigma, mode="constant", truncate=8.0)
        torch.testing.assert_close(mine, torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_gaussian_of_no_width_changes_nothing():
    gradient = torch.randn((2, 3, 8, 9), generator=torch.Generator().manual_seed(5))
    assert torch.equal(smooth_gradient(gradient, torch.zeros((2, 2))), gradient)
    wider = smooth_gradient(gradient, torch.zeros((2, 2)), margin=2)
    assert torch.equal(wider[:, :, 2:-2, 2:-2], gradient)
    assert wider.count_nonzero() == gradient.count_nonzero()


def test_gaussian_of_a_vanishing_sigma_is_plain_odam(toy):
    torch.testing.assert_close(maps_of(Odam(smoothing="gaussian", sigma=0.0), toy).values, maps_of(Odam(), toy).values)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.5])
def test_gaussian_on_windows_equals_gaussian_on_the_whole_grid(sigma):
    model = ToyModel(image=(160, 200), canvas=(160, 224))
    trace = model.trace(model.picture())
    toy = model, trace, model.at([(20, 25, 0), (0, 0, 1), (39, 55, 0)], trace)
    windows = maps_of(Odam(smoothing="gaussian", sigma=sigma), toy)
    whole = maps_of(Odam(smoothing="gaussian", sigma=sigma, route="exact"), toy)
    assert windows.routes == ("windows",) * 3
    torch.testing.assert_close(windows.values, whole.values, rtol=1e-5, atol=1e-5)


def test_gaussian_follows_the_box():
    method = Odam(smoothing="gaussian", sigma=0.1)
    detections = Detections(torch.tensor([[10.0, 20, 90, 40]]), torch.ones(1), torch.zeros(1).long(), torch.zeros(1).long())
    whole = FeatureGradient(torch.zeros((1, 2, 9, 9)), torch.zeros((2, 9, 9)), Whole((9, 9)))
    torch.testing.assert_close(method._deviations(whole, detections, 4.0), torch.tensor([[0.5, 2.0]]))
    pooled = FeatureGradient(torch.zeros((1, 2, 7, 5)), torch.zeros((1, 2, 7, 5)), Boxes(torch.zeros((1, 4)), (9, 9)))
    torch.testing.assert_close(method._deviations(pooled, detections, 4.0), torch.tensor([[0.7, 0.5]]))


def test_targets_share_a_call(toy):
    model, trace, detections = toy
    first, second = Odam()(model, trace, detections, [score, doubled])
    torch.testing.assert_close(second.values, 2 * first.values)
    assert (first.target, second.target) == ("score", "doubled")
    assert first.options["smoothing"] == "none"


@pytest.mark.parametrize("fusion", ["max", "mean", "sum"])
def test_layers_are_fused_on_the_finest_grid(toy, fusion):
    model, _, _ = toy
    fused = maps_of(Odam(layer=("coarse", "fine"), fusion=fusion), toy)
    fine = min_max(maps_of(Odam(layer="fine"), toy).values)
    coarse = min_max(resize_maps(maps_of(Odam(layer="coarse"), toy).values, model.grid))
    expected = {"max": torch.maximum(fine, coarse), "mean": (fine + coarse) / 2, "sum": fine + coarse}[fusion]
    torch.testing.assert_close(fused.values, expected)
    assert fused.routes == ("exact+windows",) * len(CELLS)
    assert fused.options["layer"] == ("coarse", "fine")


def test_padding_is_cropped_unless_asked_otherwise(toy):
    cropped, stretched = maps_of(Odam(), toy), maps_of(Odam(crop_padding=False), toy)
    assert torch.equal(cropped.values, stretched.values)
    assert torch.equal(stretched.at_image(), resize_maps(stretched.values, (40, 56)))
    assert torch.equal(cropped.at_image(), resize_maps(cropped.values, (48, 64))[:, :40, :56])


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown smoothing 'gausian'; did you mean gaussian"):
        Odam(smoothing="gausian")
    with pytest.raises(UnknownNameError, match="unknown fusion 'median'"):
        Odam(fusion="median")
    with pytest.raises(WhyboxError, match="sigma must not be negative"):
        Odam(sigma=-1)
    with pytest.raises(WhyboxError, match="layer is empty"):
        Odam(layer=())
