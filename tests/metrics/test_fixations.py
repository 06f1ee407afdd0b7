"""Maps of attention against SciPy's normal density, and who is left out."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from whybox.errors import WhyboxError
from whybox.metrics._fixations import check_attention, fixation_map, to_distributions


def test_fixations_become_gaussians_at_pixel_centers():
    points = torch.tensor([[3.2, 4.7, 250.0], [11.0, 0.4, 90.0]], dtype=torch.float64)
    rows, columns = np.mgrid[0:9, 0:13] + 0.5
    pixels = np.stack([columns, rows], -1)
    expected = sum(
        duration * 2 * np.pi * 2.5**2 * multivariate_normal([x, y], 2.5**2 * np.eye(2)).pdf(pixels)
        for x, y, duration in points.tolist()
    )
    np.testing.assert_allclose(fixation_map(points, (9, 13), 2.5).numpy(), expected, rtol=1e-12)


def test_the_peak_is_the_duration():
    values = fixation_map(torch.tensor([[4.5, 2.5, 300.0]]), (6, 8), 1.0)
    assert values.argmax() == 2 * 8 + 4
    assert values.max() == 300


@pytest.mark.parametrize(
    "point",
    [(-0.1, 2, 100), (8, 2, 100), (3, -1, 100), (3, 6, 100), (torch.nan, 2, 100), (3, 2, 0), (3, 2, -5), (3, 2, torch.nan)],
)
def test_what_is_no_fixation_of_the_image_is_left_out(point):
    inside = torch.tensor([[4.0, 2.0, 200.0]])
    both = torch.cat([inside, torch.tensor([point])])
    assert torch.equal(fixation_map(both, (6, 8), 2.0), fixation_map(inside, (6, 8), 2.0))
    assert not fixation_map(both[1:], (6, 8), 2.0).any()


def test_no_fixation_is_a_blank_map():
    assert torch.equal(fixation_map(torch.zeros((0, 3)), (4, 5)), torch.zeros((4, 5)))


def test_distributions_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [4.0, 3.0]], [[-1.0, 3.0], [1.0, 0.0]]])
    assert torch.equal(to_distributions(maps, "zero"), torch.tensor([[[0.1, 0.2], [0.4, 0.3]], [[0, 0.75], [0.25, 0]]]))
    torch.testing.assert_close(to_distributions(maps)[0], torch.tensor([[0.0, 1], [3, 2]]) / 6)
    assert to_distributions(torch.ones((1, 2, 2))).isnan().all()


def test_mistaken_options_are_named():
    with pytest.raises(WhyboxError, match=r"sigma_pixels must be positive.*got 0"):
        check_attention(0)
    with pytest.raises(WhyboxError, match="unknown floor 'none'"):
        check_attention(1.0, "none")
