import pytest
import torch

from whybox.frame import Frame
from whybox.placement import Windows
from whybox.pullback import FeatureGradient
from whybox.types import Candidates, Detections, HeatMaps, min_max


def detections(count=3):
    return Detections(torch.rand(count, 4), torch.rand(count), torch.arange(count), torch.arange(count) * 2)


def test_detections_are_indexed_like_tensors():
    found = detections()
    assert len(found[1]) == 1
    assert found[torch.tensor([True, False, True])].source.tolist() == [0, 4]
    assert found[[2, 0]].labels.tolist() == [2, 0]
    assert len(Detections.empty()) == 0


@pytest.mark.parametrize("field", ["boxes", "scores", "labels", "source"])
def test_detections_of_uneven_length_are_refused(field):
    parts = {name: getattr(detections(), name) for name in ("boxes", "scores", "labels", "source")}
    with pytest.raises(ValueError, match="shape"):
        Detections(**(parts | {field: parts[field][:2]}))


def test_candidates_keep_a_box_per_class_where_there_is_one():
    boxes = torch.rand(4, 3, 4)
    found = Candidates(boxes, torch.rand(4, 3), torch.zeros(4, dtype=torch.long), raw={"dx": torch.rand(4, 3)})
    assert torch.equal(found.boxes_of(torch.tensor([2]), torch.tensor([1])), boxes[2, 1][None])
    assert found[torch.tensor([1, 1])].raw["dx"].shape == (2, 3)
    with pytest.raises(ValueError, match="boxes"):
        Candidates(boxes[:, :2], torch.rand(4, 3), torch.zeros(4, dtype=torch.long))


def test_unit_runs_from_zero_to_one_and_a_constant_map_is_zeros():
    maps = torch.stack([torch.tensor([[2.0, 4.0], [3.0, 2.0]]), torch.full((2, 2), 7.0)])
    assert torch.equal(min_max(maps), torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]))


def test_unit_keeps_the_order_of_tiny_values():
    """The reference code clamps the range at 1e-7 and so loses the maps of saturated scores."""
    tiny = torch.tensor([[[0.0, 1e-12], [3e-13, 0.0]]])
    assert min_max(tiny).max() == 1


def heat_maps(*native):
    return HeatMaps(native, Frame.same((8, 8)), "score", "odam", routes=("exact",) * len(native))


def test_maps_on_grids_of_several_sizes_meet_on_the_finest():
    coarse, fine = torch.rand(2, 2), torch.rand(4, 4)
    maps = heat_maps(coarse, fine, coarse + 1)
    assert maps.values.shape == (3, 4, 4)
    assert torch.equal(maps.values[1], fine)
    assert torch.allclose(maps.values[2], maps.values[0] + 1, atol=1e-6)
    assert maps.at_image().shape == (3, 8, 8)


def test_unit_is_a_view_that_scales_after_resizing():
    maps = heat_maps(torch.rand(4, 4) * 5)
    unit = maps.normalized()
    assert torch.equal(unit.native[0], maps.native[0])
    assert torch.equal(unit.at_image(), min_max(maps.at_image()))
    assert torch.equal(unit.values, min_max(maps.values))


def test_no_maps_is_not_an_error():
    empty = heat_maps()
    assert empty.values.shape[0] == empty.at_image().shape[0] == len(empty.normalized()) == 0


def test_maps_are_indexed_with_their_routes():
    maps = heat_maps(torch.zeros(2, 2), torch.ones(2, 2))
    assert len(maps[1]) == 1
    assert maps[torch.tensor([False, True])].values.max() == 1
    assert maps[-1].routes == ("exact",)


def test_a_windowed_gradient_on_the_whole_grid():
    features = torch.rand(3, 5, 5)
    windowed = FeatureGradient(torch.rand(2, 3, 3, 3), features, Windows(torch.tensor([[-1, -1], [2, 2]]), (3, 3), (5, 5)))
    whole = windowed.whole()
    assert whole.gradient.shape == (2, 3, 5, 5)
    by_window = (windowed.activation() * windowed.gradient).sum((1, 2, 3))
    assert torch.allclose(by_window, (whole.features * whole.gradient).sum((1, 2, 3)))
