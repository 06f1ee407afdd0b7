"""Crowd measures of a sample are those of the functions, and those of a resample are those of the repeated images."""

import numpy as np
import pytest

from accuracy import plain_crowd
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.accuracy.crowd_sample import CrowdSample, paired_differences
from whybox.accuracy.jaccard import jaccard_index
from whybox.accuracy.miss_rate import miss_rate


def images(count, seed, jitter=4.0):
    """Detections and truths of crowds, with ignored regions and an image without people."""
    generator = np.random.default_rng(seed)
    detections, truths = [], []
    for number in range(count):
        people = 0 if number == 1 else int(generator.integers(2, 9))
        corner = generator.uniform(0, 80, (people, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(12, 30, (people, 2))], 1)
        boxes[1::3] = boxes[0:1] + generator.uniform(0, 3, (len(boxes[1::3]), 4)) if people else boxes[1::3]
        found = np.concatenate(
            [boxes + generator.normal(0, jitter, boxes.shape), generator.uniform(0, 40, (3, 4)) + [0, 0, 40, 40]]
        )
        detections.append({"boxes": found, "scores": generator.uniform(0, 1, len(found)).round(2)})
        truths.append({"boxes": boxes, "size": plain_crowd.SIZE, "ignore": generator.uniform(size=people) < 0.2})
    return detections, truths


def sample_of(detections, truths, numbers=None):
    sample = CrowdSample()
    for number, (found, truth) in enumerate(zip(detections, truths, strict=True)):
        sample.add(number if numbers is None else numbers[number], found, truth)
    return sample


@pytest.mark.parametrize("seed", range(4))
def test_the_measures_are_those_of_the_functions(seed):
    detections, truths = images(12, seed)
    measures = sample_of(detections, truths).measures()
    ap = crowd_ap(detections, truths)
    assert measures.ap == pytest.approx(ap.ap)
    assert measures.recall == pytest.approx(ap.recall)
    assert measures.miss_rate == pytest.approx(miss_rate(detections, truths).log_average)
    assert measures.jaccard_index == pytest.approx(jaccard_index(detections, truths).index)


def test_a_resample_repeats_whole_images():
    detections, truths = images(6, 3)
    # Two classes of an image are two units of it.
    counts, numbers = np.array([2, 0, 3]), [0, 0, 1, 1, 2, 2]
    # Equal scores of several repeats would stand in another order.
    unique = [
        {**found, "scores": found["scores"] + np.linspace(0, 1e-3, len(found["scores"])) + row}
        for row, found in enumerate(detections)
    ]
    resampled = sample_of(unique, truths, numbers).measures(counts)
    rows = [row for row, number in enumerate(numbers) for _ in range(counts[number])]
    repeated = sample_of([unique[row] for row in rows], [truths[row] for row in rows]).measures()
    assert np.allclose(resampled, repeated)


def test_crowded_objects_by_hand():
    truth = {"boxes": [[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]], "size": (100, 100)}
    found = {"boxes": [[0, 0, 10, 10], [50, 50, 60, 60]], "scores": [0.9, 0.8]}
    sample = CrowdSample()
    sample.add(0, found, truth)
    assert sample.measures().crowded_recall == 0.5
    assert sample.measures().recall == pytest.approx(2 / 3)
    alone = CrowdSample()
    alone.add(0, found, {"boxes": truth["boxes"], "size": (100, 100), "ignore": [False, True, False]})
    assert np.isnan(alone.measures().crowded_recall)


def test_a_sample_of_nothing():
    assert np.isnan(CrowdSample().measures()).all()
    empty = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
    missed = CrowdSample()
    missed.add(0, empty, {"boxes": [[0, 0, 10, 10]], "size": (50, 50)})
    assert missed.measures()[:4] == (0.0, 1.0, pytest.approx(0.0), 0.0)


def test_differences_of_a_sample_from_itself_are_zero_and_noise_has_an_interval_around_it():
    detections, truths = images(30, 1)
    one = sample_of(detections, truths)
    for gain in paired_differences(one, one, draws=50).values():
        assert gain == (0.0, 0.0, 0.0, 0.0)
    sharper, _ = images(30, 1, jitter=0.5)
    gains = paired_differences(sample_of(sharper, truths), one, draws=200, seed=4)
    assert 0 < gains["ap"].low < gains["ap"].value < gains["ap"].high
    assert gains["miss_rate"].high < 0 < gains["miss_rate"].detectable
    assert gains == paired_differences(sample_of(sharper, truths), one, draws=200, seed=4)
