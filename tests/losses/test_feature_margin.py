"""The margin loss against plain loops, its gradient against finite differences, and its limits."""

import math

import pytest
import torch

from whybox.errors import WhyboxError
from whybox.losses import FeatureMargin
from whybox.losses.feature_margin import margin_loss


def given(count=14, seed=0):
    """Boxes of six objects in two images and two classes, around few places, with embeddings of 5 numbers."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, 6, (count,), generator=generator)
    corner = 6 * torch.rand(count, 2, generator=generator) + 8 * (owner % 2)[:, None]
    boxes = torch.cat([corner, corner + 12 + 4 * torch.rand(count, 2, generator=generator)], 1).double()
    embeddings = 0.5 * torch.randn(count, 5, generator=generator).double()
    return embeddings, boxes, owner, owner // 3, owner % 3 % 2


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain(embeddings, boxes, owner, image, labels, alpha=0.2, beta=1.0, low=0.1, high=0.9):
    same, different = [], []
    rows = list(zip(embeddings.tolist(), boxes.tolist(), owner.tolist(), image.tolist(), labels.tolist(), strict=True))
    for i, (e, box, o, number, label) in enumerate(rows):
        for other, box2, o2, number2, label2 in rows[:i]:
            if number == number2 and label == label2 and low < iou(box, box2) <= high:
                distance = math.dist(e, other)
                if o == o2:
                    same.append(max(0, alpha + distance - beta))
                else:
                    different.append(max(0, alpha - distance + beta))
    return [sum(values) / max(1, len(values)) for values in (same, different)], (len(same), len(different))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "beta": 1.5}, {"low": 0.3, "high": 0.6}])
def test_plain_loops_give_the_same(seed, options):
    values = given(seed=seed)
    expected, counts = plain(*values, **options)
    assert min(counts) > 0
    assert [term.item() for term in margin_loss(*values, **options)] == pytest.approx(expected, rel=1e-6)


def test_images_and_classes_are_kept_apart():
    embeddings, boxes, owner, image, _ = given()
    of_image = [[values[image == i] for values in (embeddings, boxes, owner)] for i in range(2)]
    parts = [margin_loss(*values) for values in of_image]
    whole = margin_loss(embeddings, boxes, owner, image)
    counts = [plain(*values, torch.zeros(len(values[0])), torch.zeros(len(values[0])))[1] for values in of_image]
    for term in range(2):
        mean = sum(float(part[term]) * count[term] for part, count in zip(parts, counts, strict=True))
        assert float(whole[term]) == pytest.approx(mean / sum(count[term] for count in counts))
    assert margin_loss(embeddings, boxes, owner, image, torch.arange(len(owner))).different == 0


def test_gradient_is_that_of_finite_differences():
    embeddings, boxes, owner, image, labels = given()
    assert torch.autograd.gradcheck(
        lambda values: tuple(margin_loss(values, boxes, owner, image, labels)), embeddings.requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30])
def test_equal_embeddings_have_a_finite_gradient(dtype, value):
    _, boxes, owner, image, labels = given()
    embeddings = torch.full((len(owner), 5), value, dtype=dtype, requires_grad=True)
    terms = margin_loss(embeddings, boxes, owner, image, labels)
    assert terms.same == 0
    assert terms.different.item() == pytest.approx(1.2)
    (terms.same + terms.different).backward()
    assert embeddings.grad.isfinite().all()


def test_nearly_equal_embeddings_of_different_objects_are_pushed_apart():
    embeddings = torch.tensor([[1.0, 0], [1 + 1e-6, 0]], requires_grad=True)
    margin_loss(embeddings, torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10]]), torch.tensor([0, 1])).different.backward()
    assert torch.allclose(embeddings.grad, torch.tensor([[1.0, 0], [-1, 0]]))


def test_without_pairs_there_is_a_graph():
    for count in (0, 1):
        embeddings = torch.randn(count, 5, requires_grad=True)
        terms = margin_loss(embeddings, torch.rand(count, 4), torch.zeros(count, dtype=torch.long))
        (terms.same + terms.different).backward()
        assert terms.same == terms.different == 0
        assert embeddings.grad.shape == (count, 5)


def test_the_number_of_pairs_is_capped():
    values = given()
    every = margin_loss(*values)
    assert margin_loss(*values, most_pairs=1000) == every
    some = [margin_loss(*values, most_pairs=3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2, 3)]
    assert some[0] == some[1]
    assert len(set(map(sum, some))) > 1
    embeddings = values[0].clone().requires_grad_()
    sum(margin_loss(embeddings, *values[1:], alpha=5.0, most_pairs=2, generator=torch.Generator().manual_seed(0))).backward()
    assert 2 <= int(embeddings.grad.any(1).sum()) <= 8, "two pairs of each of two images"


def test_options_are_checked():
    for options, message in (
        ({"weight": -1}, "weight must not be negative, got -1"),
        ({"alpha": 1.5}, "alpha must be at most beta, else equal embeddings have a loss"),
        ({"low": 0.9}, "0 <= low < high <= 1 is needed, got low 0.9 and high 0.9"),
        ({"most_pairs": 0}, "most_pairs must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"layers": -1}, "layers must not be negative, got -1"),
    ):
        with pytest.raises(WhyboxError, match=message):
            FeatureMargin(**options)
    assert FeatureMargin().due(3)
