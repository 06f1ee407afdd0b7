"""Sparseness against the definition, pair by pair."""

import torch

from whybox.metrics.sparseness import gini_index


def test_it_is_the_mean_difference_of_all_pairs():
    """G = sum_ij |a_i - a_j| / (2 P sum a), which is the index by its other definition."""
    amounts = torch.rand((3, 50), generator=torch.Generator().manual_seed(0)) ** 3
    by_pairs = (amounts[:, :, None] - amounts[:, None]).abs().sum((1, 2)) / (2 * 50 * amounts.sum(1))
    torch.testing.assert_close(gini_index(amounts), by_pairs)


def test_one_pixel_holds_it_all():
    one = torch.zeros((1, 100))
    one[0, 7] = 2.0
    assert gini_index(one).item() == torch.tensor(0.99).item()


def test_nothing_is_not_sparse():
    assert gini_index(torch.zeros((1, 4))).isnan().all()
