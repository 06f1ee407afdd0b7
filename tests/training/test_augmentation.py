"""What a detector sees: boxes stay on their objects, and every example has its turn."""

import numpy as np
import pytest
import torch

from whybox.errors import WhyboxError
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


def edges(image, box):
    """The rectangle's edges xyxy to a part of a pixel, from the sums of how dark rows and columns are around the box."""
    x1, y1, x2, y2 = (int(value) for value in box)
    # Its surroundings alone: what lies outside of the picture is gray.
    near = image[:, max(y1 - 4, 0) : y2 + 5, max(x1 - 4, 0) : x2 + 5]
    light, dark = near.amax((1, 2), keepdim=True), near.amin((1, 2), keepdim=True)
    share = ((light - near) / (light - dark)).mean(0)
    found = []
    for axis, first in ((0, max(x1 - 4, 0)), (1, max(y1 - 4, 0))):
        profile = share.amax(axis)
        middle = float((profile * (torch.arange(len(profile)) + 0.5)).sum() / profile.sum()) + first
        found.append((middle - float(profile.sum()) / 2, middle + float(profile.sum()) / 2))
    return [found[0][0], found[1][0], found[0][1], found[1][1]]


@pytest.mark.parametrize("size", [(321, 243), (100, 300), (97, 61)])
@pytest.mark.parametrize("zoom", [(0.5, 0.9), (1.0, 1.0), (1.1, 2.5)])
def test_boxes_move_exactly_as_pixels_do(size, zoom):
    width, height = size
    drawn = (width // 3, height // 3, width // 3 + max(12, width // 8), height // 3 + max(12, height // 8))
    example = rectangles(size, [drawn])
    # In grays that no change of color clips.
    example = example._replace(image=(90 + 80 * (example.image > 0)).astype(np.uint8))
    errors = []
    for seed in range(150):
        image, target = augment(example, (240, 320), zoom, np.random.default_rng(seed))
        for box in target["boxes"].tolist():
            # Of a rectangle that the crop cuts, or that touches its edge, the profile is not whole.
            if min(box) > 5 and box[2] < image.shape[2] - 5 and box[3] < image.shape[1] - 5:
                errors.append(np.subtract(edges(image, box), box))
    assert len(errors) > 20
    assert np.abs(errors).max() < 0.6
    assert np.abs(np.mean(errors, axis=0)).max() < 0.1


def test_uncounted_regions_are_not_trained_on():
    example = rectangles((320, 240), [(30, 80, 70, 140), (150, 80, 270, 200)])._replace(iscrowd=np.array([False, True]))
    labels = [augment(example, (240, 320), (1.0, 1.0), np.random.default_rng(s))[1]["labels"] for s in range(5)]
    assert all(found.tolist() == [1] for found in labels)


def test_every_example_is_seen_once_an_epoch():
    rows = [row for step in range(5) for row in choose_rows(1, 4, step, 10)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def test_batches_of_nothing_are_refused():
    with pytest.raises(WhyboxError, match="no training examples"):
        list(choose_rows(1, 4, 0, 0))
