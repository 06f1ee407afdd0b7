"""Resamples of people and items: an answer counts as often as both were drawn."""

import numpy as np

from whybox.ops.resampling import crossed_draws, crossed_sums


def test_a_resample_draws_as_many_as_there_are():
    people, items = crossed_draws(3, 5, 40, seed=1)
    assert people.shape == (40, 3)
    assert items.shape == (40, 5)
    assert (people.sum(1) == 3).all()
    assert (items.sum(1) == 5).all()
    assert [part.tolist() for part in crossed_draws(3, 5, 40, seed=1)] == [people.tolist(), items.tolist()]


def test_sums_by_repeating_the_answers():
    values = np.random.default_rng(0).normal(size=(2, 3, 4))
    people, items = crossed_draws(3, 4, 6, seed=2)
    sums = crossed_sums(values, people, items)
    for draw in range(6):
        rows, columns = (np.repeat(np.arange(len(part[draw])), part[draw].astype(int)) for part in (people, items))
        np.testing.assert_allclose(sums[:, draw], values[:, rows][:, :, columns].sum((1, 2)))
