"""Images on the way from one to another: the order of pixels, their number, and what stands in for them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from whybox.ops.perturb import Way, blur_image, count_pixels, draw_fill, draw_steps, rank_pixels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_different_values_rank_as_scipy_ranks_them():
    values = torch.rand((13, 17), generator=seeded())
    assert values.unique().numel() == values.numel()
    expected = rankdata(-values.numpy().ravel(), method="ordinal").reshape(13, 17) - 1
    assert np.array_equal(rank_pixels(values, seeded(5)).numpy(), expected)


def test_equal_values_rank_at_random_inside_their_own_range():
    values = torch.tensor([[0.0, 1.0, 0.0, -2.0], [0.0, 0.0, 1.0, -0.0]])
    ranks = torch.stack([rank_pixels(values, seeded(seed)) for seed in range(40)])
    assert all(sorted(one.flatten().tolist()) == list(range(8)) for one in ranks)
    assert set(ranks[:, values == 1].flatten().tolist()) == {0, 1}
    assert set(ranks[:, 0, 0].tolist()) == {2, 3, 4, 5, 6}
    assert (ranks[:, 0, 3] == 7).all()
    assert torch.equal(rank_pixels(values, seeded(7)), ranks[7])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # 400 pixels: 4 a step. 250: 2 a step, so 200 in all. 50: still 1 a step.
        ((10, 10, 30, 30), [0, 80, 160, 240, 320, 400]),
        ((10, 10, 35, 20), [0, 40, 80, 120, 160, 200]),
        ((10, 10, 20, 15), [0, 20, 40, 60, 80, 100]),
        # Beyond the image: 20 x 20 of it lie inside; nothing of it does.
        ((-30, 20, 20, 90), [0, 80, 160, 240, 320, 400]),
        ((-30, 20, -5, 30), [0, 20, 40, 60, 80, 100]),
    ],
)
def test_the_box_says_how_many_pixels(box, expected):
    assert count_pixels(torch.tensor(box, dtype=torch.float32), (40, 50), "box", 6) == expected


def test_counts_end_at_the_whole_image():
    assert count_pixels(torch.zeros(4), (7, 9), "image", 5) == [0, 15, 31, 47, 63]
    assert count_pixels(torch.zeros(4), (5, 9), "box", 3) == [0, 45, 45]


def test_steps_take_so_many_pixels_from_the_end():
    start, end = torch.zeros((3, 4, 5)), torch.ones((3, 4, 5))
    ranks = rank_pixels(torch.rand((4, 5), generator=seeded()), seeded())
    ways = [Way(start, end, ranks, [0, 3, 20]), Way(end, start, ranks, [1, 2])]
    for batch in (1, 2, 5, 9):
        parts = [part.clone() for part in draw_steps(ways, batch)]
        assert [len(part) for part in parts[:-1]] == [batch] * (5 // batch - (5 % batch == 0))
        images = torch.cat(parts)
        assert images.sum((1, 2, 3)).tolist() == [0, 9, 60, 57, 54]
        assert torch.equal(images[1].amin(0) == 1, ranks < 3)


def test_ways_are_made_when_their_images_are_asked_for():
    asked = []

    def ways():
        for i in range(4):
            asked.append(i)
            yield Way(torch.zeros((3, 2, 2)), torch.ones((3, 2, 2)), torch.arange(4).reshape(2, 2), [1, 2, 3])

    pages = draw_steps(ways(), 3)
    first = next(pages)
    assert asked == [0]
    assert next(pages).data_ptr() == first.data_ptr()
    assert asked == [0, 1]
    assert list(draw_steps([], 3)) == []


def test_fills():
    image = torch.rand((3, 30, 40), generator=seeded())
    random = draw_fill("random", image, seeded(3))
    assert torch.equal(random, draw_fill("random", image, seeded(3)))
    assert not torch.equal(random, draw_fill("random", image, seeded(4)))
    assert random.unique().numel() == pytest.approx(3 * 30 * 40, abs=5)
    assert 0 <= random.min() < 0.01 < 0.99 < random.max() < 1
    assert draw_fill("black", image).abs().sum() == 0
    np.testing.assert_allclose(draw_fill("mean", image)[:, 5, 7], image.numpy().mean((1, 2)), rtol=1e-5)
    assert torch.equal(draw_fill("blurred", image), blur_image(image, 4.0))


def test_blur_is_scipys_with_the_weights_inside_scaled_to_one():
    image = torch.rand((3, 30, 44), generator=seeded(), dtype=torch.float64)
    blurred = blur_image(image, 5.0)
    options = {"sigma": 5.0, "mode": "constant", "truncate": 20.0}
    weight = gaussian_filter(np.ones((30, 44)), **options)
    for channel, result in zip(image.numpy(), blurred.numpy(), strict=True):
        np.testing.assert_allclose(result, gaussian_filter(channel, **options) / weight, rtol=1e-9)
    torch.testing.assert_close(blur_image(torch.full((3, 8, 9), 0.25), 3.0), torch.full((3, 8, 9), 0.25))
