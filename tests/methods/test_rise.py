"""RISE on black boxes whose answers are known, and on a small CLIP."""

import pytest
import tiny_clip
import torch

import whybox
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.methods.rise import Rise, rise_map
from whybox.model import Model
from whybox.types import Candidates, Detections, Trace

SIZE = (48, 64)
PLACE = (8, 16, 24, 36)
"""(top, left, bottom, right) of the patch that the seeing model looks at."""


class Seeing:
    """A black box with one answer: the mean brightness of a patch, and of the whole image."""

    name, gives, classes, layers = "seeing", frozenset({"candidates"}), ("patch", "all"), ()

    def __init__(self, fill=None):
        self.images = []
        if fill is not None:
            self.fill = fill

    def predict(self, images):
        self.images.append(images)
        top, left, bottom, right = PLACE
        scores = torch.stack([images[:, :, top:bottom, left:right].mean((1, 2, 3)), images.mean((1, 2, 3))], 1)
        box = torch.tensor([[0.0, 0, SIZE[1], SIZE[0]]])
        return [Candidates(box, one[None], torch.zeros(1, dtype=torch.long)) for one in scores]


def traced(model, image=None):
    image = torch.ones((3, *SIZE)) if image is None else image
    (candidates,) = model.predict(image[None])
    labels = torch.tensor([0, 1])
    detections = Detections(candidates.boxes.expand(2, 4), candidates.scores[0], labels, torch.zeros(2, dtype=torch.long))
    return Trace(image, Frame.same(SIZE), (), candidates, detections)


def explain(method, model=None, image=None, targets=(tiny_clip.SCORE,)):
    model = model or Seeing()
    trace = traced(model, image)
    model.images.clear()
    return method(model, trace, trace.detections, targets)


def test_the_map_is_highest_where_the_model_looks():
    (maps,) = explain(Rise(masks=600))
    top, left, bottom, right = PLACE
    place = torch.zeros(SIZE, dtype=torch.bool)
    place[top:bottom, left:right] = True
    looked, spread = maps.values
    assert place.flatten()[looked.argmax()]
    assert looked[place].mean() - looked[~place].mean() > 0.04
    assert abs(spread[place].mean() - spread[~place].mean()) < 0.01


def test_the_map_is_the_weighed_mean_of_the_masks():
    """On a white image over black the masked images are the masks."""
    model = Seeing()
    (maps,) = explain(Rise(masks=7, batch=3, probability=0.4), model)
    masks = torch.cat(model.images)[:, 0]
    assert [len(images) for images in model.images] == [3, 3, 1]
    top, left, bottom, right = PLACE
    total = torch.zeros(SIZE)
    for mask in masks:
        total += mask[top:bottom, left:right].mean() * mask
    torch.testing.assert_close(maps.values[0], total / 7 / 0.4)


def test_by_hand():
    masks = torch.tensor([[[1.0, 0]], [[1, 1]]])
    assert rise_map(torch.tensor([[3.0, 1], [0, 2]]), masks, 0.5).tolist() == [[[4, 1]], [[2, 2]]]


def test_what_is_masked_shows_the_color_that_the_network_sees_as_zero():
    model = Seeing(fill=(0.25, 0.5, 0.75))
    explain(Rise(masks=40, grid=4), model)
    masked = torch.cat(model.images)
    unseen = masked.permute(1, 0, 2, 3)[:, masked[:, 0] == masked[:, 0].min()]
    torch.testing.assert_close(unseen, torch.tensor([[0.25], [0.5], [0.75]]).expand_as(unseen))
    assert masked.max() == 1


def test_same_seed_same_map_whatever_the_batch():
    maps = [explain(Rise(masks=60, grid=4, batch=batch))[0].values for batch in (1, 7, 60)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-5, atol=1e-5)
    assert torch.equal(maps[1], explain(Rise(masks=60, grid=4, batch=7))[0].values)
    assert not torch.allclose(maps[0], explain(Rise(masks=60, grid=4, seed=1))[0].values)


def test_masks_are_shared_by_texts_and_targets():
    model = Seeing()
    once, twice = explain(Rise(masks=10, grid=4, batch=5), model, targets=(tiny_clip.SCORE, lambda t: 2 * tiny_clip.SCORE(t)))
    assert [len(images) for images in model.images] == [5, 5]
    torch.testing.assert_close(2 * once.values, twice.values)


def test_clip_answers_as_it_does_by_its_own_forward_pass():
    """The masked pictures, through the network itself; and what its crop cuts off is 0."""
    model, net = tiny_clip.model(), tiny_clip.network()
    trace = model.trace(tiny_clip.image())
    given = []

    class Watched:
        name, fill = model.name, model.fill

        def predict(self, images):
            given.append(images)
            return model.predict(images)

    (maps,) = Rise(masks=6, grid=4, batch=4)(Watched(), trace, trace.detections, [tiny_clip.SCORE])
    Rise(masks=6, grid=4, batch=4)(seeing := Seeing(), _white(trace), trace.detections, [tiny_clip.SCORE])
    white = torch.cat(seeing.images)[:, 0]
    total = torch.zeros((2, 32, 44))
    for picture, mask in zip(torch.cat(given), white, strict=True):
        with torch.no_grad():
            seen = tiny_clip.unit(net.visual_projection(net.vision_model(tiny_clip.pixels(picture)).pooler_output))
        total += (tiny_clip.text_embeddings(*tiny_clip.TEXTS) @ seen[0])[:, None, None] * mask
    expected = total / 6 / 0.5
    torch.testing.assert_close(maps.values[:, :, 6:38], expected[:, :, 6:38], rtol=1e-3, atol=1e-4)
    assert maps.values[:, :, [0, 1, 42, 43]].abs().max() == 0


def _white(trace):
    """The same trace of a white image of the same size."""
    (candidates,) = Seeing().predict(torch.ones_like(trace.image)[None])
    return Trace(torch.ones_like(trace.image), trace.frame, (), candidates, trace.detections)


def test_progress_is_called_and_not_recorded():
    calls = []
    (maps,) = explain(Rise(masks=10, grid=4, batch=4, progress=lambda done, total: calls.append((done, total))))
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert maps.options == {"masks": 10, "grid": 4, "probability": 0.5, "seed": 0, "batch": 4}


def test_no_text_costs_no_forward_pass():
    model = Seeing()
    trace = traced(model)
    model.images.clear()
    (maps,) = Rise()(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    assert model.images == []
    assert maps.at_image().shape == (0, *SIZE)


def test_detectors_are_sent_to_drise():
    model = Seeing()
    trace = traced(model)
    two = Trace(trace.image, trace.frame, (), trace.candidates[[0, 0]], trace.detections)
    with pytest.raises(
        WhyboxError, match=r"one prediction for the whole image, and seeing gives 2 candidates; for detectors use drise"
    ):
        Rise(masks=5)(model, two, two.detections, [tiny_clip.SCORE])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"probability": 1.0}, "probability must lie between 0 and 1, got 1.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(WhyboxError, match=message):
        Rise(**options)


class Convolutions(Model):
    """A whole-image classifier of another package that gives its answers alone: no transformer, no features."""

    name, kind, gives, layers, classes = "convolutions", "classifier", frozenset({"candidates"}), (), ("patch", "all")

    def trace(self, image):
        (candidates,) = self.predict(image[None])
        found = Detections(candidates.boxes.expand(2, 4), candidates.scores[0], torch.arange(2), torch.zeros(2).long())
        return Trace(image, Frame.same(SIZE), (), candidates, found)

    def predict(self, images):
        return Seeing.predict(Seeing(), images)

    def pullbacks(self, trace, detections, layer, route, *, frozen_allowed=True):
        return iter(())


def test_whatever_gives_a_score_for_the_image_is_explained():
    result = whybox.explain(
        Convolutions(), torch.ones(3, *SIZE), method="rise", target="score", masks=40, detections={"labels": [0]}
    )
    assert result.maps.values.shape == (1, *SIZE)
    assert "rise" in whybox.list_methods(Convolutions())


def test_detectors_are_sent_elsewhere():
    model = whybox.load("whybox/scenes")
    assert "rise" not in whybox.list_methods(model)
    words = "'rise' is for models that predict for the whole image, and whybox/scenes finds boxes; what works with it: .*drise"
    with pytest.raises(WhyboxError, match=words):
        whybox.explain(model, torch.rand(3, 64, 64), method="rise")
