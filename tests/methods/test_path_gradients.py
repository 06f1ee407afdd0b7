"""SmoothGrad and integrated gradients: on the linear toy, on a network that is not linear, and against autograd by hand."""

import pytest
import tiny_clip
import torch
from torch import nn
from toy import ToyModel, score

import whybox
from whybox.errors import UnknownNameError, WhyboxError
from whybox.methods._changed_images import follow
from whybox.methods.input_x_gradient import InputXGradient
from whybox.methods.integrated_gradients import IntegratedGradients
from whybox.methods.smoothgrad import SmoothGrad
from whybox.types import Candidates, Detections


@pytest.fixture
def toy():
    model = ToyModel()
    trace = model.trace(model.picture())
    return model, trace, model.at([(4, 5, 0), (0, 0, 1), (9, 13, 0)], trace)


class Curved(nn.Module):
    """A grid detector that is far from linear."""

    def __init__(self):
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.Tanh())
        self.head = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, images):
        return self.head(self.neck(images)).sigmoid()


def read(output):
    """A box for every cell."""
    height, width = output.shape[-2:]
    corners = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(-1) * 8.0
    return torch.cat([corners, corners + 8], 1), output[0].flatten(1).T


@pytest.fixture(scope="module")
def curved():
    torch.manual_seed(1)
    net = Curved()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)
    model = whybox.load(net, candidates=read, features=["neck"], size=(32, 48), score_threshold=0.0)
    trace = model.trace(torch.rand((3, 40, 60), generator=torch.Generator().manual_seed(2)))
    source = torch.tensor([7, 7, 16])
    labels = torch.tensor([0, 1, 1])
    scores = trace.candidates.scores[source, labels]
    return model, trace, Detections(trace.candidates.boxes[source], scores, labels, source)


@pytest.mark.parametrize("baseline", ["black", "mean", "blurred"])
def test_integrated_gradients_add_up_to_what_the_score_gains(curved, baseline):
    from whybox.ops.perturb import draw_fill

    model, trace, detections = curved
    (maps,) = IntegratedGradients(steps=64, baseline=baseline, sign="signed")(model, trace, detections, [score])
    start = model.trace(draw_fill(baseline, trace.image)).candidates.scores[detections.source, detections.labels]
    gained = detections.scores - start
    assert gained.abs().max() > 0.02
    torch.testing.assert_close(maps.values.sum((-2, -1)), gained, rtol=1e-2, atol=2e-4)


def test_fewer_steps_add_up_less_well(curved):
    model, trace, detections = curved
    start = model.trace(torch.zeros_like(trace.image)).candidates.scores[detections.source, detections.labels]
    missed = []
    for steps in (1, 4, 32):
        (maps,) = IntegratedGradients(steps=steps, sign="signed")(model, trace, detections, [score])
        missed.append(float((maps.values.sum((-2, -1)) - detections.scores + start).abs().max()))
    assert missed[0] > 4 * missed[1] > 16 * missed[2]


def test_integrated_gradients_of_a_linear_network_are_gradient_x_input(toy):
    model, trace, detections = toy
    (maps,) = IntegratedGradients(steps=3, sign="signed")(model, trace, detections, [score])
    (plain,) = InputXGradient(sign="signed")(model, trace, detections, [score])
    torch.testing.assert_close(maps.values, plain.values, rtol=1e-4, atol=1e-5)
    (grey,) = IntegratedGradients(steps=3, baseline="mean", sign="signed")(model, trace, detections, [score])
    image = trace.image.mean((-2, -1), keepdim=True).expand_as(trace.image)
    gained = detections.scores - model.trace(image).candidates.scores[detections.source, detections.labels]
    torch.testing.assert_close(grey.values.sum((-2, -1)), gained, rtol=1e-4, atol=1e-4)


def test_integrated_gradients_of_clip_against_autograd_by_hand():
    net, picture = tiny_clip.network(), tiny_clip.image()
    # The processor rounds to eight bits: two steps from black in even numbers stay exact.
    picture = (picture * 255).div(2, rounding_mode="floor") * 2 / 255
    maps = tiny_clip.explain(IntegratedGradients(steps=2, sign="signed"), picture=picture)
    ends = [tiny_clip.pixels(part * picture) for part in (0.0, 0.5, 1.0)]
    for values, text in zip(maps.values, tiny_clip.text_embeddings(*tiny_clip.TEXTS), strict=True):
        slopes = []
        for pixels in ends:
            leaf = pixels.clone().requires_grad_()
            seen = tiny_clip.unit(net.visual_projection(net.vision_model(leaf).pooler_output))
            slopes.append(torch.autograd.grad(seen[0] @ text, leaf)[0])
        mean = (slopes[0] + 2 * slopes[1] + slopes[2]) / 4
        torch.testing.assert_close(values, ((ends[2] - ends[0]) * mean)[0].sum(0), rtol=1e-3, atol=1e-5)


def test_integrated_gradients_of_clip_add_up():
    maps = tiny_clip.explain(IntegratedGradients(steps=64, sign="signed"))
    model = tiny_clip.model()
    before, after = (answer.scores[0] for answer in model.predict(torch.stack([0 * tiny_clip.image(), tiny_clip.image()])))
    torch.testing.assert_close(maps.values.sum((-2, -1)), after - before, rtol=2e-2, atol=2e-3)


def test_smoothgrad_of_a_linear_network(toy):
    model, trace, detections = toy
    (slope,) = SmoothGrad(samples=3, times_input=False, sign="signed")(model, trace, detections[0], [score])
    image = trace.image.clone()
    image[:, 18, 22] += 0.5
    moved = model.trace(image).candidates.scores[detections.source[0], 0] - detections.scores[0]
    torch.testing.assert_close(slope.values[0, 18, 22], moved / 0.5, rtol=1e-3, atol=1e-4)
    (maps,) = SmoothGrad(samples=80, noise=0.1, sign="signed")(model, trace, detections, [score])
    (plain,) = InputXGradient(sign="signed")(model, trace, detections, [score])
    # The noise has mean 0: its product with the gradient averages out.
    assert (maps.values - plain.values).abs().max() < 0.2 * plain.values.abs().max()


def test_smoothgrad_without_noise_is_gradient_x_input(curved):
    model, trace, detections = curved
    for sign in ("absolute", "positive", "signed"):
        (maps,) = SmoothGrad(samples=2, noise=0.0, sign=sign)(model, trace, detections, [score])
        (plain,) = InputXGradient(sign=sign)(model, trace, detections, [score])
        torch.testing.assert_close(maps.values, plain.values)


def test_smoothgrad_against_autograd_by_hand(curved):
    model, trace, detections = curved
    image = trace.image
    (maps,) = SmoothGrad(samples=4, noise=0.2, seed=6, sign="signed")(model, trace, detections[:1], [score])
    generator = torch.Generator().manual_seed(6)
    total = torch.zeros((32, 48))
    for _ in range(4):
        noisy = image + 0.2 * (image.max() - image.min()) * torch.randn(image.shape, generator=generator)
        leaf = model.preparation.canvas(noisy, trace.frame)[None].detach().requires_grad_()
        value = model.network(leaf).flatten(2)[0, 0, 7]
        total += (leaf * torch.autograd.grad(value, leaf)[0]).detach()[0].sum(0) / 4
    torch.testing.assert_close(maps.values[0], total, rtol=1e-4, atol=1e-6)


def test_same_seed_same_map_and_targets_share_the_images(curved):
    model, trace, detections = curved
    one, two = SmoothGrad(samples=3)(model, trace, detections, [score, lambda t: 2 * score(t)])
    (again,) = SmoothGrad(samples=3)(model, trace, detections, [score])
    assert torch.equal(one.values, again.values)
    torch.testing.assert_close(two.values, 2 * one.values)
    (other,) = SmoothGrad(samples=3, seed=1)(model, trace, detections, [score])
    assert not torch.allclose(one.values, other.values)
    assert one.routes == ("exact",) * 3


@pytest.mark.parametrize("method", [SmoothGrad(samples=2), IntegratedGradients(steps=2)])
def test_texts_are_explained_too_and_none_gives_no_map(method):
    maps = tiny_clip.explain(method)
    assert maps.values.shape == (2, 32, 32)
    assert maps.at_image().shape == (2, 32, 44)
    assert (maps.values >= 0).all()
    model, net = tiny_clip.model(), tiny_clip.network()
    trace = model.trace(tiny_clip.image())
    (none,) = method(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    assert none.at_image().shape == (0, 32, 44)
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_a_detection_keeps_its_row_where_rows_are_places():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    candidates = Candidates(boxes, torch.rand((2, 3)), torch.zeros(2, dtype=torch.long))
    moved = Candidates(boxes.flip(0), torch.rand((2, 3)), torch.zeros(2, dtype=torch.long))
    detections = Detections(boxes, torch.ones(2), torch.tensor([0, 2]), torch.tensor([0, 1]))
    assert follow(detections, candidates, moved) is detections


def test_a_detection_of_a_proposal_goes_to_the_nearest_box_of_its_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    detections = Detections(boxes, torch.ones(2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    before = Candidates(boxes, torch.rand((2, 2)), torch.zeros(2, dtype=torch.long))
    # One candidate more; and a box for every class, where the boxes of class 0 and 1 stand in opposite order.
    other = torch.tensor([[21.0, 0, 31, 10], [90, 90, 99, 99], [1, 0, 11, 10]])
    more = Candidates(other, torch.rand((3, 2)), torch.zeros(3, dtype=torch.long))
    assert follow(detections, before, more).source.tolist() == [2, 0]
    by_class = Candidates(torch.stack([boxes, boxes], 1), torch.rand((2, 2)), torch.zeros(2, dtype=torch.long))
    assert follow(detections, by_class, by_class).source.tolist() == [0, 1]
    crossed = Candidates(torch.stack([boxes.flip(0), boxes.flip(0)], 1), torch.rand((2, 2)), torch.zeros(2, dtype=torch.long))
    assert follow(detections, by_class, crossed).source.tolist() == [1, 0]
    with pytest.raises(WhyboxError, match="gives no candidates for a changed version of the image"):
        follow(detections, before, more[[]])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (SmoothGrad, {"samples": 0}, "samples must be at least 1, got 0"),
        (SmoothGrad, {"noise": -0.1}, "noise must not be negative, got -0.1"),
        (SmoothGrad, {"sign": "abs"}, "unknown sign 'abs'; did you mean absolute"),
        (IntegratedGradients, {"steps": 0}, "steps must be at least 1, got 0"),
        (IntegratedGradients, {"sign": "abs"}, "unknown sign 'abs'; did you mean absolute"),
        (IntegratedGradients, {"baseline": "blur"}, "unknown baseline 'blur'; did you mean blurred"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    with pytest.raises((WhyboxError, UnknownNameError), match=message):
        method(**options)
