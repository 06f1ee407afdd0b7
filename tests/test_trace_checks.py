"""What an outside family gives wrongly is told in one line, by whatever it is used."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import whybox
from whybox.errors import WeightsError, WhyboxError
from whybox.frame import Frame
from whybox.model import Model
from whybox.ops.maps import draw_maps
from whybox.pullback import DensePullback
from whybox.trace_checks import check_trace
from whybox.types import Candidates, Detections, FeatureMap, Trace

ROWS, CLASSES = 6, ("cat", "dog", "cow")


class Outside(Model):
    """A family of another package; `change` spoils its traces, `pulled` its pullbacks."""

    name, gives, layers = "outside", frozenset({"candidates", "features"}), ("map",)
    classes = CLASSES

    def __init__(self, change=lambda trace: trace, pulled=lambda pullbacks: pullbacks):
        self.network, self.change, self.pulled = nn.Conv2d(3, 1, 1), change, pulled

    def trace(self, image):
        boxes = torch.tensor([[0.0, 0, 8, 8]]).repeat(ROWS, 1)
        scores = torch.linspace(0.5, 0.9, ROWS * len(CLASSES)).view(ROWS, -1)
        candidates = Candidates(boxes, scores, torch.arange(ROWS) % 2)
        source = torch.arange(3)
        found = Detections(boxes[:3], scores[:3].amax(1), scores[:3].argmax(1), source)
        features = tuple(FeatureMap(torch.ones(2, 4, 4), 4.0, name) for name in ("fine", "coarse"))
        return self.change(Trace(image, Frame.same(tuple(image.shape[-2:])), features, candidates, found))

    def predict(self, images):
        return [self.trace(images[0]).candidates]

    def pullbacks(self, trace, detections, layer, route, *, frozen_allowed=True):
        def each():
            for row in range(len(detections)):
                values = torch.ones(2, 4, 4)
                narrowed = trace.rows(trace.candidates[detections.source[[row]]], detections[row])
                yield DensePullback(torch.tensor([row]), narrowed, "exact", 4.0, values, lambda v: torch.ones(len(v), 2, 4, 4))

        return self.pulled(each())


def found(**changes):
    return lambda trace: replace(trace, detections=replace(trace.detections, **changes))


def rows(**changes):
    return lambda trace: replace(trace, candidates=replace(trace.candidates, **changes))


IMAGE = torch.rand(3, 16, 16)
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda trace: None, r"trace\(\) must return a whybox.types.Trace, got NoneType"),
        (lambda trace: (trace,), r"trace\(\) must return a whybox.types.Trace, got tuple"),
        (lambda trace: replace(trace, detections=None), "detections must be whybox.Detections, got NoneType"),
        (lambda trace: replace(trace, candidates=None), "candidates must be whybox.types.Candidates, got NoneType"),
        (found(labels=torch.tensor([1, 2, 3])), r"detections.labels must lie in 0..2, got 1..3: a label is a column of"),
        (found(labels=torch.tensor([-1, 0, 0])), r"detections.labels must lie in 0..2, got -1..0"),
        (found(labels=torch.ones(3)), r"detections.labels must be a tensor of whole numbers, got torch.float32; use .long\(\)"),
        (found(source=torch.tensor([0, 1, 6])), r"detections.source must lie in -1..5, got 0..6: it is the row of"),
        (found(source=torch.tensor([-2, 1, 1])), r"detections.source must lie in -1..5, got -2..1"),
        (found(scores=torch.tensor([1, NAN, 1])), "scores or boxes that are NaN or infinite: its weights are finite"),
        (found(boxes=torch.full((3, 4), float("inf"))), "scores or boxes that are NaN or infinite"),
        (rows(scores=torch.full((6, 3), -float("inf"))), "scores or boxes that are NaN or infinite"),
        (rows(level=torch.tensor([0, 1, 2, 0, 1, 2])), r"candidates.level must lie in -1..1, got 0..2: it is the row's map"),
        (rows(level=torch.zeros(6)), "candidates.level must be a tensor of whole numbers, got torch.float32"),
        (rows(logits=torch.zeros(6, 2)), r"candidates.logits must be of the scores' shape \(6, 3\), got \(6, 2\)"),
        (rows(factors={"class": torch.zeros(5)}), r"candidates.factors\['class'\] must be \(6,\) or \(6, 3\), .* got \(5,\)"),
        (rows(raw={"x": torch.zeros(6, 4)}), r"candidates.raw\['x'\] must be \(6,\) or \(6, 3\), a row per candidate, got"),
        (rows(scores=torch.ones(6, 4)), "outside has 4 score columns and 3 class names"),
        (
            lambda trace: replace(trace, features=(FeatureMap(torch.ones(1, 2, 4, 4), 4.0, "map"),) * 2),
            r"features\[0\].values must be \(C,h,w\), got \(1, 2, 4, 4\); leave out the batch's axis",
        ),
    ],
)
def test_a_trace_whose_parts_do_not_fit_is_refused_in_one_line(change, message):
    for use in (whybox.trace, whybox.detect, whybox.explain, lambda model, image: model.trace(image)):
        with pytest.raises(WhyboxError, match=message) as caught:
            use(Outside(change), IMAGE)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("outside")


def test_what_is_right_passes():
    assert len(whybox.explain(Outside(), IMAGE).maps) == 3
    nothing = lambda trace: replace(trace, detections=Detections.empty(), candidates=trace.candidates[:0])
    assert len(whybox.explain(Outside(nothing), IMAGE).maps) == 0
    unknown = found(source=torch.full((3,), -1))
    assert len(whybox.detect(Outside(unknown), IMAGE)) == 3
    # A sum of finite half-precision numbers overflows, and is no infinity of theirs.
    large = rows(scores=torch.full((6, 3), 6e4, dtype=torch.half))
    assert len(whybox.detect(Outside(large), IMAGE)) == 3


def test_weights_that_are_not_finite_are_named():
    model = Outside(found(scores=torch.full((3,), NAN)))
    with torch.no_grad():
        model.network.bias.fill_(NAN)
    with pytest.raises(WeightsError, match="its weights hold NaN or infinity in bias"):
        model.trace(IMAGE)


def test_one_text_as_classes_is_refused():
    class Named(Outside):
        classes = "cat"

    for use in (whybox.load, lambda model: model.trace(IMAGE), lambda model: whybox.detect(model, IMAGE)):
        with pytest.raises(WhyboxError, match=r"outside: classes must be a tuple of names, got the text 'cat'; write \('cat',\)"):
            use(Named())


def test_a_family_that_answers_another_number_of_images_is_refused():
    assert len(Outside().predict(IMAGE[None])) == 1
    with pytest.raises(WhyboxError, match=r"one Candidates per image, 2 here, got 1 entries"):
        Outside().predict(torch.stack([IMAGE, IMAGE]))


@pytest.mark.parametrize(
    ("pulled", "message"),
    [
        (lambda all_of: None, r"pullbacks\(\) must yield Pullback objects, got NoneType"),
        (lambda all_of: [None, *all_of], r"pullbacks\(\) must yield Pullback objects, got None; leave out empty levels"),
        (lambda all_of: [(first := next(all_of)), first, *all_of], r"pullbacks\(\) gave detection 0 twice; rows are indices"),
        (lambda all_of: [replace(one, rows=one.rows + 1) for one in all_of], r"pullbacks\(\) gave row 3 of 3 detections"),
        (lambda all_of: [replace(one, rows=torch.arange(3)) for one in all_of], "a pullback has 3 rows and 1 detections in its"),
        (lambda all_of: list(all_of)[:2], "outside gave no pullback to the features for detection 2"),
    ],
)
def test_pullbacks_that_do_not_give_every_row_once_are_refused(pulled, message):
    model = Outside(pulled=pulled)
    trace = model.trace(IMAGE)
    draw = lambda gradient, *_: gradient.on_grid(gradient.gradient.sum(1))
    with pytest.raises(WhyboxError, match=message):
        draw_maps(model, trace, trace.detections, [lambda trace: trace.candidates.scores[:, 0] * 1.0], draw)


def test_the_check_costs_next_to_nothing():
    trace = Outside().trace(IMAGE)
    seconds = []
    for _ in range(50):
        started = time.perf_counter()
        check_trace("outside", CLASSES, None, trace)
        seconds.append(time.perf_counter() - started)
    # About .05 ms; the fastest of many, because other work may take the processor.
    assert min(seconds) < 5e-4
