"""SFF-CLIP's losses: by hand, against plain loops and torch's own, and their limits."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from whybox import registry
from whybox.errors import UnknownNameError, WhyboxError
from whybox.losses import RegionPhrase
from whybox.losses.region_phrase import contrastive_loss, of_form, pair_weights, region_phrase_loss
from whybox.training.distillation import make_loss as of_distill
from whybox.training.pass_losses import make_loss as of_train


def similarities(count=5, seed=0, low=0.05, high=0.95):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand((count, count), generator=generator, dtype=torch.float64)


def plain(similarity, weights, negatives=None):
    total = 0.0
    for t, row in enumerate(similarity.tolist()):
        inner = (1 - row[t]) ** 2 * math.log(row[t])
        for other, value in enumerate(row):
            if other != t and (negatives is None or negatives[t, other]):
                inner += value**2 * math.log(1 - value)
        total -= weights[t].item() * inner
    return total


def test_two_phrases_by_hand():
    similarity = torch.tensor([[0.5, 0.1], [0.2, 0.8]], dtype=torch.float64)
    # .25 log 2 + .01 log(1/.9), and .04 log(1/.8) + .04 log(1/.8)
    first, second = 0.25 * math.log(2) - 0.01 * math.log(0.9), -0.04 * math.log(0.8) - 0.04 * math.log(0.8)
    loss = region_phrase_loss(similarity, torch.tensor([2.0, 0.5]))
    assert loss.item() == pytest.approx(2 * first + 0.5 * second)
    mean = region_phrase_loss(similarity, torch.tensor([2.0, 0.5]), reduction="mean")
    assert mean.item() == pytest.approx(loss.item() / 2)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_plain_loops(seed):
    similarity, weights = similarities(seed=seed), similarities(seed=9)[0]
    negatives = similarities(seed=seed + 20) > 0.5
    assert region_phrase_loss(similarity, weights).item() == pytest.approx(plain(similarity, weights))
    assert region_phrase_loss(similarity, weights, negatives=negatives).item() == pytest.approx(
        plain(similarity, weights, negatives)
    )


@pytest.mark.parametrize("tangent", [None, 0.3])
def test_gradients(tangent):
    similarity, weights = similarities(4).requires_grad_(), similarities(4, 1)[0].requires_grad_()
    assert gradcheck(lambda s, w: region_phrase_loss(s, w, tangent=tangent), (similarity, weights))
    logits = (8 * similarities(4, 2)).requires_grad_()
    assert gradcheck(contrastive_loss, (logits, weights))


def test_negative_cosines_are_clamped_and_have_a_gradient_on_the_tangent():
    similarity = torch.tensor([[-0.5, 1.0], [-1.0, 0.5]], requires_grad=True)
    loss = region_phrase_loss(similarity, torch.ones(2))
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert gradient[0].tolist() == [0, 0]
    assert gradient[1, 1] < 0
    (gradient,) = torch.autograd.grad(region_phrase_loss(similarity, torch.ones(2), tangent=0.1), similarity)
    assert gradient[0, 0] == pytest.approx(-1 / 0.1, rel=1e-3)
    # Above the tangent's place both are the same.
    high = similarities(low=0.2).float()
    assert torch.equal(region_phrase_loss(high, torch.ones(5)), region_phrase_loss(high, torch.ones(5), tangent=0.1))


def test_no_phrases_give_zero_with_a_graph():
    rows = torch.ones((3, 4), requires_grad=True)
    for reduction in ("sum", "mean"):
        loss = region_phrase_loss(rows[:0] @ rows[:0].T, torch.zeros(0), reduction=reduction)
        assert loss.item() == 0
        loss.backward()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_weights_of_zero_leave_a_phrase_out():
    similarity = similarities(3)
    inner = region_phrase_loss(similarity, torch.tensor([1.0, 1.0, 0.0]))
    assert inner.item() == pytest.approx(plain(similarity, torch.tensor([1.0, 1.0, 0.0])))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(kind):
    similarity = similarities().to(kind)
    wide = region_phrase_loss(similarity.float(), torch.ones(5))
    logits = (8 * similarities(seed=3)).to(kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss = region_phrase_loss(similarity, torch.ones(5, dtype=kind))
        contrastive = contrastive_loss(logits, pair_weights(logits))
    assert loss.dtype == contrastive.dtype == torch.float32
    assert torch.equal(loss, wide)
    assert torch.equal(contrastive, contrastive_loss(logits.float(), pair_weights(logits.float())))
    # 1 - 1e-6 is 1 in half precision, whose logarithm of the rest is infinite.
    assert region_phrase_loss(torch.ones((2, 2), dtype=kind), torch.ones(2)).isfinite()


def test_the_contrastive_loss_is_that_of_clip():
    logits = 8 * similarities(6)
    target = torch.arange(6)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    assert contrastive_loss(logits).item() == pytest.approx(expected.item())
    assert contrastive_loss(logits, torch.full((6,), 0.5)).item() == pytest.approx(expected.item() / 2)


def test_pair_weights_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True)
    # p of the first pair is 3/4 in its row and its column; of the second 1/2.
    weights = pair_weights(logits)
    assert weights.tolist() == pytest.approx([0.4 * 0.75 + 0.6, 0.4 * 0.5 + 0.6])
    assert not weights.requires_grad
    assert pair_weights(logits, 0.0).tolist() == [1.0, 1.0]


def test_forms():
    assert of_form("sff") == RegionPhrase()
    assert of_form("earlier", maps="gradcam") == RegionPhrase(maps="gradcam", presence="constant", momentum=False)
    with pytest.raises(UnknownNameError, match="form"):
        of_form("late")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": "odam"}, "maps"),
        ({"presence": "min"}, "presence"),
        ({"reduction": "none"}, "reduction"),
        ({"repeats": "twice"}, "repeats"),
        ({"weight": -1.0}, "weight must not be negative"),
        ({"gamma": 1.5}, "gamma must lie in 0..1"),
        ({"clamp": 0.5}, "clamp must lie between 0 and 0.5"),
        ({"tangent": 0.0}, "tangent must lie between clamp"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(WhyboxError, match=message):
        RegionPhrase(**options)


def test_shapes_are_checked():
    with pytest.raises(WhyboxError, match=r"expected similarities \(T,T\) and weights \(T,\), got \(2, 3\) and \(2,\)"):
        region_phrase_loss(torch.zeros((2, 3)), torch.zeros(2))
    with pytest.raises(WhyboxError, match=r"expected logits \(B,B\) and weights \(B,\)"):
        contrastive_loss(torch.zeros((2, 2)), torch.zeros(3))


@pytest.mark.parametrize(("make", "here"), [(of_train, "whybox train"), (of_distill, "whybox distill")])
def test_other_commands_refuse_it(make, here):
    assert registry.losses()["region_phrase"] is RegionPhrase
    words = f"loss 'region_phrase' needs captions: it is a loss of `whybox finetune-clip`, not of `{here}`"
    with pytest.raises(WhyboxError, match=words):
        make("region_phrase")
