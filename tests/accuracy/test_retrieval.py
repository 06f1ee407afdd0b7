"""Retrieval held to a plain loop; ties held to the average over all orders."""

import itertools

import numpy as np
import pytest

from whybox.accuracy._places import Places, find_places
from whybox.accuracy.retrieval import retrieve


def plain_recalls(similarity, owner, depths=(1, 5, 10)):
    """Without ties: sort, look at the first k."""
    images, texts = similarity.shape
    recalls = {}
    for depth in depths:
        hits = [any(owner[text] == image for text in np.argsort(-similarity[image])[:depth]) for image in range(images)]
        recalls[f"i2t_r{depth}"] = sum(hits) / images
        hits = [owner[text] in np.argsort(-similarity[:, text])[:depth] for text in range(texts)]
        recalls[f"t2i_r{depth}"] = sum(hits) / texts
    return recalls


@pytest.mark.parametrize("seed", range(5))
def test_recalls_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(12), rng.integers(0, 12, 25)])
    similarity = rng.normal(size=(12, len(owner)))
    similarity[owner, np.arange(len(owner))] += 1
    found = retrieve(similarity, owner).recalls()
    assert found == pytest.approx(plain_recalls(similarity, owner))
    belongs = owner == np.arange(12)[:, None]
    assert retrieve(similarity, belongs).recalls() == found


@pytest.mark.parametrize("right", [(0,), (1, 2), (0, 3, 4)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_tie_counts_as_the_average_over_all_orders(right, count):
    values = np.array([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    known = np.isin(np.arange(6), right)
    orders = [sorted(order, key=lambda i: -values[i]) for order in itertools.permutations(range(6))]
    average = np.mean([any(known[i] for i in order[:count]) for order in orders])
    assert find_places(values[None], known[None]).hits(count)[0] == pytest.approx(average)


def test_a_model_that_says_the_same_of_all_is_as_good_as_guessing():
    recalls = retrieve(np.zeros((20, 20)), np.arange(20)).recalls()
    assert recalls == pytest.approx({f"{way}_r{k}": k / 20 for way in ("i2t", "t2i") for k in (1, 5, 10)})


def test_more_places_than_answers_find_everything():
    assert retrieve(np.eye(3), [2, 1, 0]).recalls((3, 10)) == dict.fromkeys(("i2t_r3", "i2t_r10", "t2i_r3", "t2i_r10"), 1.0)


def test_no_images_have_no_recall():
    assert np.isnan(list(retrieve(np.zeros((0, 0)), np.zeros((0, 0), bool)).recalls().values())).all()
    assert Places(*[np.zeros(0, np.int64)] * 3).hits(1).shape == (0,)


@pytest.mark.parametrize(
    ("similarity", "belongs", "message"),
    [
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
        (np.zeros((2, 2)), [0, 0], "query 1 has no right answer"),
        (np.zeros((2, 3)), np.eye(2), "one shape"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity, belongs, message):
    with pytest.raises(ValueError, match=message):
        retrieve(similarity, belongs)
