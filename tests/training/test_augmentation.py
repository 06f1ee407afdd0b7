"""What a detector sees: boxes stay on their objects, and every example has its turn."""

import numpy as np
import pytest
import torch

from whybox.training.augmentation import augment, choose_rows
from whybox.training.examples import Example


def rectangles(size, boxes):
    image = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 0
    count = len(boxes)
    return Example(image, np.asarray(boxes, np.float32).reshape(-1, 4), np.arange(count), np.zeros(count, bool))


@pytest.mark.parametrize("size", [(320, 240), (640, 480), (100, 300)])
def test_augmented_boxes_stay_on_their_objects(size):
    example = rectangles(size, [(30, 80, 70, 140)])
    seen = 0
    for seed in range(30):
        image, target = augment(example, (240, 320), (0.7, 1.4), np.random.default_rng(seed))
        assert min(image.shape[1:]) <= 240
        assert max(image.shape[1:]) <= 320
        for box in target["boxes"]:
            seen += 1
            dark = image.mean(0) < image.min() + 0.1
            ys, xs = torch.nonzero(dark, as_tuple=True)
            drawn = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert (drawn - box).abs().max() <= 2
    assert seen > 20


def test_uncounted_regions_are_not_trained_on():
    example = rectangles((320, 240), [(30, 80, 70, 140), (150, 80, 270, 200)])._replace(iscrowd=np.array([False, True]))
    labels = [augment(example, (240, 320), (1.0, 1.0), np.random.default_rng(s))[1]["labels"] for s in range(5)]
    assert all(found.tolist() == [1] for found in labels)


def test_every_example_is_seen_once_an_epoch():
    rows = [row for step in range(5) for row in choose_rows(1, 4, step, 10)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
