"""Accuracy of regions held to a plain loop."""

import numpy as np
import pytest

from whybox.accuracy.region_classes import mean_over_groups, rank_classes, region_accuracy


def plain(similarity, labels, depth):
    hits, by_class = [], {}
    for row, label in zip(similarity, labels, strict=True):
        hit = label in np.argsort(-row)[:depth]
        hits.append(hit)
        by_class.setdefault(label, []).append(hit)
    return np.mean(hits), np.mean([np.mean(each) for each in by_class.values()])


@pytest.mark.parametrize("seed", range(5))
def test_all_things_and_stuff_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    labels, stuff = rng.integers(0, 9, 60), np.arange(9) >= 6
    similarity = rng.normal(size=(60, 9))
    similarity[np.arange(60), labels] += 1
    found = region_accuracy(similarity, labels, stuff)
    for kind, rows in (("all", labels >= 0), ("things", ~stuff[labels]), ("stuff", stuff[labels])):
        one, five = (plain(similarity[rows], labels[rows], depth) for depth in (1, 5))
        told = found[kind]
        assert (told.top1, told.macro_top1, told.top5, told.macro_top5) == pytest.approx((*one, *five))
        assert (told.regions, told.classes) == (rows.sum(), len(set(labels[rows])))


def test_a_rare_class_weighs_as_much_as_a_frequent_one():
    similarity = np.array([[1.0, 0.0]] * 9 + [[1.0, 0.0]])
    told = region_accuracy(similarity, [0] * 9 + [1])["all"]
    assert (told.top1, told.macro_top1) == (0.9, 0.5)
    assert mean_over_groups([1.0, 0.0, 0.0], ["a", "b", "b"]) == 0.5


def test_the_same_similarity_with_all_classes_is_a_guess():
    told = region_accuracy(np.ones((4, 10)), [0, 3, 5, 9])["all"]
    assert (told.top1, told.top5) == pytest.approx((0.1, 0.5))


def test_without_regions_nothing_is_defined():
    told = region_accuracy(np.zeros((0, 3)), [])
    assert np.isnan([told["stuff"].top1, told["all"].macro_top5]).all()
    assert told["all"].regions == told["all"].classes == 0


@pytest.mark.parametrize(("labels", "message"), [([0], "labels"), ([0, 7], "no right answer")])
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        rank_classes(np.zeros((2, 3)), labels)
