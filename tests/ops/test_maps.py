"""What the gradient methods draw with: products, cells under boxes, slices that bound memory, the fusion of layers."""

import pytest
import torch

from whybox.frame import Frame, resize_maps
from whybox.ops.maps import cells_in_boxes, fuse_layers, split_gradient, weigh_channels
from whybox.placement import Boxes, Whole, Windows
from whybox.pullback import FeatureGradient, sum_products
from whybox.types import HeatMaps


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_sum_products_in_one_slice_or_many():
    for shape in ((3, 4, 5, 6), (3, 256, 150, 130)):
        features, factors = normal(*shape), normal(*shape, seed=1)
        expected = (features * factors).sum(1)
        torch.testing.assert_close(sum_products(features, factors), expected)
        torch.testing.assert_close(sum_products(features[0], factors)[0], expected[0])
    assert sum_products(normal(4, 5, 6), normal(0, 4, 5, 6)).shape == (0, 5, 6)


def test_weigh_channels():
    features, weights = normal(3, 4, 5, 6), normal(3, 4, seed=1)
    expected = (features * weights[..., None, None]).sum(1)
    torch.testing.assert_close(weigh_channels(features, weights), expected)
    torch.testing.assert_close(weigh_channels(features[0], weights)[0], expected[0])
    assert weigh_channels(features[0], weights[:0]).shape == (0, 5, 6)


def test_a_window_is_clipped_at_the_edge():
    features = normal(2, 4, 6)
    gradient = FeatureGradient(torch.ones((2, 2, 3, 3)), features, Windows(torch.tensor([[-1, 4], [0, 0]]), (3, 3), (4, 6)))
    clipped = gradient.clipped().gradient
    assert clipped[0, 0].tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert clipped[1].min() == 1
    whole = FeatureGradient(torch.ones((1, 2, 4, 6)), features, Whole((4, 6)))
    assert whole.clipped().gradient is whole.gradient


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([8.0, 4.0, 16.0, 12.0], {1, 2}, {2, 3}),
        ([9.0, 5.0, 15.0, 9.0], {1, 2}, {2, 3}),
        ([9.0, 5.0, 10.0, 6.0], {1}, {2}),
        ([8.0, 4.0, 8.0, 4.0], {1}, {2}),
        ([-30.0, -30.0, 2.0, 2.0], {0}, {0}),
    ],
)
def test_cells_that_a_box_touches(box, rows, columns):
    cells = cells_in_boxes(torch.tensor([box]), 4.0, (5, 7))[0]
    found = {(int(row), int(column)) for row, column in cells.nonzero()}
    assert found == {(row, column) for row in rows for column in columns}


def test_cells_seen_from_a_window():
    boxes = torch.tensor([[8.0, 4.0, 16.0, 12.0], [0.0, 0.0, 28.0, 20.0]])
    whole = cells_in_boxes(boxes, 4.0, (5, 7))
    origin = torch.tensor([[0, 1], [2, 3]])
    window = cells_in_boxes(boxes, 4.0, (3, 4), origin)
    for one, all_of_it, (row, column) in zip(window, whole, origin.tolist(), strict=True):
        assert torch.equal(one, all_of_it[row : row + 3, column : column + 4])


def test_slices_bound_what_is_held_and_lose_nothing():
    own = FeatureGradient(normal(7, 4, 3, 3), normal(7, 4, 3, 3, seed=1), Boxes(normal(7, 4), (9, 9)))
    shared = FeatureGradient(normal(7, 4, 3, 3), normal(4, 9, 9), Windows(torch.arange(14).reshape(7, 2), (3, 3), (9, 9)))
    for gradient in (own, shared):
        parts = list(split_gradient(gradient, (1024, 1400)))
        assert [len(part.gradient) for _, part in parts] == [2, 2, 2, 1]
        assert torch.equal(torch.cat([part.gradient for _, part in parts]), gradient.gradient)
        assert [rows.start for rows, _ in parts] == [0, 2, 4, 6]
    assert torch.equal(parts[1][1].placement.origin, shared.placement.origin[2:4])
    assert parts[1][1].features is shared.features
    assert torch.equal(list(split_gradient(own, (1024, 1400)))[3][1].features, own.features[6:])
    assert len(list(split_gradient(own, (3, 3)))) == 1


def test_fusion_takes_each_detections_own_finest_grid():
    frame = Frame.same((8, 8))
    first = HeatMaps((normal(2, 2), normal(4, 4)), frame, "score", "odam", {}, ("exact", "windows"))
    second = HeatMaps((normal(4, 4, seed=1), normal(2, 2, seed=1)), frame, "score", "odam", {}, ("exact", "exact"))
    fused = fuse_layers([first, second], "sum", {"layer": ("a", "b")})
    assert [tuple(one.shape) for one in fused.native] == [(4, 4), (4, 4)]
    assert fused.routes == ("exact", "windows+exact")
    assert fused.options == {"layer": ("a", "b")}

    def unit(values):
        return (values - values.min()) / (values.max() - values.min())

    expected = unit(resize_maps(first.native[0][None], (4, 4))[0]) + unit(second.native[0])
    torch.testing.assert_close(fused.native[0], expected)
